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

from milr.methods.queue import Assignment, TaskQueue, TaskSource, Turn
from milr.parts import Hooks
from milr.settings import LIMITS, Settings
from milr.spending import Meter
from milr.types import Finished, StepRecord, end_early
from milr.workers.messages import Begun, Broken, Cancel, Died, Do, Grown, Lost, Message, Spent, Step, Watch
from milr.workers.team import MOST_TRIES, TICK, Member, Team

_SLOW = 6.0  # times the longest step so far, after which the last tasks of a worker are given to another one too
_LEAST_SLOW = 30.0  # seconds
_OPEN_TICK = 0.05  # seconds between looks at an open-ended source


@dataclass(eq=False)
class _Open:
    """A task that has begun and not ended."""

    index: int
    own: Assignment
    owners: dict[int, Member] = field(default_factory=dict[int, Member])
    """id of `Do` -> the worker that has it."""
    steps: int = 0
    """Steps recorded so far."""
    record: StepRecord | None = None
    """The last one of these, without its images."""
    failures: list[str] = field(default_factory=list[str])
    meter: Meter = field(default_factory=Meter)
    """Spent on it by this run of the coordinator."""
    begun: set[int] = field(default_factory=set[int])
    """ids of `Do` that a worker has begun."""
    told: set[int] = field(default_factory=set[int])
    """ids of `Do` that were cancelled."""
    turn: Turn = ()
    last: float = field(default_factory=lambda: time.monotonic())
    """Time of its last record, or of its begin."""
    free: bool = True
    """True if its steps cost no money, so that two workers may make them."""


class TeamRunner(Iterator[StepRecord]):
    """The records of tasks, from a team's workers. It is used as a `milr.methods.runner.Runner` is."""

    def __init__(self, team: Team, source: TaskSource, settings: Settings, hooks: Hooks) -> None:
        """Prepare.

        Args:
            team: Its workers.
            source: Assignments. All tasks of an open-ended one are given to workers at once, where they take turns.
            settings: Total limits.
            hooks: What is told and asked besides.
        """
        self.stopped: str | None = None
        self.cut: set[int] = set()
        self._team, self._source, self._hooks = team, source, hooks
        self._queue = source if isinstance(source, TaskQueue) else None
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
            self._send_watches()
            for member, message in self._team.receive(TICK if self._queue is None else _OPEN_TICK):
                yield from self._take(member, message)
            yield from self._watch_limits()
            self._send_cancels()

    def _hand_out(self) -> None:
        """Give waiting tasks to the workers with the fewest, and to each no more than its share."""
        self._free_one()
        while (member := self._find_free()) is not None:
            task = self._next_task(member)
            if task is None:
                return
            self._give(member, task)

    def _free_one(self) -> None:
        """Take all tasks from a worker, for one that has failed before, if no worker would be idle by itself."""
        failed = next((one for one in self._again if one.failures), None)
        if self._queue is None or failed is None or any(one.alone for one in self._team.members):
            return
        able = self._able()
        if not able:
            return
        member = min(able, key=lambda one: len(one.open))
        for task in [self._open[index] for index in member.open.values()]:
            self._release(task)
            self._again.append(task)
        self._again.remove(failed)
        self._give(member, failed)

    def _able(self) -> list[Member]:
        return [one for one in self._team.members if one.ready is not None and not one.alone and not one.spent]

    def _find_free(self) -> Member | None:
        team, able = self._team, self._able()
        if self._queue is not None:
            return min(able, key=lambda one: len(one.open), default=None)
        left = None if self._source.size is None else self._source.size - self._taken + len(self._open)
        most = 2 * team.spec.places  # half of them wait in the worker, so that places are filled at once
        share = most if left is None else math.ceil(left / max(1, len(team.members)))
        free = [one for one in able if len(one.open) < min(most, max(1, share))]
        return min(free, key=lambda one: len(one.open), default=None)

    def _next_task(self, member: Member) -> _Open | None:
        for task in sorted(self._again, key=lambda one: bool(one.failures)):
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
        if self._queue is not None:
            task.turn = self._queue.turn(index)
        return task

    def _give(self, member: Member, task: _Open) -> None:
        own, id = task.own, next(self._ids)
        known = max(own.known, self._hooks.recall(task.index) if task.steps else (), key=len)
        key = own.key or own.task.key
        task.owners[id], member.open[id] = member, task.index
        member.alone = bool(task.failures)
        member.note_load()
        strip, flat = self._hooks.drawn is not None, own.settings.flat
        member.handle.send(Do(id, own.task, key, own.method.name, flat, known, task.steps, task.turn, strip))

    def _release(self, task: _Open) -> None:
        """Take a task from its workers."""
        for id in list(task.owners):
            member = task.owners.pop(id)
            if member.open.pop(id, None) is not None:
                member.handle.send(Cancel(id, "cancelled"))
            self._settle(member)

    def _settle(self, member: Member) -> None:
        member.alone = member.alone and bool(member.open)
        member.note_load()

    def _spread(self) -> None:
        """Give tasks of loaded workers to idle ones, and the last tasks of one that is stuck to another."""
        if not (self._done or self._queue is not None) or self._again or self.stopped is not None:
            return
        able = self._able()
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
        elif isinstance(message, Begun | Grown):
            task = self._open.get(member.open.get(message.id, -1))
            if task is not None and isinstance(message, Begun):
                task.begun.add(message.id)
                self._hooks.begun(task.index, message.prompt_tokens)
            elif task is not None and isinstance(message, Grown):
                self._hooks.grown(task.index, message.tokens, message.image)
        elif isinstance(message, Lost):
            task = self._drop(member, message.id)
            if task is not None and message.error is not None:
                self._fail(task, message.error)
            elif task is not None and task.record is not None:
                yield self._end_early(task.record, task, self._cancelled.get(task.index, "cancelled"))
            elif task is not None:
                self._close(task)
                self._count_ended(task)
                self._hooks.lost(task.index)
        elif isinstance(message, Broken | Died):
            self._take_back(member, message)
        elif isinstance(message, Spent):
            self.stopped, member.spent = self.stopped or message.reason, True
            self._done = True

    def _take_back(self, member: Member, message: Broken | Died) -> None:
        """Take the tasks back from a worker that failed; those that had begun may be at fault, if there is any."""
        died = isinstance(message, Died)
        for id, index in list(member.open.items()):
            begun = index in self._open and id in self._open[index].begun
            if not died and not begun:  # they still wait there
                continue
            task = self._drop(member, id)
            if task is not None and died and (message.blameless or not begun):
                self._again.append(task)
            elif task is not None:
                self._fail(task, message.reason if died else message.error)

    def _close(self, task: _Open) -> None:
        self._open.pop(task.index, None)
        self._cancelled.pop(task.index, None)
        if self._queue is not None:
            self._queue.end(task.index)

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
            self._close(task)
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
                assert task.record is not None
                record = replace(record, best=task.record.best)
            now = time.monotonic()
            self._longest, task.last = max(self._longest, now - task.last), now
            task.steps, task.free = task.steps + 1, record.cost == 0
            task.record = replace(record, images=(), scores=())
            task.meter.take(record, earlier=record.step < len(task.own.known))
            if message.evaluated:
                self._hooks.evaluated(index, message.evaluated)
            if message.strip is not None and self._hooks.drawn is not None:
                self._hooks.drawn(index, message.strip)
            if record.finished is not None:
                member.tasks += 1
                self._release(task)
                self._close(task)
                self._count_ended(task)
                if self._limit is not None and record.finished == self._limit:
                    self.cut.add(index)
            yield replace(record, index=index)

    def _end_early(self, last: StepRecord, task: _Open, why: Finished) -> StepRecord:
        """End a task that no worker continues, after its step `last`; return its last record."""
        self._close(task)
        self._count_ended(task)
        if why == self._limit:
            self.cut.add(task.index)
        return replace(end_early(last, why), index=task.index)

    def _count_ended(self, task: _Open) -> None:
        self._ended = {kind: used + task.meter.spent.get(kind, 0) for kind, used in self._ended.items()}

    # --- ends

    def _watch_limits(self) -> Iterator[StepRecord]:
        if self._limit is not None or not self._limits:
            return
        each = [self._ended, *(task.meter.spent for task in self._open.values())]
        spent = {kind: sum(one.get(kind, 0) for one in each) for kind in LIMITS}
        spent["seconds"] = time.monotonic() - self._started
        self._limit = next((LIMITS[kind] for kind, most in self._limits.items() if spent[kind] >= most), None)
        if self._limit is not None:
            self.stopped, self._done = self.stopped or self._limit, True
            for index, task in list(self._open.items()):
                if task.owners:
                    self._cancelled.setdefault(index, self._limit)
                elif task.record is not None:
                    yield self._end_early(task.record, task, self._limit)
                else:
                    del self._open[index]
            self._again.clear()

    def _send_cancels(self) -> None:
        for index, why in list(self._cancelled.items()):
            task = self._open.get(index)
            if task is None:
                continue
            for id, member in task.owners.items():
                if id not in task.told:
                    task.told.add(id)
                    member.handle.send(Cancel(id, why))

    def _send_watches(self) -> None:
        """Tell each worker which of its tasks are watched, when that has changed."""
        if self._queue is None:
            return
        for member in self._team.members:
            watched = frozenset(id for id, index in member.open.items() if self._hooks.watched(index))
            if watched != member.watched and member.ready is not None:
                member.watched = watched
                member.handle.send(Watch(watched))
