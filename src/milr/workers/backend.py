"""The protocol of a backend: it starts workers and carries messages. `processes` and `ray_actors` implement it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from milr.workers.messages import Command, Message, Spec


class Handle(Protocol):
    """A worker, as the coordinator sees it."""

    where: str
    """The worker in words: its process, or its actor and node."""

    def send(self, command: Command) -> None:
        """Send a command. A worker that is gone gets none; `Backend.receive` reports that."""
        ...


class Backend(Protocol):
    """Starts workers and receives their messages."""

    count: int
    """Number of workers that are wanted."""

    def start(self, spec: Spec, number: int) -> Handle:
        """Start worker `number`, from 0; it replaces an earlier one of that number."""
        ...

    def receive(self, seconds: float) -> Sequence[tuple[Handle, Message]]:
        """Wait for messages, at most so long; return at most a few per worker. A worker's last one is `Died`."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...
