"""Serve a queue of searches with a loaded model: by a runner in this process, or spread over workers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from milr.errors import MilrError
from milr.methods import load_method
from milr.methods.queue import Assignment, TaskQueue
from milr.methods.rows import RowWatch
from milr.methods.runner import Runner
from milr.models.base import Model
from milr.models.devices import Placement
from milr.models.optional import Watchable, count_tokens
from milr.parts import Hooks, Names, Records
from milr.rewards import Reward
from milr.rewards.panel import Watcher
from milr.types import Finished, KnownStep, StepRecord
from milr.workers import WorkerChoice, load_team
from milr.workers.standins import TeamParts
from milr.workers.team import MemberFacts


class Listener(Protocol):
    """The receiver of messages about tasks, besides their records. All calls come from one thread."""

    def begun(self, index: int, tokens: int | None) -> None:
        """Note that a task was given a place, and how many tokens its prompt has, if the model counts them."""
        ...

    def lost(self, index: int, error: Exception | None) -> None:
        """Note that a task ended without a last record."""
        ...

    def watched(self, index: int) -> bool:
        """Return true if a client watches a task's images grow."""
        ...

    def show(self, index: int, tokens: int, image: Image.Image) -> None:
        """Note an image that is being drawn: so many of its tokens are there, a flat rest follows them."""
        ...

    def recall(self, index: int) -> Sequence[KnownStep]:
        """Return the recorded steps of a task in progress."""
        ...


@dataclass(frozen=True)
class Loaded:
    """A model in memory, its reward, and the rewards that only watch."""

    model: Model
    reward: Reward
    panel: Mapping[str, Reward]

    most_failures = 2
    """Failures one after the other, without a step between them, after which it is loaded again."""

    def start(self, queue: TaskQueue, batch_size: int, listener: Listener) -> Records:
        """Begin to serve a queue, until it is closed and empty or the reward scores nothing any more."""
        return _Here(self, queue, batch_size, listener)

    def workers(self) -> list[MemberFacts]:
        """Return facts about its workers; none if it draws in this process."""
        return []

    def replaced(self) -> int:
        """Return how many workers have died so far."""
        return 0

    def close(self) -> None:
        """End what was started for it."""


class _Here:
    """Records from a runner in this process."""

    def __init__(self, loaded: Loaded, queue: TaskQueue, batch_size: int, listener: Listener) -> None:
        self._watcher, self._listener = Watcher(loaded.panel), listener
        settings = loaded.model.settings("one-shot", batch_size=batch_size)
        self._runner = Runner(load_method("one-shot"), queue, loaded.model, loaded.reward, settings, on_lost=self._lose)
        self._model = loaded.model
        queue.on_begin = self._begin
        if isinstance(loaded.model, Watchable):
            RowWatch(loaded.model, self._runner.find, listener.watched, listener.show)

    @property
    def stopped(self) -> str | None:
        return self._runner.stopped

    @property
    def cut(self) -> Collection[int]:
        return self._runner.cut

    def __iter__(self) -> Iterator[StepRecord]:
        return map(self._watcher.look, self._runner)

    def cancel(self, index: int, why: Finished = "cancelled") -> None:
        self._runner.cancel(index, why)

    def close(self) -> None:
        self._runner.close()

    def _begin(self, index: int, own: Assignment) -> None:
        self._listener.begun(index, count_tokens(self._model, own.task.prompt))

    def _lose(self, index: int, error: MilrError | None) -> None:
        self._watcher.forget(index)
        self._listener.lost(index, error)


@dataclass(frozen=True)
class Spread(Loaded):
    """A model that workers have loaded. A worker that dies is replaced, and its tasks go on in another one."""

    parts: TeamParts

    most_failures = 1

    def start(self, queue: TaskQueue, batch_size: int, listener: Listener) -> Records:
        """See `Loaded`; each worker has its own batch."""
        queue.on_begin = lambda index, own: None  # the worker tells it
        hooks = Hooks(
            evaluated=lambda index, scores: None,
            recall=listener.recall,
            set_aside=lambda index, error: listener.lost(index, MilrError(error)),
            lost=lambda index: listener.lost(index, None),
            begun=listener.begun,
            watched=listener.watched,
            grown=listener.show,
        )
        return self.parts.start(queue, self.model.settings("one-shot"), hooks)

    def workers(self) -> list[MemberFacts]:
        """See `Loaded`."""
        return self.parts.team.describe()

    def replaced(self) -> int:
        """See `Loaded`."""
        return self.parts.team.replaced

    def close(self) -> None:
        """End the workers."""
        self.parts.close()


def spread(names: Names, placement: Placement, choice: WorkerChoice, batch_size: int) -> Spread:
    """Start workers, each with a batch of its own, and return a model that they draw with.

    Raises:
        MilrError: A worker cannot load a part.
    """
    parts = load_team(names, placement, choice, settings={"batch_size": batch_size})
    return Spread(parts.model, parts.reward, parts.panel, parts)
