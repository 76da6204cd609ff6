"""One thread a model: it holds the weights and runs the one runner that serves all requests of that model."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import closing, contextmanager
from threading import Condition, Thread
from typing import Protocol

from PIL import Image

from milr.methods.queue import TaskQueue
from milr.parts import Records
from milr.serve.drawing import Loaded
from milr.serve.offers import Offer
from milr.types import Finished, KnownStep, StepRecord

log = logging.getLogger("milr.serve")


class Desk(Protocol):
    """The receiver of a worker's messages; all calls come from the worker's thread."""

    def loaded(self, worker: Worker, loaded: Loaded) -> None:
        """Note that the model is in memory."""
        ...

    def unloaded(self, worker: Worker) -> None:
        """Note that the model is released and will be loaded again."""
        ...

    def begun(self, worker: Worker, index: int, tokens: int | None) -> None:
        """Note that a task was given its place, and the number of its prompt's tokens where the model counts them."""
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

    def recall(self, worker: Worker, index: int) -> Sequence[KnownStep]:
        """Return the recorded steps of a task in progress."""
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
        self._held: dict[Hashable, int] = {}
        self._leaving: set[Hashable] = set()
        self._wanted: list[int] = []
        self._open = True
        self._changed = Condition()

    def close(self) -> None:
        """Wake all waiting threads, for good."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def lacking(self) -> bool:
        """Return true if the waiting models will not all fit, even when the models that leave have left."""
        with self._changed:
            staying = sum(amount for owner, amount in self._held.items() if owner not in self._leaving)
            return bool(self._wanted) and not self._fits(sum(self._wanted), staying)

    def expect(self, owner: Hashable) -> None:
        """Note that a model has been told to leave."""
        with self._changed:
            self._leaving.add(owner)

    @contextmanager
    def hold(self, owner: Hashable, amount: int) -> Generator[None]:
        """Wait for room, and keep it during the block."""

        def fits() -> bool:
            return self._fits(amount, sum(self._held.values()))

        with self._changed:
            self._wanted.append(amount)
            waits = not fits()
        if waits:
            self._on_want()
        with self._changed:
            self._changed.wait_for(fits)
            self._wanted.remove(amount)
            self._held[owner] = amount
        try:
            yield
        finally:
            with self._changed:
                del self._held[owner]
                self._leaving.discard(owner)
                self._changed.notify_all()

    def _fits(self, amount: int, held: int) -> bool:
        return not self._open or self.most is None or not held or held + amount <= self.most


class Worker(Thread):
    """A thread that loads a model and serves its queue until it is stopped."""

    def __init__(self, offer: Offer, batch_size: int, memory: Memory, desk: Desk) -> None:
        """Prepare; `start` begins to load."""
        super().__init__(name=f"milr-{offer.name}", daemon=True)
        self.offer = offer
        self.queue = TaskQueue()
        self._batch_size, self._memory, self._desk = batch_size, memory, desk
        self._records: Records | None = None
        self._stopping = False
        self.ready = False
        """True if the model is in memory."""

    def run(self) -> None:
        """Serve until the queue is closed and empty, or `stop`."""
        with self._memory.hold(self, self.offer.bytes):
            fault: Exception | None = None
            try:
                while not self._stopping and self._serve_once():
                    self._desk.unloaded(self)
                    gc.collect()
            except Exception as error:
                log.exception("model failed", extra={"facts": {"model": self.offer.name}})
                fault = error
            self._records, self.ready = None, False
            self._desk.ended(self, fault)
            del fault  # its frames hold the weights
            gc.collect()

    def cancel(self, index: int, why: Finished) -> None:
        """End a task that was given its place, at its next record."""
        if self._records is not None:
            self._records.cancel(index, why)

    def stop(self) -> None:
        """End after the step in progress; waiting tasks are not started."""
        self._stopping = True
        self.queue.close()

    def _serve_once(self) -> bool:
        with closing(self.offer.load()) as loaded:
            return self._serve(loaded)

    def _serve(self, loaded: Loaded) -> bool:
        """Serve until the end; return true if the model fails again and again, and may work if it is loaded again."""
        failures, listener = 0, _Listener(self, self._desk)
        self.ready = True
        self._desk.loaded(self, loaded)
        while not self._stopping:
            try:
                records = self._records = loaded.start(self.queue, self._batch_size, listener)
                with closing(records):
                    for record in records:
                        failures = 0
                        self._desk.keep(self, record)
                        if self._stopping:
                            return False
                if records.stopped is None:  # the queue is closed and empty
                    return False
            except Exception as error:  # no task is known to be at fault: all tasks in progress end
                log.exception("runner failed", extra={"facts": {"model": self.offer.name}})
                self.queue.forget_begun()
                self._desk.broken(self, error)
                failures += 1
            if failures >= loaded.most_failures:
                log.error("model loaded again", extra={"facts": {"model": self.offer.name, "failures": failures}})
                self._records, self.ready = None, False
                return True
        return False


class _Listener:
    """A worker's messages about its tasks, for the desk. Implements `milr.serve.drawing.Listener`."""

    def __init__(self, worker: Worker, desk: Desk) -> None:
        self._worker, self._desk = worker, desk

    def begun(self, index: int, tokens: int | None) -> None:
        self._desk.begun(self._worker, index, tokens)

    def lost(self, index: int, error: Exception | None) -> None:
        self._desk.lost(self._worker, index, error)

    def watched(self, index: int) -> bool:
        return self._desk.watched(self._worker, index)

    def show(self, index: int, tokens: int, image: Image.Image) -> None:
        self._desk.show(self._worker, index, tokens, image)

    def recall(self, index: int) -> Sequence[KnownStep]:
        return self._desk.recall(self._worker, index)
