"""Estimate of a run's remaining time, from its records."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from milr.types import StepRecord

_RECENT = 5  # rounds that say how long the next ones take
_EVIDENCE = 2  # rounds before anything is said
_SURE = 2.0  # an estimate is said if the longest one is no more than this many times as long
_WEIGHT = 2  # tasks of a round that are expected to end as those of the round before


@dataclass
class _Progress:
    """Progress of a task."""

    rounds: int = 0
    """Number of steps so far, those of earlier sessions with them."""
    drawings: float = 0.0
    seconds: float = 0.0
    """Seconds at its last record."""


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
    """An estimate that expects each task to end as this run's other tasks did.

    It counts rounds: in a round, each task in progress makes one step. Until a task has ended, each is expected to
    spend all its drawings.
    """

    def __init__(
        self,
        tasks: int,
        drawings: float,
        places: int,
        *,
        total_drawings: float | None = None,
        total_seconds: float | None = None,
    ) -> None:
        """Take the bounds of the run, which begins now.

        Args:
            tasks: Tasks still to be done.
            drawings: Most drawings of each task.
            places: Most tasks in progress at once.
            total_drawings: Most drawings of all of them from now on; None sets no limit.
            total_seconds: Seconds from now on; None sets no limit.
        """
        self._total_drawings = math.inf if total_drawings is None else total_drawings
        self._end = math.inf if total_seconds is None else time.monotonic() + total_seconds
        self._spent = 0.0  # drawings from now on
        self._waiting, self._drawings, self._places = tasks, drawings, max(1, places)
        self._open: dict[Hashable, _Progress] = {}
        self._round: dict[Hashable, float | None] = {}  # tasks of the round that goes on -> their seconds, if known
        self._size = min(tasks, self._places)  # tasks of the round that goes on
        self._rounds = deque[tuple[int, float]](maxlen=_RECENT)  # tasks and seconds of the newest rounds
        self._count = 0  # rounds that are over
        self._expected: float | None = None  # seconds, at the end of the newest round: within it only some tasks count
        self._longest = 0.0  # seconds if rounds that few tasks have reached end none
        self._reached: Counter[int] = Counter()  # round, from 1 -> tasks that reached it
        self._ended: Counter[int] = Counter()  # round, from 1 -> tasks that ended with it
        self._drawn = self._made = 0.0  # drawings and rounds of tasks that have ended

    def count(self, record: StepRecord, task: Hashable) -> None:
        """Count a record of a task."""
        if task in self._round:  # a task of this round was lost, and has no record
            self._end_round()
        seen = self._open.get(task)
        if seen is None:
            self._waiting -= 1
            seen = self._open[task] = _Progress()
        # an earlier session or another worker made the steps before, and their seconds are not this round's
        known = seen.rounds == record.step
        self._round[task] = max(record.seconds - seen.seconds, 0.0) if known else None
        self._spent += record.drawings_spent - seen.drawings if known else 0.0
        seen.rounds, seen.seconds, seen.drawings = record.step + 1, record.seconds, record.drawings_spent
        self._reached[seen.rounds] += 1
        if record.finished:
            self._ended[seen.rounds] += 1
            self._drawn += seen.drawings
            self._made += seen.rounds
            del self._open[task]
        if len(self._round) >= self._size:
            self._end_round()

    def _end_round(self) -> None:
        known = [seconds for seconds in self._round.values() if seconds is not None]
        if known:
            self._rounds.append((len(self._round), median(known)))
        self._count += 1
        self._round = {}
        self._size = max(1, min(self._places, len(self._open) + self._waiting))
        if self._rounds:
            each = self._drawings_per_round()
            most = math.ceil(self._drawings / each - 1e-9) if each else 1
            self._expected, self._longest = (
                self._expect(self._shares_that_end(most, like_before), each) for like_before in (1.0, 0.0)
            )

    def seconds(self) -> float | None:
        """Return the expected seconds; None before the first round's records are all there."""
        return self._expected

    def say(self) -> str:
        """Return the time left in words: "at most", until enough tasks have ended to say more.

        It is empty before two rounds are over, because the first is often the slowest.
        """
        seconds = self.seconds()
        if seconds is None or self._count < _EVIDENCE:
            return ""
        if self._ended and self._longest <= _SURE * seconds:
            return say_left(seconds)
        return f"at most {said}" if (said := say_left(self._longest)) else ""

    def _expect(self, ends: Sequence[float], each: float) -> float:
        """Return the expected seconds.

        Args:
            ends: Round by round, the share of its tasks that end with it.
            each: Drawings of a task per round.
        """
        going_on = [0.0] * len(ends)  # tasks that are expected to be in progress, by round from now on
        for done, tasks in Counter(one.rounds for one in self._open.values()).items():
            for ahead, share in enumerate(_go_on(ends[done:])):
                going_on[ahead] += tasks * share
        waiting = max(0, self._waiting) * sum(_go_on(ends))
        whole = waiting + sum(going_on)  # rounds of all tasks together
        rounds = waiting / self._places + sum(min(1.0, tasks) for tasks in going_on)
        # medians: the first round and moments in which the machine is busy take longer than rounds do
        size, seconds = (median(values) for values in zip(*self._rounds, strict=True))
        # with half as many tasks a round takes between half the time and the same time, depending on the machine
        found = seconds * (rounds + whole / size) / 2
        drawn = min(1.0, (self._total_drawings - self._spent) / (whole * each)) if whole * each else 1.0
        return max(0.0, min(found * drawn, self._end - time.monotonic()))

    def _drawings_per_round(self) -> float:
        drawn = self._drawn + sum(one.drawings for one in self._open.values())
        return drawn / (self._made + sum(one.rounds for one in self._open.values()))

    def _shares_that_end(self, most: int, like_before: float) -> list[float]:
        """Return, round by round, the expected share of its tasks that end with it.

        Args:
            most: Number of rounds.
            like_before: Share that a round which no task has reached has of the share of the round before.
        """
        shares, before, weight = list[float](), 0.0, 0
        for number in range(1, most + 1):
            if of := self._reached[number] + weight:
                before = (self._ended[number] + weight * like_before * before) / of
                weight = _WEIGHT
            shares.append(before)
        return shares


def _go_on(ends: Sequence[float]) -> Iterator[float]:
    """Yield the share of tasks that are in progress in each round, from the shares that end with it."""
    share = 1.0
    for end in ends:
        yield share
        share *= 1 - end
