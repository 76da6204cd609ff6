"""Groups of a cluster's resources: a worker and the reward workers that score for it.

A group is on one node. If it asks for one GPU or less, all of it is one bundle, so that model and reward share a GPU;
else each of its processes has a bundle with GPUs of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_LITTLE = 1e-6  # Ray counts GPUs in ten-thousandths


@dataclass(frozen=True)
class RewardSpec:
    """The reward workers of each worker."""

    reward: str
    count: int
    command: str | None
    """Words that start one, see `milr.workers.reward_server.RewardServers`; None for milr's own."""
    options: Sequence[str]
    gpus: float
    """GPUs of each; less than 1, or a whole number."""


@dataclass(frozen=True)
class Group:
    """The resources of a worker, and of its reward workers, with a CPU each."""

    cpus: int
    gpus: float
    rewards: int = 0
    reward_gpus: float = 0.0

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Return the bundles; process n of the group, the worker first, is in bundle n, or in the only one."""
        total = self.gpus + self.rewards * self.reward_gpus
        if not self.rewards or total <= 1 + _LITTLE:
            return [_bundle(self.cpus + self.rewards, total)]
        return [_bundle(self.cpus, self.gpus), *[_bundle(1, self.reward_gpus)] * self.rewards]

    def __str__(self) -> str:
        """Return the group in words."""
        own = f"{self.cpus} CPUs and {self.gpus:g} GPUs"
        if not self.rewards:
            return own
        each = "reward worker" if self.rewards == 1 else f"each of {self.rewards} reward workers"
        return f"{own}, and for its {each} 1 CPU and {self.reward_gpus:g} GPUs, all on one node"


def _bundle(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": cpus, "GPU": round(gpus, 4)} if gpus else {"CPU": cpus}


def count_room(nodes: Iterable[Mapping[str, float]], group: Group) -> int:
    """Return how many groups fit on empty nodes.

    Args:
        nodes: Each node's "CPU" and "GPU".
        group: A group; a part of a GPU is on one GPU, which sums over GPUs or nodes would not show.
    """
    return sum(_count_on(node, group.bundles) for node in nodes)


def _count_on(node: Mapping[str, float], bundles: Sequence[Mapping[str, float]]) -> int:
    cpus, free = node.get("CPU", 0.0), [1.0] * int(node.get("GPU", 0))
    needed, many = sum(one["CPU"] for one in bundles), 0
    while cpus + _LITTLE >= needed and all(_take(free, one.get("GPU", 0.0)) for one in bundles):
        cpus, many = cpus - needed, many + 1
    return many


def _take(free: list[float], gpus: float) -> bool:
    """Take GPUs, whole ones or a part of one; the fullest one that has room. Return false if there is none."""
    if gpus > 1:
        whole = [place for place, left in enumerate(free) if left == 1][: round(gpus)]
        for place in whole:
            free[place] = 0.0
        return len(whole) == round(gpus)
    able = [place for place, left in enumerate(free) if left + _LITTLE >= gpus]
    if gpus and able:
        free[min(able, key=lambda place: free[place])] -= gpus
    return not gpus or bool(able)
