"""The models of a server: each that is asked for has a worker, as far as the memory allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from threading import Lock

from milr.serve.config import ServeSettings
from milr.serve.drawing import Loaded
from milr.serve.offers import Offer
from milr.serve.worker import Desk, Memory, Worker
from milr.workers.team import MemberFacts


class Models:
    """The workers of a server's models. Its methods may be called from any thread."""

    def __init__(
        self, offers: Sequence[Offer], settings: ServeSettings, desk: Desk, on_want: Callable[[], None]
    ) -> None:
        """Prepare; nothing is loaded.

        Args:
            offers: The models.
            settings: Memory, and the size of batches.
            desk: The receiver of the workers' messages.
            on_want: Called when a model waits for memory, so that `make_room` may be called.
        """
        self._offers = {offer.name: offer for offer in offers}
        self._batch_size, self._desk = settings.batch_size, desk
        self._lock = Lock()
        self._workers: dict[str, Worker] = {}  # the least recently used model first
        self._loaded: dict[Worker, Loaded] = {}
        self._memory = Memory(settings.memory, on_want)

    def find(self, name: str) -> Worker:
        """Return a model's worker, a new one if it has none."""
        with self._lock:
            worker = self._workers.pop(name, None)
            if worker is None:
                worker = Worker(self._offers[name], self._batch_size, self._memory, self._desk)
                worker.start()
            self._workers[name] = worker  # the most recently used one comes last
            return worker

    def note_loaded(self, worker: Worker, loaded: Loaded) -> None:
        """Note that a worker's model is in memory."""
        with self._lock:
            self._loaded[worker] = loaded

    def note_unloaded(self, worker: Worker) -> None:
        """Note that a worker's model is in memory no more."""
        with self._lock:
            self._loaded.pop(worker, None)

    def note_ended(self, worker: Worker) -> None:
        """Note that a worker has ended."""
        with self._lock:
            self._loaded.pop(worker, None)
            if self._workers.get(worker.offer.name) is worker:
                del self._workers[worker.offer.name]

    def loaded(self, worker: Worker) -> Loaded:
        """Return what a worker has in memory."""
        return self._loaded[worker]

    def loads(self) -> dict[str, bool]:
        """Return which models are in memory."""
        return {name: (w := self._workers.get(name)) is not None and w.ready for name in self._offers}

    def workers(self) -> dict[str, tuple[int, list[MemberFacts]]]:
        """Return each loaded model's workers, and how many of them have died; none if it draws in this process."""
        with self._lock:
            found = [(worker.offer.name, loaded) for worker, loaded in self._loaded.items()]
        return {name: (loaded.replaced(), loaded.workers()) for name, loaded in found}

    def waiting(self) -> int:
        """Return how many images have no place yet."""
        with self._lock:
            return sum(len(worker.queue.waiting()) for worker in self._workers.values())

    def make_room(self, busy: Collection[str]) -> None:
        """Let go of the idle models that were used least recently, as many as the waiting models need.

        Args:
            busy: Models that are not idle.
        """
        with self._lock:
            idle = [worker for name, worker in self._workers.items() if worker.ready and name not in busy]
            for worker in idle:
                if not self._memory.lacking():
                    break
                del self._workers[worker.offer.name]
                self._memory.expect(worker)
                worker.stop()

    def stop(self) -> None:
        """Tell all workers to end after the step in progress."""
        with self._lock:
            for worker in self._workers.values():
                worker.stop()

    def close(self) -> list[Worker]:
        """Let nothing wait for memory any more; return the workers that have not ended."""
        self._memory.close()
        with self._lock:
            return list(self._workers.values())
