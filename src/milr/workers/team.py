"""The coordinator's side: a team of workers, and the runner that spreads tasks over it.

A task goes to the worker with the fewest tasks. It is given to another worker when its own one is gone, or has many
tasks while another has none; that worker repeats the recorded steps without drawing them, and continues.
Records are taken in the order of their steps, each once, from the first worker that has it, because workers make equal
records of a task.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Self

from PIL import Image

from milr.errors import MilrError
from milr.jobs import Hooks
from milr.methods.queue import Assignment, TaskSource
from milr.settings import LIMITS, Settings
from milr.types import Finished, ImageSample, Score, StepRecord, Task, Unscored
from milr.workers.backend import Backend, Handle
from milr.workers.messages import (
    Broken,
    Cancel,
    Died,
    Do,
    Failed,
    Judge,
    Judged,
    Lost,
    Message,
    Ready,
    Spec,
    Spent,
    Step,
)

log = logging.getLogger("milr.workers")
_TICK = 0.25  # seconds between looks at clocks and at an open source
_MOST_TRIES = 2  # failures of a task before it is set aside
_MOST_DEATHS = 3  # of one worker, one after another without a record between them
_SLOW = 6.0  # times the longest step so far, after which the last tasks of a worker are given to another one too
_LEAST_SLOW = 30.0  # seconds


@dataclass(eq=False)
class Member:
    """A worker of a team."""

    number: int
    handle: Handle
    ready: Ready | None = None
    open: dict[int, int] = field(default_factory=dict[int, int])
    """id of `Do` -> index of its task."""
    alone: bool = False
    """True while it has a task that failed before: then it has no other."""
    deaths: int = 0
    """Deaths since its last record."""
    spent: bool = False
    """True if its reward scores nothing any more."""
    last: float = field(default_factory=time.monotonic)
    """Time of its last message."""
    busy: float = 0.0
    """Seconds with a task."""
    since: float | None = None
    """Begin of the current busy time."""
    tasks: int = 0
    """Tasks that it has finished."""
    images: int = 0
    """Images that it has drawn."""
    usage: Mapping[str, str | int] = field(default_factory=dict[str, "str | int"])
    """Usage of VLM judges, of this process."""

    def note_load(self) -> None:
        """Begin or end its busy time."""
        now = time.monotonic()
        if self.open and self.since is None:
            self.since = now
        elif not self.open and self.since is not None:
            self.busy, self.since = self.busy + now - self.since, None

    def busy_seconds(self) -> float:
        """Return the seconds with a task so far."""
        return self.busy + (0.0 if self.since is None else time.monotonic() - self.since)


class Team:
    """Workers with the same parts. They load at once; tasks begin as soon as one of them is ready."""

    def __init__(self, spec: Spec, backend: Backend) -> None:
        """Start the workers and wait until one has loaded everything.

        Raises:
            MilrError: A part cannot be loaded, as the worker said.
        """
        self.spec, self.backend = spec, backend
        self._judging = count()
        self.members: list[Member] = []
        self._of: dict[Handle, Member] = {}
        self._past: dict[str, str | int] = {}  # usage by workers that are gone
        self._reported: list[str] = []
        self._first: Ready | None = None
        self.began = time.monotonic()
        try:
            for number in range(backend.count):
                self._add(number)
            while not any(one.ready for one in self.members):
                self.receive(_TICK)
        except BaseException:
            self.close()
            raise

    @property
    def ready(self) -> Ready:
        """Return the facts that the first loaded worker has about its parts."""
        assert self._first is not None, "a team is made once a worker has loaded"
        return self._first

    def run(self, source: TaskSource, settings: Settings, hooks: Hooks) -> TeamRunner:
        """Return the records of these tasks, which are assignments. One run at a time."""
        return TeamRunner(self, source, settings, hooks)

    def close(self) -> None:
        """End the workers."""
        self.report()  # the last one is kept
        self.backend.close()
        for one in self.members:
            _add(self._past, one.usage)
        self.members = []

    def usage(self) -> dict[str, str | int] | None:
        """Return the usage of VLM judges by all workers so far; None if none was asked."""
        total = dict(self._past)
        for one in self.members:
            _add(total, one.usage)
        return total or None

    def report(self) -> list[str]:
        """Return one line for all workers, then one for each."""
        now = time.monotonic()
        seconds = max(now - self.began, 1e-9)
        if self.members:
            tasks, images = sum(one.tasks for one in self.members), sum(one.images for one in self.members)
            busy = sum(one.busy_seconds() for one in self.members) / seconds / len(self.members)
            ready = sum(one.ready is not None for one in self.members)
            whole = (
                f"workers: {ready} of {len(self.members)} ready, {tasks / seconds:.3g} tasks/s, "
                f"{images / seconds:.3g} images/s, {busy:.0%} busy"
            )
            self._reported = [whole, *(self._say(one, now, seconds) for one in self.members)]
        return self._reported

    def _say(self, one: Member, now: float, seconds: float) -> str:
        state = "loads" if one.ready is None else f"{len(one.open)} tasks in progress"
        return (
            f"{one.handle.where}: {state}, {one.tasks} tasks done, {one.images} images, "
            f"{one.busy_seconds() / seconds:.0%} busy, heard of {now - one.last:.0f} s ago"
        )

    def receive(self, seconds: float) -> list[tuple[Member, Message]]:
        """Return the next messages; a worker that died is replaced, and its `Died` returned with its tasks still open.

        Raises:
            MilrError: A worker says that nothing can go on, or one dies again and again.
        """
        received: list[tuple[Member, Message]] = []
        for handle, message in self.backend.receive(seconds):
            member = self._of.get(handle)
            if member is None:  # killed, and replaced
                continue
            member.last = time.monotonic()
            if isinstance(message, Ready):
                self._welcome(member, message)
            elif isinstance(message, Failed):
                error = MilrError(message.error)
                error.exit_code = message.exit_code
                raise error
            elif isinstance(message, Died):
                self._bury(member, message)
            elif isinstance(message, Step):
                member.deaths, member.usage = 0, message.usage or {}
            received.append((member, message))
        return received

    def score(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return the reward's scores, by a worker; no run is in progress."""
        return self._ask(images, tasks, evaluator=False)

    def evaluate(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return the evaluator's scores, by all workers; no run is in progress."""
        return self._ask(images, tasks, evaluator=True)

    def refuse(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Refuse: a panel looks where the images are drawn."""
        raise MilrError("a panel's reward scores in the workers alone")

    def _ask(self, images: Sequence[Image.Image], tasks: Sequence[Task], *, evaluator: bool) -> list[Score | Unscored]:
        able = [one for one in self.members if one.ready is not None]
        size = math.ceil(len(images) / max(1, len(able)))
        parts = [(images[at : at + size], tasks[at : at + size]) for at in range(0, len(images), max(1, size))]
        found: dict[int, Sequence[Score | Unscored]] = {}
        asked: dict[int, tuple[Member, int]] = {}  # id -> worker, place
        waiting, tries = deque(enumerate(parts)), 0
        while len(found) < len(parts):
            able = [one for one in self.members if one.ready is not None]
            for one in able[: len(waiting)]:
                place, (some, its) = waiting.popleft()
                id = next(self._judging)
                asked[id] = one, place
                one.handle.send(Judge(id, some, its, evaluator))
            for member, message in self.receive(_TICK):
                if isinstance(message, Judged) and message.id in asked:
                    found[asked.pop(message.id)[1]] = message.scores
                elif isinstance(message, Died):
                    lost = [id for id, (whose, _) in asked.items() if whose is member]
                    waiting.extend((asked[id][1], parts[asked[id][1]]) for id in lost)
                    asked = {id: one for id, one in asked.items() if id not in lost}
                    tries += bool(lost)
                    if tries > _MOST_TRIES * len(self.members):
                        raise MilrError(f"workers die while they score: {message.reason}")
        return [score for place in range(len(parts)) for score in found[place]]

    def _add(self, number: int) -> None:
        member = Member(number, self.backend.start(self.spec, number))
        self.members.append(member)
        self._of[member.handle] = member

    def _welcome(self, member: Member, ready: Ready) -> None:
        first = self._first
        if first is None:
            self.began, self._first = time.monotonic(), ready
        elif (first.model, first.reward, first.evaluator) != (ready.model, ready.reward, ready.evaluator):
            raise MilrError(
                f"{member.handle.where} has loaded other parts ({ready.model}, {ready.reward[0]}) than the first "
                f"({first.model}, {first.reward[0]}): give all machines the same files"
            )
        member.ready = ready

    def _bury(self, member: Member, died: Died) -> None:
        log.warning("%s; another one takes its place", died.reason)
        del self._of[member.handle]
        member.deaths += not died.blameless
        if member.deaths >= _MOST_DEATHS:
            raise MilrError(
                f"{died.reason}, for the {member.deaths}th time without a step between: see its output above"
            )
        self._restart(member)

    def _restart(self, member: Member) -> None:
        _add(self._past, member.usage)
        member.usage, member.ready, member.spent = {}, None, False
        member.handle = self.backend.start(self.spec, member.number)
        self._of[member.handle] = member


def _add(total: dict[str, str | int], usage: Mapping[str, str | int]) -> None:
    for name, value in usage.items():
        before = total.get(name, 0)
        total[name] = value if isinstance(value, str) or isinstance(before, str) else before + value


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
            for member, message in self._team.receive(_TICK):
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
        if task.index in self._cancelled or len(task.failures) >= _MOST_TRIES:
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
