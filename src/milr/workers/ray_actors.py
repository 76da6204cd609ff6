"""The backend of Ray: a worker is an actor. Nothing else in milr imports Ray.

The cluster is that of RAY_ADDRESS, else one is started on this machine for the run. Commands are calls of the actor;
messages come from one of its generators, which Ray stops after a few unread ones. Actors end with
the program that started them. A worker with reward workers of its own is in a placement group with them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from queue import Queue
from threading import Event, Thread
from typing import Any

from milr.errors import UsageError
from milr.workers.groups import Group, RewardSpec, count_room
from milr.workers.messages import Command, Died, Failed, Message, Spec, Stop

log = logging.getLogger("milr.workers")
_AHEAD = 4  # messages of a worker that wait to be read
_PATIENCE = 30.0  # seconds without a place in the cluster, after which the user is told


def require_ray() -> Any:
    """Return the module.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return import_module("ray")
    except ImportError as error:
        raise UsageError('--workers ray needs Ray, which is not installed: type pip install "milr[ray]"') from error


class Body:
    """The code of an actor: see `milr.workers.worker.Worker`."""

    def __init__(self, spec: Spec, *served: tuple[str, str]) -> None:
        """Prepare; `messages` begins to load.

        Args:
            spec: What to load.
            served: From `Scorer.serve` of each reward worker: its URL, or "" and its error.
        """
        from milr.workers.reward_server import join_urls
        from milr.workers.worker import Worker

        self._queue: Queue[Message | None] = Queue(_AHEAD)
        self._error = next((error for _, error in served if error), None)
        if served:
            spec = replace(spec, names=replace(spec.names, reward=join_urls([url for url, _ in served])))
        self._worker = Worker(spec, self._queue.put)

    def obey(self, command: Command) -> None:
        """Take a command, in the actor's second thread."""
        self._worker.take_command(command)

    def ping(self) -> None:
        """Return: the actor is alive."""

    def messages(self) -> Iterator[Message]:
        """Yield the worker's messages."""
        Thread(target=self._run, daemon=True).start()
        while (message := self._queue.get()) is not None:
            yield message

    def _run(self) -> None:
        try:
            if self._error is None:
                self._worker.run()
            else:
                self._queue.put(Failed(self._error, UsageError.exit_code))
        except BaseException as error:
            self._queue.put(Failed(f"{type(error).__name__}: {error}", 1))
        self._queue.put(None)


class Scorer:
    """The code of a reward worker's actor: a reward server, in a process that has the actor's GPUs."""

    def __init__(self, spec: RewardSpec, number: int) -> None:
        """Prepare; `serve` starts it."""
        self._spec, self._number, self._began = spec, number, Event()
        self._servers: Any = None

    def serve(self) -> tuple[str, str]:
        """Start the server; return its URL and "", or "" and its error."""
        from milr.workers.reward_server import RewardServers

        spec = self._spec
        try:
            self._servers = RewardServers(spec.reward, 1, spec.command, spec.options, first=self._number)
        except UsageError as error:
            return "", str(error)
        self._began.set()
        return self._servers.urls[0], ""

    def watch(self) -> str:
        """Wait until the server has ended; say how."""
        self._began.wait()
        how: str = self._servers.wait()
        return how


class Actor:
    """An actor, as the coordinator sees it. Implements `milr.workers.backend.Handle`."""

    def __init__(self, ray: Any, actor: Any, number: int, scorers: list[Any], group: Any) -> None:
        """Begin to receive.

        Args:
            ray: The module.
            actor: Of `Body`.
            number: Of the worker.
            scorers: Its reward workers' actors.
            group: The placement group of all; None without reward workers.
        """
        self.where = f"worker {number + 1} (Ray actor)"
        self._ray, self._actor, self._scorers, self._group = ray, actor, scorers, group
        how = {"num_returns": "streaming", "_generator_backpressure_num_objects": _AHEAD}
        self.stream = actor.messages.options(**how).remote()
        self.placed = actor.ping.remote()
        """Is there as soon as the cluster has a place for the actor."""
        self.watches = [one.watch.remote() for one in scorers]
        """Are there when a reward worker has ended."""
        self.over = self._lost = False

    def send(self, command: Command) -> None:
        """See `Handle`."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._actor.obey.remote(command)

    def kill(self) -> None:
        """End the actor at once."""
        self.over = True
        for one in (self._actor, *self._scorers):
            with contextlib.suppress(Exception):
                self._ray.kill(one, no_restart=True)
        if self._group is not None:
            with contextlib.suppress(Exception):
                self._ray.util.remove_placement_group(self._group)

    def read(self) -> Message | None:
        """Return the next message, which is there; None if the connection was lost, and the reason is still unknown."""
        errors = self._ray.exceptions
        try:
            message: Message | None = self._ray.get(self.stream if self._lost else next(self.stream))
        except StopIteration:
            self.over = True
            return Died(f"{self.where} ended")
        except errors.ActorUnavailableError:
            if self._lost:
                return self._bury("the connection to it was lost", blameless=True)
            # Ray says by this call, once it knows, if the process died, or its node; meanwhile the others go on
            self._lost, self.stream = True, self._actor.ping.options(max_task_retries=-1).remote()
            return None
        except errors.RayError as error:
            return self._bury(" ".join(str(error).split())[:300], blameless=_is_of_node(error))
        return self._bury("the connection to it was lost", blameless=True) if self._lost else message

    def end_with(self, watch: Any) -> Died:
        """End, because a reward worker has ended: a new worker gets a new one."""
        try:
            return self._bury(f"its reward worker {self._ray.get(watch)}", blameless=False)
        except self._ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[:300]
            return self._bury(f"its reward worker died: {said}", blameless=_is_of_node(error))

    def _bury(self, reason: str, *, blameless: bool) -> Died:
        self.kill()  # if it is alive, its messages are lost, and it would keep the place of the next one
        return Died(f"{self.where} died: {reason}", blameless)


def _is_of_node(error: Exception) -> bool:
    """Return true if the machine went, or Ray took it away: no task can be at fault."""
    said = str(error).lower()
    return bool(getattr(error, "preempted", False)) or "its node has died" in said or "actor's node was" in said


class Actors:
    """Actors on a cluster. Implements `milr.workers.backend.Backend`."""

    def __init__(self, count: int | None, gpus: float, threads: int, rewards: RewardSpec | None = None) -> None:
        """Connect to the cluster, or start one here.

        Args:
            count: Number of workers; None takes as many as the cluster has room for.
            gpus: GPUs of each worker, also a part of one; 0 for a CPU.
            threads: Threads of each worker's networks.
            rewards: Reward workers of each worker; None scores in the worker.

        Raises:
            UsageError: Ray is not installed, no cluster answers, or none of its nodes has room for a worker.
        """
        self._ray = ray = require_ray()
        self._rewards = rewards
        self._group = Group(threads, gpus)
        if rewards is not None:
            self._group = replace(self._group, rewards=rewards.count, reward_gpus=rewards.gpus)
        self._own = not ray.is_initialized()
        if self._own:
            self._connect()
        room = count_room(self._nodes(), self._group)
        if not room:
            nodes = sorted({f"{one.get('CPU', 0):g} CPUs and {one.get('GPU', 0):g} GPUs" for one in self._nodes()})
            self.close()
            less = " or --gpus-per-reward-worker" if rewards else ""
            raise UsageError(
                f"no node of the Ray cluster has room for a worker, which needs {self._group}; the nodes have "
                f"{', or '.join(nodes)}: give --gpus-per-worker{less} less, or start nodes with more"
            )
        if count is not None and count > room:
            log.warning("the Ray cluster has room for %d of %d workers: the others begin when it has more", room, count)
        self.count = count or room
        self._all: list[Actor] = []
        self._waiting: dict[Actor, float] = {}  # not placed yet -> time to say so

    def _nodes(self) -> list[Mapping[str, float]]:
        return [one["Resources"] for one in self._ray.nodes() if one["Alive"]]

    def start(self, spec: Spec, number: int) -> Actor:
        """See `Backend`."""
        group, rewards = self._group, self._rewards
        variables = {"OMP_NUM_THREADS": str(group.cpus), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        options: dict[str, Any] = {
            "max_restarts": 0,
            "max_concurrency": 2,  # messages, and one command after another
            "runtime_env": {"env_vars": variables},
        }
        place, scorers = None, list[Any]()
        if rewards is not None:
            util, bundles = import_module("ray.util"), group.bundles
            place = util.placement_group(bundles, strategy="STRICT_PACK")
            make = import_module("ray.util.scheduling_strategies").PlacementGroupSchedulingStrategy
            for which in range(rewards.count):
                there = make(place, placement_group_bundle_index=min(which + 1, len(bundles) - 1))
                own = {"num_cpus": 1, "num_gpus": rewards.gpus, "scheduling_strategy": there}
                made = self._ray.remote(Scorer).options(**options, **own)
                scorers.append(made.remote(rewards, number * rewards.count + which))
            options["scheduling_strategy"] = make(place, placement_group_bundle_index=0)
        options.update(num_cpus=group.cpus, num_gpus=group.gpus)
        body = self._ray.remote(Body).options(**options).remote(spec, *[one.serve.remote() for one in scorers])
        actor = Actor(self._ray, body, number, scorers, place)
        self._all = [one for one in self._all if not one.over]
        self._all.append(actor)
        self._waiting[actor] = time.monotonic() + _PATIENCE
        return actor

    def receive(self, seconds: float) -> list[tuple[Actor, Message]]:
        """See `Backend`: one message of each actor that has sent any."""
        self._say_waiting()
        streams = {one.stream: one for one in self._all if not one.over}
        watches = {watch: one for one in self._all if not one.over for watch in one.watches}
        if not streams:
            return []
        all_of_them = [*streams, *watches]
        ready, _ = self._ray.wait(all_of_them, num_returns=1, timeout=seconds, fetch_local=False)
        more, _ = self._ray.wait(all_of_them, num_returns=len(all_of_them), timeout=0, fetch_local=False)
        received: list[tuple[Actor, Message]] = []
        for one in dict.fromkeys([*ready, *more]):
            actor = streams.get(one) or watches[one]
            message = None if actor.over else actor.read() if one in streams else actor.end_with(one)
            if message is not None:
                received.append((actor, message))
        return received

    def _say_waiting(self) -> None:
        """Tell the user of workers for which the cluster has had no place for long."""
        now = time.monotonic()
        for actor in [one for one, at in self._waiting.items() if now >= at or one.over]:
            del self._waiting[actor]
            if not actor.over and not self._ray.wait([actor.placed], timeout=0, fetch_local=False)[0]:
                free = self._ray.available_resources()
                log.warning(
                    "%s waits for room: it needs %s, and %g CPUs and %g GPUs are free in all: see ray status",
                    actor.where,
                    self._group,
                    free.get("CPU", 0),
                    free.get("GPU", 0),
                )

    def close(self) -> None:
        """See `Backend`; end the cluster too, if it was started for the run."""
        for one in getattr(self, "_all", []):
            one.send(Stop())
            one.kill()
        self._all = []
        if self._own and self._ray.is_initialized():
            self._ray.shutdown()

    def _connect(self) -> None:
        address = os.environ.get("RAY_ADDRESS") or "local"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default
        local = {"include_dashboard": False} if address == "local" else {}
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"no Ray cluster at {address} ({str(error).splitlines()[0][:200]}): see ray status"
            ) from error
