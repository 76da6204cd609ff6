"""Figures of a session of a run: what its tasks and its evaluator have spent."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from milr.runs.schema import EvaluatedImage
from milr.spending import Meter
from milr.types import StepRecord


class Figures:
    """The spending of a session so far. A task is named by its index and the number of its image."""

    def __init__(self) -> None:
        """Prepare: known steps may be noted before the session begins."""
        self._started = 0.0
        self._known: dict[tuple[int, int], int] = {}  # task -> steps of an earlier session
        self._meters: defaultdict[tuple[int, int], Meter] = defaultdict(Meter)
        self._evaluated, self._evaluator_seconds, self._evaluator_cost = 0, 0.0, 0.0

    def begin(self) -> None:
        """Begin the session."""
        self._started = time.monotonic()

    def note_known(self, task: tuple[int, int], steps: int) -> None:
        """Note that an earlier session has made this many of a task's steps."""
        self._known[task] = steps

    def add(self, task: tuple[int, int], record: StepRecord) -> None:
        """Count a task's next record."""
        self._meters[task].take(record, earlier=record.step < self._known.get(task, 0))

    def add_scores(self, scores: Sequence[EvaluatedImage]) -> None:
        """Count new scores of the evaluator."""
        self._evaluated += len(scores)
        self._evaluator_cost += sum(one.score.cost for one in scores)

    @contextmanager
    def evaluating(self) -> Generator[None]:
        """Count the seconds of the block as the evaluator's."""
        started = time.monotonic()
        yield
        self._evaluator_seconds += time.monotonic() - started

    def read(self) -> dict[str, object]:
        """Return the figures, by the names of `milr.runs.schema.Session`."""
        return {
            "seconds": round(time.monotonic() - self._started, 3),
            **{name: self._sum(name) for name in ("drawings", "tokens", "reward_calls")},
            "evaluated": self._evaluated,
            "evaluator_seconds": round(self._evaluator_seconds, 3),
            "cost": self._sum("cost") + self._evaluator_cost,
        }

    def _sum(self, name: str) -> float:
        return sum(meter.spent[name] for meter in self._meters.values())
