"""The backend of Ray: a worker is an actor. Nothing else in milr imports Ray.

The cluster is that of RAY_ADDRESS, else one is started on this machine for the run. Commands are calls of the actor;
messages come from one of its generators, which Ray stops after a few unread ones. Actors end with
the program that started them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator
from importlib import import_module
from queue import Queue
from threading import Thread
from typing import Any

from milr.errors import UsageError
from milr.workers.messages import Command, Died, Failed, Message, Spec, Stop

_AHEAD = 4  # messages of a worker that wait to be read


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

    def __init__(self, spec: Spec) -> None:
        """Prepare; `messages` begins to load."""
        from milr.workers.worker import Worker

        self._queue: Queue[Message | None] = Queue(_AHEAD)
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
            self._worker.run()
        except BaseException as error:
            self._queue.put(Failed(f"{type(error).__name__}: {error}", 1))
        self._queue.put(None)


class Actor:
    """An actor, as the coordinator sees it. Implements `milr.workers.backend.Handle`."""

    def __init__(self, ray: Any, actor: Any, number: int) -> None:
        """Begin to receive."""
        self.where = f"worker {number + 1} (Ray actor)"
        self._ray, self._actor = ray, actor
        how = {"num_returns": "streaming", "_generator_backpressure_num_objects": _AHEAD}
        self.stream = actor.messages.options(**how).remote()
        self.over = self._lost = False

    def send(self, command: Command) -> None:
        """See `Handle`."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._actor.obey.remote(command)

    def kill(self) -> None:
        """End the actor at once."""
        self.over = True
        with contextlib.suppress(Exception):
            self._ray.kill(self._actor, no_restart=True)

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

    def _bury(self, reason: str, *, blameless: bool) -> Died:
        self.kill()  # if it is alive, its messages are lost, and it would keep the place of the next one
        return Died(f"{self.where} died: {reason}", blameless)


def _is_of_node(error: Exception) -> bool:
    """Return true if the machine went, or Ray took it away: no task can be at fault."""
    said = str(error).lower()
    return bool(getattr(error, "preempted", False)) or "its node has died" in said or "actor's node was" in said


class Actors:
    """Actors on a cluster. Implements `milr.workers.backend.Backend`."""

    def __init__(self, count: int | None, gpus: float, threads: int) -> None:
        """Connect to the cluster, or start one here.

        Args:
            count: Number of workers; None takes as many as the cluster has room for.
            gpus: GPUs of each worker, also a part of one; 0 for a CPU.
            threads: Threads of each worker's networks.

        Raises:
            UsageError: Ray is not installed, no cluster answers, or it has no room for one worker.
        """
        self._ray = ray = require_ray()
        self._threads, self._gpus = threads, gpus
        self._own = not ray.is_initialized()
        if self._own:
            self._connect()
        has = ray.cluster_resources()
        cpus, cards = has.get("CPU", 0), has.get("GPU", 0)
        room = int(min(cpus // self._threads, cards / gpus if gpus else float("inf")) + 1e-9)
        if not room:
            self.close()
            raise UsageError(
                f"the Ray cluster has {cpus:g} CPUs and {cards:g} GPUs, and a worker needs {self._threads} and "
                f"{gpus:g}: give --gpus-per-worker less, or start nodes with more"
            )
        self.count = count or room
        self._all: list[Actor] = []
        self._ready: deque[Actor] = deque()

    def start(self, spec: Spec, number: int) -> Actor:
        """See `Backend`."""
        variables = {"OMP_NUM_THREADS": str(self._threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        options = {
            "num_cpus": self._threads,
            "num_gpus": self._gpus,
            "max_restarts": 0,
            "max_concurrency": 2,  # messages, and one command after another
            "runtime_env": {"env_vars": variables},
        }
        made = Actor(self._ray, self._ray.remote(Body).options(**options).remote(spec), number)
        self._all = [one for one in self._all if not one.over]
        self._all.append(made)
        return made

    def receive(self, seconds: float) -> list[tuple[Actor, Message]]:
        """See `Backend`: one message of each actor that has sent any."""
        streams = {one.stream: one for one in self._all if not one.over}
        if not streams:
            return []
        ready, _ = self._ray.wait(list(streams), num_returns=1, timeout=seconds, fetch_local=False)
        more, _ = self._ray.wait(list(streams), num_returns=len(streams), timeout=0, fetch_local=False)
        found = dict.fromkeys([*ready, *more])
        messages = [(streams[one], streams[one].read()) for one in found]
        return [(actor, message) for actor, message in messages if message is not None]

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
