"""The coordinator's workers: they are started, replaced when they die, and asked for scores."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from PIL import Image

from milr.errors import MilrError
from milr.types import Score, Task, Unscored
from milr.workers.backend import Backend, Handle
from milr.workers.messages import (
    Died,
    Failed,
    Heard,
    Judge,
    Judged,
    Message,
    Ready,
    Spec,
    Step,
)

log = logging.getLogger("milr.workers")
TICK = 0.25  # seconds between looks at clocks and at an open source
MOST_TRIES = 2  # failures of a task before it is set aside
_MOST_DEATHS = 3  # of one worker, one after another without a record between them


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
    """Deaths without a task since its last record."""
    watched: frozenset[int] = frozenset()
    """ids of the tasks whose unfinished images it sends."""
    spent: bool = False
    """True if its reward scores nothing any more."""
    last: float = field(default_factory=lambda: time.monotonic())
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


@dataclass(frozen=True)
class MemberFacts:
    """A worker of a team, for those who watch it."""

    where: str
    """Its process, or its actor."""
    ready: bool
    """False while it loads."""
    open: int
    """Tasks that it has."""
    tasks: int
    """Tasks that it has finished."""
    images: int
    """Images that it has drawn."""
    busy: float
    """Share of the time, since the first worker was ready, in which it had a task."""
    quiet: float
    """Seconds since its last message."""


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
        self._unheard: list[Handle] = []  # senders of the last steps, which are heard once these are taken in
        self._of: dict[Handle, Member] = {}
        self._past: dict[str, str | int] = {}  # usage by workers that are gone
        self._reported: list[str] = []
        self.replaced = 0
        """Workers that have died."""
        self._first: Ready | None = None
        self.began = time.monotonic()
        try:
            for number in range(backend.count):
                self._add(number)
            while not any(one.ready for one in self.members):
                self.receive(TICK)
        except BaseException:
            self.close()
            raise

    @property
    def ready(self) -> Ready:
        """Return the facts that the first loaded worker has about its parts."""
        assert self._first is not None, "a team is made once a worker has loaded"
        return self._first

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
        found = self.describe()
        if found:
            seconds = max(time.monotonic() - self.began, 1e-9)
            tasks, images = sum(one.tasks for one in found), sum(one.images for one in found)
            ready, busy = sum(one.ready for one in found), sum(one.busy for one in found) / len(found)
            whole = (
                f"workers: {ready} of {len(found)} ready, {tasks / seconds:.3g} tasks/s, "
                f"{images / seconds:.3g} images/s, {busy:.0%} busy"
            )
            self._reported = [whole, *map(_say, found)]
        return self._reported

    def describe(self) -> list[MemberFacts]:
        """Return facts about each worker; from any thread."""
        now = time.monotonic()
        seconds = max(now - self.began, 1e-9)
        return [
            MemberFacts(
                where=one.handle.where,
                ready=one.ready is not None,
                open=len(one.open),
                tasks=one.tasks,
                images=one.images,
                busy=one.busy_seconds() / seconds,
                quiet=now - one.last,
            )
            for one in self.members
        ]

    def receive(self, seconds: float) -> list[tuple[Member, Message]]:
        """Return the next messages; a worker that died is replaced, and its `Died` returned with its tasks still open.

        Raises:
            MilrError: A worker says that nothing can go on, or one dies again and again.
        """
        for handle in self._unheard:
            handle.send(Heard())
        self._unheard = []
        received: list[tuple[Member, Message]] = []
        for handle, message in self.backend.receive(seconds):
            member = self._of.get(handle)
            if member is None:  # gone, and replaced
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
                self._unheard.append(handle)
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
            for member, message in self.receive(TICK):
                if isinstance(message, Judged) and message.id in asked:
                    found[asked.pop(message.id)[1]] = message.scores
                elif isinstance(message, Died):
                    lost = [id for id, (whose, _) in asked.items() if whose is member]
                    waiting.extend((asked[id][1], parts[asked[id][1]]) for id in lost)
                    asked = {id: one for id, one in asked.items() if id not in lost}
                    tries += bool(lost)
                    if tries > MOST_TRIES * len(self.members):
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
        self.replaced += 1
        del self._of[member.handle]
        member.deaths += not died.blameless and not member.open  # else a task may be at fault, and is tried twice
        if member.deaths >= _MOST_DEATHS:
            raise MilrError(f"{died.reason}, {member.deaths} times without a task in progress: see its output above")
        self._restart(member)

    def _restart(self, member: Member) -> None:
        _add(self._past, member.usage)
        member.usage, member.ready, member.spent, member.watched = {}, None, False, frozenset()
        member.handle = self.backend.start(self.spec, member.number)
        self._of[member.handle] = member


def _say(one: MemberFacts) -> str:
    state = f"{one.open} tasks in progress" if one.ready else "loads"
    return (
        f"{one.where}: {state}, {one.tasks} tasks done, {one.images} images, {one.busy:.0%} busy, "
        f"heard of {one.quiet:.0f} s ago"
    )


def _add(total: dict[str, str | int], usage: Mapping[str, str | int]) -> None:
    for name, value in usage.items():
        before = total.get(name, 0)
        total[name] = value if isinstance(value, str) or isinstance(before, str) else before + value
