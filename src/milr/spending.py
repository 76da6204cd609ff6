"""Spending on a task: its records count all of it, also what earlier processes spent on its first steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from milr.types import StepRecord


class Counted(Protocol):
    """A step, recorded or stored, with what its task has spent up to it."""

    @property
    def drawings_spent(self) -> float:
        """Drawings; a partial one is a share."""
        ...

    @property
    def tokens_spent(self) -> int:
        """Sampled tokens."""
        ...

    @property
    def reward_calls(self) -> int:
        """Calls of the reward."""
        ...

    @property
    def seconds(self) -> float:
        """Wall time."""
        ...

    @property
    def cost(self) -> float:
        """US dollars."""
        ...


def counts_of(step: Counted) -> dict[str, float]:
    """Return what a task has spent up to a step, by the names of `milr.runs.schema.Session`."""
    return {
        "drawings": step.drawings_spent,
        "tokens": step.tokens_spent,
        "reward_calls": step.reward_calls,
        "seconds": step.seconds,
        "cost": step.cost,
    }


class Meter:
    """The spending of this process on one task."""

    def __init__(self) -> None:
        """Begin with a task that no earlier process has begun."""
        self._before: Mapping[str, float] = {}
        self.spent: Mapping[str, float] = {}
        """Spent by this process up to the newest record; empty before the first one."""

    def take(self, record: StepRecord, *, earlier: bool) -> None:
        """Take the task's next record; `earlier` is true if an earlier process has made the step."""
        counts = counts_of(record)
        if earlier:
            self.note_earlier(counts)
        self.spent = self.subtract(counts)

    def note_earlier(self, counts: Mapping[str, float]) -> None:
        """Note a task's counts, by name, after a step that an earlier process has made."""
        self._before = dict(counts)

    def subtract(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Return a task's counts without those of earlier processes."""
        return {name: count - self._before.get(name, 0) for name, count in counts.items()}
