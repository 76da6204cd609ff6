"""Sources of tasks for the runner: any iterable, assignments, or a queue that stays open (a server's)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from threading import Condition
from typing import Protocol, TypeAlias

from milr.methods.context import Method
from milr.settings import Settings
from milr.types import KnownStep, Task


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


Waiting: TypeAlias = "Task | Assignment"


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


class TaskQueue:
    """An open-ended source of tasks: other threads put tasks in, the runner takes them when places are free.

    Clients take turns, and the users of a client take its turns in turn: a client that puts many tasks in, by however
    many users, does not delay another client's first one.
    """

    def __init__(self) -> None:
        """Begin empty and open."""
        # client -> user -> tasks; the next client and its next user come first
        self._tasks: dict[str, dict[str, deque[tuple[int, Waiting]]]] = {}
        self._changed = Condition()
        self._open = True
        self._put = 0
        self.size: int | None = None

    def waiting(self) -> set[int]:
        """Return the indices of the tasks that wait."""
        with self._changed:
            return {index for users in self._tasks.values() for waiting in users.values() for index, _ in waiting}

    def put(self, task: Waiting, client: str = "", user: str = "") -> int:
        """Add a task and return its index, which its records carry. A plain task uses the runner's own method.

        Raises:
            ValueError: The queue is closed.
        """
        with self._changed:
            if not self._open:
                raise ValueError("the queue is closed: make another one")
            self._tasks.setdefault(client, {}).setdefault(user, deque()).append((self._put, task))
            self._put += 1
            self._changed.notify()
            return self._put - 1

    def drop(self, index: int) -> bool:
        """Remove a waiting task; return False if it is no longer waiting."""
        with self._changed:
            for client, users in self._tasks.items():
                for user, waiting in users.items():
                    for one in waiting:
                        if one[0] == index:
                            waiting.remove(one)
                            if not waiting:
                                del users[user]
                            if not users:
                                del self._tasks[client]
                            return True
            return False

    def close(self) -> None:
        """Accept no more tasks; waiting tasks are still served."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        """Take the next task (see `TaskSource`). Waiting sleeps until a task is put in or the queue is closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._tasks or not self._open)
            if self._tasks:
                client = next(iter(self._tasks))
                users = self._tasks.pop(client)
                user = next(iter(users))
                waiting = users.pop(user)
                taken = waiting.popleft()
                if waiting:
                    users[user] = waiting  # after the client's others
                if users:
                    self._tasks[client] = users  # after the others
                return taken
            if self._open:
                return None
            raise StopIteration


class Assigned:
    """A list of assignments; an index is a place in it."""

    def __init__(self, assignments: Sequence[Assignment]) -> None:
        """Take the list."""
        self.size: int | None = len(assignments)
        """Number of tasks."""
        self.tasks = [one.task for one in assignments]
        """The tasks."""
        self._left = enumerate(assignments)

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        """Take the next task: see `TaskSource`."""
        return next(self._left)


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
