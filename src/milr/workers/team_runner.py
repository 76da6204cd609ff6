"""The runner that spreads tasks over a team's workers.

A task goes to the worker with the fewest tasks. It is given to another worker when its own one is gone, or has many
tasks while another has none; that worker repeats the recorded steps without drawing them, and continues.
Records are taken in the order of their steps, each once, from the first worker that has it, because workers make equal
records of a task.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Self

from milr.jobs import Hooks
from milr.methods.queue import Assignment, TaskSource
from milr.settings import LIMITS, Settings
from milr.types import Finished, ImageSample, StepRecord
from milr.workers.messages import Broken, Cancel, Died, Do, Lost, Message, Spent, Step
from milr.workers.team import MOST_TRIES, TICK, Member, Team

_SLOW = 6.0  # times the longest step so far, after which the last tasks of a worker are given to another one too
_LEAST_SLOW = 30.0  # seconds


@dataclass(eq=False)
class _Open:
    """A task that has begun and not ended."""

    index: int
    own: Assignment
    owners: dict[int, Member] = field(default_factory=dict[int, Member])
    """id of `Do` -> the worker that has it."""
    steps: int = 0
    """Steps recorded so far."""
    best: ImageSample | None = None
    failures: list[str] = field(default_factory=list[str])
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LIMITS, 0.0))
    last: float = field(default_factory=time.monotonic)
    """Time of its last record, or of its begin."""
    free: bool = True
    """True if its steps cost no money, so that two workers may make them."""


class TeamRunner(Iterator[StepRecord]):
    """The records of tasks, from a team's workers. It is used as a `milr.methods.runner.Runner` is."""

    def __init__(self, team: Team, source: TaskSource, settings: Settings, hooks: Hooks) -> None:
        """Prepare.

        Args:
            team: Its workers.
            source: Assignments; an open-ended one is looked at four times a second.
            settings: Total limits.
            hooks: What is told and asked besides.
        """
        self.stopped: str | None = None
        self.cut: set[int] = set()
        self._team, self._source, self._hooks = team, source, hooks
        self._limits = settings.run.limits("total")
        self._ids = count()
        self._open: dict[int, _Open] = {}  # index -> task
        self._again: deque[_Open] = deque()  # without a worker
        self._cancelled: dict[int, Finished] = {}
        self._done = False  # the source has no more
        self._taken = 0
        self._ended = dict.fromkeys(LIMITS, 0.0)
        self._longest = 0.0  # seconds of a step
        self._limit: Finished | None = None
        self._started = time.monotonic()
        self._records = self._run()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> StepRecord:
        """Return the next record."""
        return next(self._records)

    def cancel(self, index: int, why: Finished = "cancelled") -> None:
        """End a task at its next record; it may be called from another thread."""
        self._cancelled[index] = why

    def close(self) -> None:
        """Abandon the tasks in progress; the workers stay."""
        self._records.close()
        for task in self._open.values():
            self._release(task)
        self._open, self._again = {}, deque()

    # --- handing out

    def _run(self) -> Generator[StepRecord]:
        while True:
            self._hand_out()
            if self._done and not self._open:
                return
            self._spread()
            for member, message in self._team.receive(TICK):
                yield from self._take(member, message)
            self._watch_limits()
            self._send_cancels()

    def _hand_out(self) -> None:
        """Give waiting tasks to the workers with the fewest, and to each no more than its share."""
        while (member := self._find_free()) is not None:
            task = self._next_task(member)
            if task is None:
                return
            self._give(member, task)

    def _find_free(self) -> Member | None:
        team = self._team
        able = [one for one in team.members if one.ready is not None and not one.alone and not one.spent]
        left = None if self._source.size is None else self._source.size - self._taken + len(self._open)
        most = 2 * team.spec.places  # half of them wait in the worker, so that places are filled at once
        share = most if left is None else math.ceil(left / max(1, len(team.members)))
        free = [one for one in able if len(one.open) < min(most, max(1, share))]
        return min(free, key=lambda one: len(one.open), default=None)

    def _next_task(self, member: Member) -> _Open | None:
        for task in self._again:
            if not task.failures or not member.open:  # one that has failed gets a worker of its own
                self._again.remove(task)
                return task
        if self._done or self.stopped is not None:
            self._done = True
            return None
        try:
            taken = self._source.take(wait=False)
        except StopIteration:
            self._done = True
            return None
        if taken is None:
            return None
        index, own = taken
        assert isinstance(own, Assignment), "a team is given assignments"
        self._taken += 1
        task = self._open[index] = _Open(index, own)
        return task

    def _give(self, member: Member, task: _Open) -> None:
        own, id = task.own, next(self._ids)
        known = self._hooks.recall(task.index) if task.steps else ()
        key = own.key or own.task.key
        task.owners[id], member.open[id] = member, task.index
        member.alone = bool(task.failures)
        member.note_load()
        member.handle.send(Do(id, own.task, key, own.method.name, own.settings.flat, known))

    def _release(self, task: _Open, *, but: int | None = None) -> None:
        """Take a task from its workers, all but one."""
        for id in [id for id in task.owners if id != but]:
            member = task.owners.pop(id)
            if member.open.pop(id, None) is not None:
                member.handle.send(Cancel(id, "cancelled"))
            self._settle(member)

    def _settle(self, member: Member) -> None:
        member.alone = member.alone and bool(member.open)
        member.note_load()

    def _spread(self) -> None:
        """Give tasks of loaded workers to idle ones, and the last tasks of one that is stuck to another."""
        if not self._done or self._again or self.stopped is not None:
            return
        able = [one for one in self._team.members if one.ready is not None and not one.alone and not one.spent]
        for idle in [one for one in able if not one.open]:
            donor = max(able, key=lambda one: len(one.open))
            movable = [self._open[index] for index in donor.open.values() if len(self._open[index].owners) == 1]
            if len(donor.open) >= 2 and movable:
                task = min(movable, key=lambda one: one.steps)
                self._release(task)
                self._give(idle, task)
                continue
            patience = max(_LEAST_SLOW, _SLOW * self._longest)
            stuck = [
                one
                for one in self._open.values()
                if len(one.owners) == 1 and one.free and time.monotonic() - one.last > patience
            ]
            if stuck:
                self._give(idle, min(stuck, key=lambda one: one.last))

    # --- taking in

    def _take(self, member: Member, message: Message) -> Iterator[StepRecord]:
        if isinstance(message, Step):
            yield from self._take_step(member, message)
        elif isinstance(message, Lost):
            task = self._drop(member, message.id)
            if task is not None and message.error is not None:
                self._fail(task, message.error)
            elif task is not None:
                self._open.pop(task.index, None)
        elif isinstance(message, Broken | Died):
            error = message.error if isinstance(message, Broken) else message.reason
            for id in list(member.open):
                task = self._drop(member, id)
                if task is not None and isinstance(message, Died) and message.blameless:
                    self._again.append(task)
                elif task is not None:
                    self._fail(task, error)
        elif isinstance(message, Spent):
            self.stopped, member.spent = self.stopped or message.reason, True
            self._done = True

    def _drop(self, member: Member, id: int) -> _Open | None:
        """Note that a worker no longer has a task; return the task if no other worker has it."""
        index = member.open.pop(id, None)
        self._settle(member)
        task = None if index is None else self._open.get(index)
        if task is None:
            return None
        task.owners.pop(id, None)
        return None if task.owners else task

    def _fail(self, task: _Open, error: str) -> None:
        task.failures.append(error)
        if task.index in self._cancelled or len(task.failures) >= MOST_TRIES:
            del self._open[task.index]
            self._count_ended(task)
            self._hooks.set_aside(task.index, error)
        else:
            self._again.append(task)

    def _take_step(self, member: Member, message: Step) -> Iterator[StepRecord]:
        index = member.open.get(message.id)
        task = None if index is None else self._open.get(index)
        if task is None or index is None:  # it was taken from this worker
            return
        record = message.record
        member.images += len(record.images)
        if record.step == task.steps:
            if message.same_best:
                assert task.best is not None
                record = replace(record, best=task.best)
            now = time.monotonic()
            self._longest, task.last = max(self._longest, now - task.last), now
            task.steps, task.best, task.free = task.steps + 1, record.best, record.cost == 0
            task.spent = {
                "drawings": record.drawings_spent,
                "seconds": 0.0,
                "reward_calls": record.reward_calls,
                "cost": record.cost,
            }
            if message.evaluated:
                self._hooks.evaluated(index, message.evaluated)
            if record.finished is not None:
                member.tasks += 1
                self._release(task)
                del self._open[index]
                self._count_ended(task)
                self._cancelled.pop(index, None)
                if self._limit is not None and record.finished == self._limit:
                    self.cut.add(index)
            yield replace(record, index=index)

    def _count_ended(self, task: _Open) -> None:
        self._ended = {kind: used + task.spent[kind] for kind, used in self._ended.items()}

    # --- ends

    def _watch_limits(self) -> None:
        if self._limit is not None or not self._limits:
            return
        each = [self._ended, *(task.spent for task in self._open.values())]
        spent = {kind: sum(one[kind] for one in each) for kind in LIMITS}
        spent["seconds"] = time.monotonic() - self._started
        self._limit = next((LIMITS[kind] for kind, most in self._limits.items() if spent[kind] >= most), None)
        if self._limit is not None:
            self.stopped, self._done = self.stopped or self._limit, True
            for index, task in list(self._open.items()):
                if task.owners:
                    self._cancelled.setdefault(index, self._limit)
                else:
                    del self._open[index]
            self._again.clear()

    def _send_cancels(self) -> None:
        for index, why in list(self._cancelled.items()):
            task = self._open.get(index)
            for id, member in () if task is None else task.owners.items():
                member.handle.send(Cancel(id, why))
