"""Where the runner takes tasks from: any iterable, or a queue that stays open (a server's)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sized
from threading import Condition
from typing import Protocol

from milr.types import Task


class TaskSource(Protocol):
    """What the runner takes tasks from."""

    size: int | None
    """How many there are, if that is known."""

    def take(self, *, wait: bool) -> Task | None:
        """Return the next task; None if there is none at the moment, which cannot be if it may wait.

        Raises:
            StopIteration: There will be no more.
        """
        ...


class TaskQueue:
    """An open-ended source of tasks: other threads put tasks in, the runner takes them as places get free."""

    def __init__(self) -> None:
        """Begin empty and open."""
        self._tasks: deque[Task] = deque()
        self._changed = Condition()
        self._open = True
        self._put = 0
        self.size: int | None = None

    def put(self, task: Task) -> int:
        """Add a task; return its index, which its records carry.

        Raises:
            ValueError: The queue is closed.
        """
        with self._changed:
            if not self._open:
                raise ValueError("the queue is closed: make another one")
            self._tasks.append(task)
            self._put += 1
            self._changed.notify()
            return self._put - 1

    def close(self) -> None:
        """Take no more tasks; those that are in it are still served."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def take(self, *, wait: bool) -> Task | None:
        """See `TaskSource`; waiting sleeps until a task is put in or the queue is closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._tasks or not self._open)
            if self._tasks:
                return self._tasks.popleft()
            if self._open:
                return None
            raise StopIteration


class Listed:
    """Tasks of any iterable."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Iterate over the tasks as places get free."""
        self.size = len(tasks) if isinstance(tasks, Sized) else None
        """How many there are, if that is known."""
        self._tasks = iter(tasks)

    def take(self, *, wait: bool) -> Task | None:
        """See `TaskSource`; an iterator that blocks holds up the tasks in progress: a `TaskQueue` does not."""
        return next(self._tasks)
