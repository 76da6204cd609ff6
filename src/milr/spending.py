"""Spending on a task: its records count all of it, also what earlier processes spent on its first steps."""

from __future__ import annotations

from collections.abc import Mapping

from milr.types import StepRecord


class Meter:
    """The spending of this process on one task."""

    def __init__(self) -> None:
        """Begin with a task that no earlier process has begun."""
        self._before: Mapping[str, float] = {}
        self.spent: Mapping[str, float] = {}
        """Spent by this process up to the newest record; empty before the first one."""

    def take(self, record: StepRecord, *, earlier: bool) -> None:
        """Take the task's next record; `earlier` is true if an earlier process has made the step."""
        counts = {
            "drawings": record.drawings_spent,
            "tokens": record.tokens_spent,
            "reward_calls": record.reward_calls,
            "seconds": record.seconds,
            "cost": record.cost,
        }
        if earlier:
            self.note_earlier(counts)
        self.spent = self.subtract(counts)

    def note_earlier(self, counts: Mapping[str, float]) -> None:
        """Note a task's counts, by name, after a step that an earlier process has made."""
        self._before = dict(counts)

    def subtract(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Return a task's counts without those of earlier processes."""
        return {name: count - self._before.get(name, 0) for name, count in counts.items()}
