"""Sources of tasks for the runner: any iterable, assignments, or a queue that stays open (a server's)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from threading import Condition
from typing import Any, Protocol, TypeAlias

from milr.methods.context import Method, TaskContext
from milr.settings import Settings
from milr.types import KnownStep, Task

_TURN_STEPS = 4  # that a task makes at least before it gives its place to one of equal right


@dataclass(frozen=True)
class Assignment:
    """A task with its method and settings. In one queue, tasks may differ in these.

    Its random streams depend on its key and its seed alone, not on earlier tasks.
    """

    task: Task
    method: Method
    settings: Settings
    """Settings of that method; batch size and total limits are the runner's own."""
    key: str | None = None
    """Key of the random streams; None is the task's own, `milr.types.Task.key`."""
    known: Sequence[KnownStep] = ()
    """The task's first steps, if they were made before: the method repeats them without scoring their images again;
    images are drawn again only for hidden states. The records are the same."""


class Repeats:
    """Keys of random streams: a repeated task has its own streams."""

    def __init__(self) -> None:
        """Begin with no task."""
        self._seen: Counter[str] = Counter()

    def key(self, task: Task) -> str:
        """Return the key of the next task."""
        repeat = self._seen[task.key]
        self._seen[task.key] += 1
        return f"{task.key}#{repeat}" if repeat else task.key


Waiting: TypeAlias = "Task | Assignment | TaskContext[Any]"
"""A task that has not begun, or one that has given its place to another and goes on later."""
Turn: TypeAlias = tuple[str, ...]
"""A task's place in the order of turns: for instance client, user and search."""


class TaskSource(Protocol):
    """The protocol of a source of tasks."""

    size: int | None
    """Number of tasks, if it is known."""

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        """Return the next task and its index; None if there is none at the moment and it may not wait.

        Raises:
            StopIteration: There will be no more tasks.
        """
        ...


@dataclass(frozen=True)
class _Entry:
    index: int
    task: Waiting
    turn: Turn


class _Turns:
    """Tasks in the order of turns: those of one name wait in line, and the names take turns, at every depth."""

    def __init__(self) -> None:
        self._own: deque[_Entry] = deque()
        self._named: dict[str, _Turns] = {}  # the next one comes first

    def __bool__(self) -> bool:
        return bool(self._own or self._named)

    def __iter__(self) -> Iterator[_Entry]:
        yield from self._own
        for one in self._named.values():
            yield from one

    def put(self, entry: _Entry, depth: int = 0) -> None:
        if depth == len(entry.turn):
            self._own.append(entry)
        else:
            self._named.setdefault(entry.turn[depth], _Turns()).put(entry, depth + 1)

    def take(self) -> _Entry:
        if self._own:
            return self._own.popleft()
        name = next(iter(self._named))
        one = self._named.pop(name)
        entry = one.take()
        if one:
            self._named[name] = one  # after the others
        return entry

    def remove(self, entry: _Entry, depth: int = 0) -> None:
        if depth == len(entry.turn):
            self._own.remove(entry)
            return
        one = self._named[entry.turn[depth]]
        one.remove(entry, depth + 1)
        if not one:
            del self._named[entry.turn[depth]]


class TaskQueue:
    """An open-ended source of tasks: other threads put tasks in, the runner takes them when places are free.

    Clients take turns, the users of a client take its turns in turn, and so on: a client that puts many tasks in, by
    however many users, does not delay another client's first one. Where all places are held, a task gives its own up
    after a step, if another one's client, user or search has fewer; it goes on later where it stopped.
    """

    def __init__(self) -> None:
        """Begin empty and open."""
        self._turns = _Turns()
        self._first: deque[_Entry] = deque()  # tasks without a place that are to end
        self._held: dict[int, Turn] = {}  # index -> turn, of tasks that were taken and have not ended
        self._changed = Condition()
        self._open = True
        self._put = 0
        self.size: int | None = None
        self.on_begin: Callable[[int, Assignment], None] = lambda index, own: None
        """Called by `take`, with each assignment that it hands out for the first time."""

    def waiting(self) -> set[int]:
        """Return the indices of the tasks that have not begun."""
        with self._changed:
            return {one.index for one in self._turns if not isinstance(one.task, TaskContext)}

    def put(self, task: Task | Assignment, *turn: str) -> int:
        """Add a task and return its index, which its records carry. A plain task uses the runner's own method.

        Args:
            task: The task.
            turn: Whose it is, the widest name first: client, user, search.

        Raises:
            ValueError: The queue is closed.
        """
        with self._changed:
            if not self._open:
                raise ValueError("the queue is closed: make another one")
            self._turns.put(_Entry(self._put, task, turn))
            self._put += 1
            self._changed.notify()
            return self._put - 1

    def drop(self, index: int) -> bool:
        """Remove a task that has not begun; return False if it has. One that waits to go on is the next to do so."""
        with self._changed:
            entry = next((one for one in self._turns if one.index == index), None)
            if entry is None:
                return False
            self._turns.remove(entry)
            if isinstance(entry.task, TaskContext):
                self._first.append(entry)
                return False
            return True

    def close(self) -> None:
        """Accept no more tasks; waiting tasks are still served."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        """Take the next task (see `TaskSource`). Waiting sleeps until a task is put in or the queue is closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._first or self._turns or not self._open)
            if self._first or self._turns:
                entry = self._first.popleft() if self._first else self._turns.take()
                self._held[entry.index] = entry.turn
            elif self._open:
                return None
            else:
                raise StopIteration
        if isinstance(entry.task, Assignment):
            self.on_begin(entry.index, entry.task)
        return entry.index, entry.task

    # --- for the runner

    def turn(self, index: int) -> Turn:
        """Return the turn of a task that was taken."""
        with self._changed:
            return self._held.get(index, ())

    def end(self, index: int) -> None:
        """Note that a task that was taken has ended."""
        with self._changed:
            self._held.pop(index, None)

    def put_back(self, ctx: TaskContext[Any]) -> None:
        """Let a task wait that gives up its place."""
        with self._changed:
            self._turns.put(_Entry(ctx.index, ctx, self._held.pop(ctx.index, ())))

    def forget_begun(self) -> None:
        """Note that no task is in progress any more, and remove those that wait to go on."""
        with self._changed:
            for entry in [one for one in self._turns if isinstance(one.task, TaskContext)]:
                self._turns.remove(entry)
            self._first, self._held = deque(), {}

    def choose_to_yield(self, held: Mapping[int, int]) -> list[int]:
        """Return the tasks that give their places to waiting ones, now that none is free.

        Args:
            held: Tasks that may do so -> the steps that each has made since it was given its place.
        """
        with self._changed:
            left, chosen = dict(held), list[int]()
            for _ in zip(self._first, held, strict=False):
                chosen.append(max(left, key=lambda index: left[index]))
                del left[chosen[-1]]
            many = Counter(part for turn in self._held.values() for part in _parts(turn))
            many.subtract(part for index in chosen for part in _parts(self._held.get(index, ())))
            refused: set[Turn] = set()
            for entry in self._turns:
                if entry.turn in refused:
                    continue
                able = [(self._compare(entry.turn, index, many), steps, index) for index, steps in left.items()]
                able = [one for one in able if one[0] >= 2 or (one[0] == 1 and one[1] >= _TURN_STEPS)]
                if not able:
                    refused.add(entry.turn)
                    continue
                _, _, index = max(able)
                chosen.append(index)
                del left[index]
                many.subtract(_parts(self._held.get(index, ())))
                many.update(_parts(entry.turn))
            return chosen

    def _compare(self, turn: Turn, index: int, many: Counter[Turn]) -> int:
        """Return how many more places a task's client has than one that waits, or its user, or its search."""
        for one, other in zip(_parts(turn), _parts(self._held.get(index, ())), strict=False):
            if one != other:
                return many[other] - many[one]
        return 0


def _parts(turn: Turn) -> list[Turn]:
    return [turn[: depth + 1] for depth in range(len(turn))]


class Assigned:
    """A list of assignments; an index is a place in it."""

    def __init__(
        self, assignments: Sequence[Assignment], recall: Callable[[int], Sequence[KnownStep]] | None = None
    ) -> None:
        """Take the list.

        Args:
            assignments: The tasks, with their methods and settings.
            recall: Returns the known steps of a task, by its place, once the task is taken.
        """
        self.size: int | None = len(assignments)
        """Number of tasks."""
        self.tasks = [one.task for one in assignments]
        """The tasks."""
        self._left, self._recall = enumerate(assignments), recall

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        """Take the next task: see `TaskSource`."""
        place, own = next(self._left)
        return place, own if self._recall is None else replace(own, known=self._recall(place))


class Listed:
    """The tasks of any iterable."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Read the iterable when places are free."""
        self.size: int | None = len(tasks) if isinstance(tasks, Sized) else None
        """Number of tasks, if it is known."""
        self._tasks = enumerate(tasks)

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        """Take the next task. A blocking iterator delays the tasks in progress; a `TaskQueue` does not."""
        return next(self._tasks)
