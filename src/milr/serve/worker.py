"""One thread a model: it holds the weights and runs the one runner that serves all requests of that model."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from threading import Condition, Thread
from typing import Protocol

from PIL import Image

from milr.errors import MilrError
from milr.methods import load_method
from milr.methods.queue import TaskQueue, Waiting
from milr.methods.runner import Runner
from milr.models.base import ImageRequest
from milr.models.optional import Watchable
from milr.rewards.panel import Watcher
from milr.serve.offers import Loaded, Offer
from milr.types import Finished, StepRecord

log = logging.getLogger("milr.serve")
_MOST_FAILURES = 2
"""Failures of a model one after the other, without a step between them, after which it is loaded again."""


class Desk(Protocol):
    """The receiver of a worker's messages; all calls come from the worker's thread."""

    def loaded(self, worker: Worker, loaded: Loaded) -> None:
        """Note that the model is in memory."""
        ...

    def unloaded(self, worker: Worker) -> None:
        """Note that the model is released and will be loaded again."""
        ...

    def begun(self, worker: Worker, index: int) -> None:
        """Note that a task was given its place."""
        ...

    def keep(self, worker: Worker, record: StepRecord) -> None:
        """Note that a step was made."""
        ...

    def watched(self, worker: Worker, index: int) -> bool:
        """Return true if a client watches a task's images grow."""
        ...

    def show(self, worker: Worker, index: int, tokens: int, image: Image.Image) -> None:
        """Note an image that is being drawn: so many of its tokens are there, a flat rest follows them."""
        ...

    def lost(self, worker: Worker, index: int, error: Exception | None) -> None:
        """Note that a task ended without a last record."""
        ...

    def broken(self, worker: Worker, error: Exception) -> None:
        """Every task in progress ended without a last record."""
        ...

    def ended(self, worker: Worker, error: Exception | None) -> None:
        """Note that the worker ends: it was stopped, or its model cannot be loaded."""
        ...


class Memory:
    """Bytes of weights that may be loaded at once; a model that needs more waits until others are released."""

    def __init__(self, most: int | None, on_want: Callable[[], None]) -> None:
        """Begin with nothing loaded.

        Args:
            most: None means no limit. A model larger than the limit is loaded alone.
            on_want: Called when a thread begins to wait.
        """
        self.most, self._on_want = most, on_want
        self.wanting = 0
        """Number of waiting models."""
        self._held = 0
        self._open = True
        self._changed = Condition()

    def close(self) -> None:
        """Wake all waiting threads, for good."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    @contextmanager
    def hold(self, amount: int) -> Generator[None]:
        """Wait for room, and keep it during the block."""

        def fits() -> bool:
            return not self._open or self.most is None or not self._held or self._held + amount <= self.most

        with self._changed:
            self.wanting += 1
        if not fits():
            self._on_want()
        with self._changed:
            self._changed.wait_for(fits)
            self.wanting -= 1
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()


class _Queue(TaskQueue):
    """A queue that reports the tasks that it hands out."""

    def __init__(self, worker: Worker, desk: Desk) -> None:
        super().__init__()
        self._worker, self._desk = worker, desk

    def take(self, *, wait: bool) -> tuple[int, Waiting] | None:
        taken = super().take(wait=wait)
        if taken is not None:
            self._desk.begun(self._worker, taken[0])
        return taken


class Worker(Thread):
    """A thread that loads a model and serves its queue until it is stopped."""

    def __init__(self, offer: Offer, batch_size: int, memory: Memory, desk: Desk) -> None:
        """Prepare; `start` begins to load."""
        super().__init__(name=f"milr-{offer.name}", daemon=True)
        self.offer = offer
        self.queue = _Queue(self, desk)
        self._batch_size, self._memory, self._desk = batch_size, memory, desk
        self._runner: Runner | None = None
        self._watcher = Watcher({})
        self._stopping = False
        self.ready = False
        """True if the model is in memory."""

    def run(self) -> None:
        """Serve until the queue is closed and empty, or `stop`."""
        with self._memory.hold(self.offer.bytes):
            fault: Exception | None = None
            try:
                while not self._stopping and self._serve(self.offer.load()):
                    self._desk.unloaded(self)
                    gc.collect()
            except Exception as error:
                log.exception("model failed", extra={"facts": {"model": self.offer.name}})
                fault = error
            self._runner, self._watcher, self.ready = None, Watcher({}), False
            self._desk.ended(self, fault)
            del fault  # its frames hold the weights
            gc.collect()

    def cancel(self, index: int, why: Finished) -> None:
        """End a task that was given its place, at its next record."""
        if self._runner is not None:
            self._runner.cancel(index, why)

    def stop(self) -> None:
        """End after the step in progress; waiting tasks are not started."""
        self._stopping = True
        self.queue.close()

    def _serve(self, loaded: Loaded) -> bool:
        """Serve until the end; return true if the model fails again and again, and may work if it is loaded again."""
        failures = 0
        self._watcher = Watcher(loaded.panel)
        if isinstance(loaded.model, Watchable):
            loaded.model.on_rows = partial(self._see, loaded.model)
        self.ready = True
        self._desk.loaded(self, loaded)
        settings = loaded.model.settings("one-shot", batch_size=self._batch_size)
        while not self._stopping:
            runner = self._runner = Runner(
                load_method("one-shot"), self.queue, loaded.model, loaded.reward, settings, on_lost=self._lose
            )
            try:
                with closing(runner):
                    for record in runner:
                        failures = 0
                        self._desk.keep(self, self._watcher.look(record))
                        if self._stopping:
                            return False
                if runner.stopped is None:  # the queue is closed and empty
                    return False
            except Exception as error:  # no task is known to be at fault: all tasks in progress end
                log.exception("runner failed", extra={"facts": {"model": self.offer.name}})
                self._watcher = Watcher(loaded.panel)
                self._desk.broken(self, error)
                failures += 1
            if failures >= _MOST_FAILURES:
                log.error("model loaded again", extra={"facts": {"model": self.offer.name, "failures": failures}})
                self._runner, self._watcher, self.ready = None, Watcher({}), False
                return True
        return False

    def _see(self, model: Watchable, requests: Sequence[ImageRequest], read: Callable[[], list[list[int]]]) -> None:
        """Send unfinished images to the clients that watch, the first image of each task."""
        runner = self._runner
        found = (
            {}
            if runner is None
            else {runner.find(one.state): place for place, one in reversed(list(enumerate(requests)))}
        )
        watched = {
            index: place for index, place in found.items() if index is not None and self._desk.watched(self, index)
        }
        if not watched:
            return
        tokens = read()
        for index, place in watched.items():
            self._desk.show(self, index, len(tokens[place]), model.show_tokens(tokens[place]))

    def _lose(self, index: int, error: MilrError | None) -> None:
        self._watcher.forget(index)
        self._desk.lost(self, index, error)
