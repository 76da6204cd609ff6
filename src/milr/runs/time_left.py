"""Estimate of a run's remaining time, from its records."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from milr.types import StepRecord


@dataclass
class _Progress:
    """Progress of a task."""

    rounds: int = 0
    """Number of records so far."""
    drawings: float = 0.0
    seconds: float = 0.0
    """Seconds at its last record."""
    last: float = 0.0
    """Seconds of its last round."""


def say_left(seconds: float) -> str:
    """Return an estimate in words, no finer than it is certain; empty for less than a second."""
    if seconds < 1:
        return ""
    if seconds <= 55:
        return f"about {5 * math.ceil(seconds / 5)} s left"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"about {minutes} min left"
    hours, tens = divmod(round(seconds / 600), 6)
    return f"about {hours} h {10 * tens} min left" if tens else f"about {hours} h left"


class TimeLeft:
    """An estimate that expects each task to behave as this run's other tasks did.

    A task that continues beyond the end of all others is expected to spend all its drawings. Tasks share places, so the
    longest task counts in the end, not the mean.
    """

    def __init__(self, tasks: int, drawings: float, places: int) -> None:
        """Take the bounds of the run.

        Args:
            tasks: Tasks still to be done.
            drawings: Most drawings of each task.
            places: Most tasks in progress at once.
        """
        self._waiting, self._drawings, self._places = tasks, drawings, max(1, places)
        self._beyond = tasks - min(tasks, self._places)  # wait while the first round is drawn
        self._open: dict[Hashable, _Progress] = {}
        self._reached: Counter[int] = Counter()  # round, from 1 -> tasks that reached it
        self._ended: Counter[int] = Counter()  # round, from 1 -> tasks that ended with it
        self._drawn = 0.0  # by tasks that have ended
        self._round = 0.0  # seconds, before a task in progress has its own

    def count(self, record: StepRecord, task: Hashable) -> None:
        """Count a record of a task."""
        if task not in self._open:
            self._open[task] = _Progress()
            self._waiting -= 1
        seen = self._open[task]
        seen.rounds += 1
        seen.last, seen.seconds = max(record.seconds - seen.seconds, 0.0), record.seconds
        seen.drawings, self._round = record.drawings_spent, seen.last
        self._reached[seen.rounds] += 1
        if record.finished:
            self._ended[seen.rounds] += 1
            self._drawn += seen.drawings
            del self._open[task]

    def seconds(self) -> float | None:
        """Return the expected seconds; None before the first round's records are all there."""
        if not self._reached or self._waiting > self._beyond:
            return None
        most = self._most_rounds()
        rounds = [self._expected(one.rounds, most) for one in self._open.values()]
        places = [0.0] * self._places
        for length in (*sorted(rounds, reverse=True), *[self._expected(0, most)] * max(0, self._waiting)):
            heapq.heapreplace(places, places[0] + length)
        # while tasks share batches, a round takes as long as the slowest one
        return max(places) * max((one.last for one in self._open.values()), default=self._round)

    def say(self) -> str:
        """Return the expected time in words; empty before the first round's records are all there."""
        seconds = self.seconds()
        return "" if seconds is None else say_left(seconds)

    def _most_rounds(self) -> int:
        drawn = self._drawn + sum(one.drawings for one in self._open.values())
        each = drawn / sum(self._reached.values())  # drawings per round
        return math.ceil(self._drawings / each - 1e-9) if each else 1

    def _expected(self, done: int, most: int) -> float:
        """Return the expected rounds of a task after this many: by the shares of tasks that continued, round by round.

        A task that has not begun takes its first round for certain.
        """
        expected, going_on = (1.0, 1.0) if done == 0 else (0.0, 1.0)
        for number in range(max(done, 1), most):
            reached = self._reached[number]
            going_on *= 1 - (self._ended[number] / reached if reached and number > done else 0.0)
            expected += going_on
        return expected
