"""`--workers`: the number and kind of workers, and the resources of each."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from milr.errors import UsageError
from milr.models.devices import Placement
from milr.models.hub import HubAccess
from milr.parts import Names, Parts, load_parts
from milr.rewards import check_installed, locate_reward, needs_model
from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.settings import VlmSettings
from milr.settings import RunSettings
from milr.workers.backend import Backend
from milr.workers.groups import RewardSpec
from milr.workers.messages import Spec
from milr.workers.processes import Processes
from milr.workers.ray_actors import Actors, require_ray
from milr.workers.reward_server import RewardServers
from milr.workers.standins import TeamParts
from milr.workers.team import Team

_FORM = "give a number of processes, for instance 4, or ray, or ray:4"


@dataclass(frozen=True)
class WorkerChoice:
    """Workers of a run."""

    count: int | None
    """Number of workers; None, for Ray only, takes as many as the cluster has room for."""
    ray: bool = False
    """True for actors on a Ray cluster, false for processes on this machine."""
    gpus: float | None = None
    """GPUs of each worker; None is one if the model is on a CUDA device."""
    loader: str | None = None
    """See `milr.workers.messages.Spec`."""

    def gpus_on(self, device: str) -> float:
        """Return the GPUs of each worker, for a model on that device.

        Raises:
            UsageError: GPUs are requested for another device, or processes share one.
        """
        on_cuda = device.partition(":")[0] == "cuda"
        gpus = float(on_cuda) if self.gpus is None else self.gpus
        if gpus and not on_cuda:
            raise UsageError(f"--gpus-per-worker {gpus:g} with --device {device}: give --device cuda")
        if gpus != int(gpus) and not self.ray:
            raise UsageError(f"--gpus-per-worker {gpus:g}: processes have whole GPUs; --workers ray shares them")
        _check_part(gpus, "--gpus-per-worker")
        return gpus


@dataclass(frozen=True)
class RewardChoice:
    """Servers of a run's reward: `milr.workers.reward_server.RewardServers`."""

    count: int
    """Number of servers; with workers on a Ray cluster, of each worker."""
    command: str | None = None
    gpus: float | None = None
    """GPUs of each on a Ray cluster; None is one if the reward computes on one."""

    def spec(self, reward: str, placement: Placement) -> RewardSpec:
        """Return the reward workers of each worker on a Ray cluster.

        Raises:
            UsageError: Another number of GPUs than a part of one or whole ones, or GPUs for another device.
        """
        on_cuda = placement.device.partition(":")[0] == "cuda"
        gpus = float(on_cuda and "cuda" in locate_reward(reward, placement)) if self.gpus is None else self.gpus
        _check_part(gpus, "--gpus-per-reward-worker")
        if gpus and not on_cuda:
            raise UsageError(f"--gpus-per-reward-worker {gpus:g} with --device {placement.device}: give --device cuda")
        own = placement if gpus else replace(placement, device="cpu")
        return RewardSpec(reward, self.count, self.command, _reward_options(own), gpus)


def read_reward_workers(count: int | None, command: str | None, gpus: float | None = None) -> RewardChoice | None:
    """Return the reward servers that a user asked for; None for none.

    Raises:
        UsageError: A command cannot be split into words, or GPUs are given without reward workers.
    """
    if count is None and command is None:
        if gpus is not None:
            raise UsageError(f"--gpus-per-reward-worker {gpus:g} is for reward workers: give --reward-workers too")
        return None
    try:
        words = shlex.split(command or "")
    except ValueError as error:
        raise UsageError(f"--reward-command {command}: {error}") from None
    if command is not None and not words:
        raise UsageError("--reward-command is empty: give for instance 'other/bin/milr serve-reward geneval'")
    return RewardChoice(count or 1, command, gpus)


def _check_part(gpus: float, option: str) -> None:
    """Refuse 1.5 GPUs: a process has a part of one, or whole ones."""
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(f"{option} {gpus:g}: give a part of a GPU, for instance 0.5, or whole ones")


def read_workers(text: str | None, gpus: float | None = None) -> WorkerChoice | None:
    """Return the requested workers; None for none.

    Raises:
        UsageError: The text is neither a number nor "ray", or Ray is not installed.
    """
    if text is None:
        if gpus is not None:
            raise UsageError(f"--gpus-per-worker {gpus:g} is for workers: give --workers too")
        return None
    found = re.fullmatch(r"(ray)(?::([1-9][0-9]{0,3}))?|([1-9][0-9]{0,3})", text.strip())
    if found is None:
        raise UsageError(f"--workers {text}: {_FORM}")
    number = found[2] or found[3]
    if found[1]:
        require_ray()
    return WorkerChoice(None if number is None else int(number), bool(found[1]), gpus)


def load_team(
    names: Names,
    placement: Placement,
    choice: WorkerChoice,
    vlm: VlmClient | None = None,
    hub: HubAccess | None = None,
    *,
    rewards: RewardChoice | None = None,
    deterministic: bool = True,
    settings: Mapping[str, object] | None = None,
) -> TeamParts:
    """Start workers, let them load a run's parts, and return these parts for a `milr.jobs.Job`.

    Args:
        names: Names of the parts.
        placement: Device and dtype in each worker.
        choice: The workers.
        vlm: Client of VLM judges; each worker has its own with the same settings.
        hub: Consent to downloads; a worker cannot ask, so its files must be here.
        rewards: Reward workers of each worker, on a Ray cluster alone; None scores in the worker.
        deterministic: As in `milr.load_model`.
        settings: Settings that a user gives; the batch size is each worker's.

    Raises:
        UsageError: The choice does not fit, or VLM judges have a budget, which workers cannot share.
        MilrError: A worker cannot load a part.
    """
    asked = VlmSettings() if vlm is None else vlm.settings
    if asked.budget is not None:
        raise UsageError(
            f"--vlm-budget {asked.budget} is counted in one process: leave --workers out, or limit the run by "
            "--total-reward-calls"
        )
    places = RunSettings.model_validate(
        {name: value for name, value in (settings or {}).items() if name == "batch_size"}
    ).batch_size
    gpus = choice.gpus_on(placement.device)
    threads = _count_threads(choice)
    spec = Spec(
        names,
        replace(placement, device=placement.device.partition(":")[0]) if gpus else placement,
        places,
        asked,
        True if hub is None else hub.offline,
        deterministic,
        threads,
        choice.loader,
    )
    served = None if rewards is None else rewards.spec(_check_served(names.reward), placement)
    index = placement.device.partition(":")[2]
    team = Team(spec, make_backend(choice, gpus, threads, served, int(index or 0)))
    return TeamParts.of(team, names, team.ready)


def load_chosen(
    choice: WorkerChoice | None,
    names: Names,
    placement: Placement,
    vlm: VlmClient | None = None,
    hub: HubAccess | None = None,
    *,
    rewards: RewardChoice | None = None,
    deterministic: bool = True,
    settings: Mapping[str, object] | None = None,
) -> Parts:
    """Load a run's parts in workers, or here if none are chosen: see `load_team` and `milr.parts.load_parts`.

    Args:
        choice: The workers; None for none.
        names: As for `load_team`.
        placement: The same.
        vlm: The same.
        hub: The same.
        rewards: Servers of the reward that are started for the run; None for none.
        deterministic: The same.
        settings: The same.

    Raises:
        UsageError: As `load_team`; the reward cannot be served.
    """
    on_ray = choice is not None and choice.ray
    if rewards is not None and rewards.gpus is not None and not on_ray:
        raise UsageError(
            f"--gpus-per-reward-worker {rewards.gpus:g} is for --workers ray; on this machine give --reward-command "
            f"'milr serve-reward {names.reward} --device cuda:{{n}}'"
        )
    servers = None if rewards is None or on_ray else start_servers(names.reward, placement, rewards)
    try:
        served = names if servers is None else replace(names, reward=servers.name)
        if choice is None:
            parts = load_parts(served, placement, vlm, hub, deterministic=deterministic)
        else:
            groups = rewards if choice.ray else None
            parts = load_team(
                served, placement, choice, vlm, hub, rewards=groups, deterministic=deterministic, settings=settings
            )
    except BaseException:
        if servers is not None:
            servers.close()
        raise
    return parts if servers is None else replace(parts, ends=servers.close)


def start_servers(reward: str, placement: Placement, choice: RewardChoice) -> RewardServers:
    """Start servers of a reward on this machine, and wait until they have loaded it.

    Raises:
        UsageError: The reward asks the model that draws, or a server does not start.
    """
    return RewardServers(_check_served(reward), choice.count, choice.command, _reward_options(placement))


def _check_served(reward: str) -> str:
    """Return the name of a reward that servers may score by."""
    if needs_model(reward):
        raise UsageError(f"the reward {reward!r} asks the model that draws: leave --reward-workers out")
    check_installed("http://localhost")
    return reward


def _reward_options(placement: Placement) -> list[str]:
    return ["--device", placement.device, *(["--dtype", placement.dtype] if placement.dtype else [])]


def make_backend(
    choice: WorkerChoice, gpus: float, threads: int, rewards: RewardSpec | None = None, first: int = 0
) -> Backend:
    """Return the backend; each process gets its own GPUs, from the first of these on."""
    if choice.ray:
        return Actors(choice.count, gpus, threads, rewards)
    assert choice.count is not None, "read_workers asks for a number"
    cards = _visible_cards(choice.count, int(gpus), first) if gpus else None
    each: list[dict[str, str]] = []
    for number in range(choice.count):
        variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        if cards is not None:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(cards[number * int(gpus) : (number + 1) * int(gpus)])
        each.append(variables)
    return Processes(choice.count, each)


def _visible_cards(count: int, gpus: int, first: int) -> list[str]:
    """Return the names of this process's GPUs from the first of these on, enough for all workers."""
    import torch

    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = told.split(",") if told else [str(number) for number in range(torch.cuda.device_count())]
    cards = cards[first:]
    if len(cards) < count * gpus:
        here = f"{len(cards)} are here" + (f" from cuda:{first} on" if first else "")
        raise UsageError(f"--workers {count} with {gpus} GPUs each needs {count * gpus}, and {here}: give fewer")
    return cards


def _count_threads(choice: WorkerChoice) -> int:
    """Return each worker's threads: as the environment says, else one on Ray, an equal share of the cores here."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told):
        return int(told)
    return 1 if choice.ray else max(1, len(os.sched_getaffinity(0)) // (choice.count or 1))
