"""Where the runner takes tasks from: any iterable, or a queue that stays open (a server's)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from threading import Condition
from typing import Protocol, TypeAlias

from milr.methods.context import Method
from milr.settings import Settings
from milr.types import Task


@dataclass(frozen=True)
class Assignment:
    """A task with the method and the settings that solve it: in one queue, tasks may differ in these.

    Its random streams depend on its content and its seed alone, not on what came before it.
    """

    task: Task
    method: Method
    settings: Settings
    """Of that method; batch size and total limits are the runner's own."""


Waiting: TypeAlias = "Task | Assignment"


class TaskSource(Protocol):
    """What the runner takes tasks from."""

    size: int | None
    """How many there are, if that is known."""

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        """Return the next task and its index; None if there is none at the moment, which cannot be if it may wait.

        Raises:
            StopIteration: There will be no more.
        """
        ...


class TaskQueue:
    """An open-ended source of tasks: other threads put tasks in, the runner takes them as places get free.

    Clients take turns: whoever puts many tasks in does not hold up another's first.
    """

    def __init__(self) -> None:
        """Begin empty and open."""
        self._tasks: dict[str, deque[tuple[int, Waiting]]] = {}  # client -> its tasks; whose turn it is comes first
        self._changed = Condition()
        self._open = True
        self._put = 0
        self.size: int | None = None

    def __len__(self) -> int:
        """Return how many tasks wait."""
        with self._changed:
            return sum(map(len, self._tasks.values()))

    def put(self, task: Waiting, client: str = "") -> int:
        """Add a task; return its index, which its records carry. A plain task is solved by the runner's own method.

        Raises:
            ValueError: The queue is closed.
        """
        with self._changed:
            if not self._open:
                raise ValueError("the queue is closed: make another one")
            self._tasks.setdefault(client, deque()).append((self._put, task))
            self._put += 1
            self._changed.notify()
            return self._put - 1

    def drop(self, index: int) -> bool:
        """Take out a task that waits; return False where it does not wait any more."""
        with self._changed:
            for client, waiting in self._tasks.items():
                for one in waiting:
                    if one[0] == index:
                        waiting.remove(one)
                        if not waiting:
                            del self._tasks[client]
                        return True
            return False

    def close(self) -> None:
        """Take no more tasks; those that are in it are still served."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        """See `TaskSource`; waiting sleeps until a task is put in or the queue is closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._tasks or not self._open)
            if self._tasks:
                client = next(iter(self._tasks))
                waiting = self._tasks.pop(client)
                taken = waiting.popleft()
                if waiting:
                    self._tasks[client] = waiting  # behind the others
                return taken
            if self._open:
                return None
            raise StopIteration


class Listed:
    """Tasks of any iterable."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Iterate over the tasks as places get free."""
        self.size = len(tasks) if isinstance(tasks, Sized) else None
        """How many there are, if that is known."""
        self._tasks = enumerate(tasks)

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        """See `TaskSource`; an iterator that blocks holds up the tasks in progress: a `TaskQueue` does not."""
        return next(self._tasks)
