"""The desk: it accepts requests, passes their images to the models' workers, and stores the results."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from threading import Event as Flag
from threading import RLock, Thread

from PIL.Image import Image
from sqlalchemy.exc import SQLAlchemyError

from milr.errors import MilrError
from milr.methods import load_method
from milr.methods.queue import Assignment
from milr.serve.asked import Order
from milr.serve.config import ServeSettings
from milr.serve.drawing import Loaded
from milr.serve.errors import busy, draining, say_error
from milr.serve.jobs import Growing, Job, make_row
from milr.serve.journal import Journal
from milr.serve.metrics import Metrics
from milr.serve.models import Models
from milr.serve.offers import Offer
from milr.serve.pictures import make_growing
from milr.serve.steps import Place
from milr.serve.store import SearchRow, State, Store
from milr.serve.suspects import MOST_ATTEMPTS, Suspects
from milr.serve.worker import Worker
from milr.types import Finished, KnownStep, StepRecord
from milr.workers.team import MemberFacts

log = logging.getLogger("milr.serve")
_PREFIX = "search_"
_TICK = 0.25  # seconds between looks at the deadlines


class Desk:
    """All searches of a server. Its methods may be called from any thread."""

    def __init__(self, offers: Sequence[Offer], settings: ServeSettings, store: Store, metrics: Metrics) -> None:
        """Prepare; nothing is loaded before `start`."""
        self.offers, self.settings, self.store, self.metrics = offers, settings, store, metrics
        self.on_change: Callable[[str], None] = lambda search: None
        """Called with the id of a search that has a new event."""
        self.is_watched: Callable[[str], bool] = lambda search: False
        """Called with the id of a search; true if a client watches its images grow."""
        self.draining = False
        self._lock = RLock()
        self._shown = 0
        self._jobs: dict[str, Job] = {}
        self._places: dict[tuple[Worker, int], str] = {}  # index in a worker's queue -> search
        self._models = Models(offers, settings, self, self._make_room)
        self._suspects, self._journal = Suspects(store), Journal(store, metrics)
        self._closed = Flag()
        self._clock = Thread(target=self._watch_clock, name="milr-clock", daemon=True)

    # --- for clients

    def start(self) -> None:
        """Go on with the searches that an earlier process left, and load the first model."""
        attempts = self.store.attempts()
        # Fewest attempts first: ends from outside count for another search each time, so that only a search that ends
        # the process whenever it is drawn reaches the limit before all others are drawn.
        for row in sorted(self.store.unfinished(), key=lambda row: attempts.get(row.id, 0)):
            self._take_up(row, attempts.get(row.id, 0))
        self._try_suspect()
        if self.offers:
            self._models.find(self.offers[0].name)
        self._clock.start()

    @property
    def ready(self) -> bool:
        """Return true if the first model, where there is one, is loaded and orders are accepted."""
        return not self.draining and (not self.offers or self.loads()[self.offers[0].name])

    def submit(self, order: Order, owner: str = "", client: str = "") -> str:
        """Take an order; return the search's id.

        Args:
            order: From `make_order`.
            owner: The key that asks; empty without keys.
            client: Key or address, for the limits.

        Raises:
            ApiError: Too much waits already, or the server is about to end.
        """
        limits = self.settings.limits
        with self._lock:
            if self.draining:
                raise draining()
            if sum(len(job.open) for job in self._jobs.values()) + order.wanted > limits.waiting:
                raise busy(f"{limits.waiting} images wait or are drawn already", self._guess_wait())
            own = sum(len(job.open) for job in self._jobs.values() if job.client == client)
            if own + order.wanted > limits.per_client:
                raise busy(f"{own} images of yours wait or are drawn, of {limits.per_client}", self._guess_wait())
            job = self._make_job(_PREFIX + secrets.token_hex(12), order, owner, client)
            self.store.add(make_row(job, "waiting"))
            self._jobs[job.id] = job
            self._hand_out(job)
        facts: dict[str, object] = {"search": job.id, "model": order.model, "images": order.wanted}
        if self.settings.log_prompts:
            facts["prompts"] = [task.prompt for task in order.tasks]
        log.info("search accepted", extra={"facts": facts})
        return job.id

    def stop(self, search: str, why: Finished = "cancelled") -> None:
        """End a search with its best images so far; one that has ended stays as it is."""
        with self._lock:
            job = self._jobs.get(search)
            if job is None or job.why is not None:
                return
            job.why = why
            self._suspects.drop(job)
            for index in list(job.open):
                assert job.worker is not None, "an image that is open has a worker"
                if job.worker.queue.drop(index):
                    self._leave(job.worker, index)
                else:
                    job.worker.cancel(index, why)
        self._end_if_over(job)

    def live(self, search: str) -> bool:
        """Return whether a search is in progress."""
        with self._lock:
            return search in self._jobs

    def growing(self, search: str, after: int) -> list[Growing]:
        """Return the unfinished images of a search that were not sent yet, the oldest first."""
        with self._lock:
            job = self._jobs.get(search)
            found = [] if job is None else [one for one in job.growing.values() if one.number > after]
            return sorted(found, key=lambda one: one.number)

    def loads(self) -> dict[str, bool]:
        """Return which models are in memory."""
        return self._models.loads()

    def workers(self) -> dict[str, tuple[int, list[MemberFacts]]]:
        """See `Models.workers`."""
        return self._models.workers()

    def load(self) -> tuple[int, int]:
        """Return how many images wait, and how many are drawn."""
        with self._lock:
            whole = sum(len(job.open) for job in self._jobs.values())
            waiting = self._models.waiting()
            return waiting, whole - waiting

    def drain(self) -> None:
        """Take no more orders; end after the steps in progress."""
        with self._lock:
            self.draining = True
            self._models.stop()
            searches = list(self._jobs)
        for search in searches:
            self.on_change(search)

    def close(self) -> None:
        """Drain, wait for the steps in progress, and leave every search so that the next start continues it."""
        self.drain()
        self._closed.set()
        until = time.monotonic() + self.settings.shutdown_seconds
        for worker in self._models.close():
            worker.join(max(0.0, until - time.monotonic()))
        self.store.close()

    # --- for workers

    def loaded(self, worker: Worker, loaded: Loaded) -> None:
        """See `milr.serve.worker.Desk`."""
        log.info("model loaded", extra={"facts": {"model": worker.offer.name, "name": loaded.model.name}})
        self._models.note_loaded(worker, loaded)
        self._make_room()  # its searches may have been cancelled while it was loaded

    def unloaded(self, worker: Worker) -> None:
        """See `milr.serve.worker.Desk`."""
        self._models.note_unloaded(worker)

    def begun(self, worker: Worker, index: int, tokens: int | None) -> None:
        """See `milr.serve.worker.Desk`."""
        with self._lock:
            job = self._jobs.get(self._places.get((worker, index), ""))
            if job is not None and tokens is not None and index in job.open:
                job.prompt_tokens[job.open[index]] = tokens
        if job is not None and not job.started:
            job.started = job.tried = True
            try:
                self._journal.begin(job)
            except SQLAlchemyError as error:
                self._cannot_write(job, error)
            self.on_change(job.id)

    def keep(self, worker: Worker, record: StepRecord) -> None:
        """See `milr.serve.worker.Desk`."""
        with self._lock:
            job = self._jobs.get(self._places.get((worker, record.index), ""))
            place = None if job is None else job.open.get(record.index)
        if job is None or place is None:
            return
        with self._lock:
            job.growing.pop(place, None)
        try:
            if not job.error:
                step = job.write(record, place, self._models.loaded(worker))
                if self._journal.tell(job, step) and job.tried:
                    self._suspects.acquit(job)
                    self._try_suspect()
                self.metrics.step(worker.offer.name, record)
        except (MilrError, OSError, SQLAlchemyError) as error:
            self._cannot_write(job, error)
        if record.finished is not None:
            self._leave(worker, record.index)
            self._end_if_over(job)
        self.on_change(job.id)

    def watched(self, worker: Worker, index: int) -> bool:
        """See `milr.serve.worker.Desk`."""
        with self._lock:
            search = self._places.get((worker, index))
        return search is not None and self.is_watched(search)

    def recall(self, worker: Worker, index: int) -> Sequence[KnownStep]:
        """See `milr.serve.worker.Desk`."""
        with self._lock:
            job = self._jobs.get(self._places.get((worker, index), ""))
            place = None if job is None else job.open.get(index)
        return () if job is None or place is None else job.recall(place)

    def show(self, worker: Worker, index: int, tokens: int, image: Image) -> None:
        """See `milr.serve.worker.Desk`."""
        share = tokens / worker.offer.capabilities.image_tokens
        url = make_growing(image, share)
        with self._lock:
            job = self._jobs.get(self._places.get((worker, index), ""))
            place = None if job is None else job.open.get(index)
            if job is None or place is None:
                return
            self._shown += 1
            data = {"task": place[0], "image": place[1], "drawn": round(share, 4), "url": url}
            job.growing[place] = Growing(self._shown, data)
        self.on_change(job.id)

    def lost(self, worker: Worker, index: int, error: Exception | None) -> None:
        """See `milr.serve.worker.Desk`."""
        with self._lock:
            job = self._jobs.get(self._places.get((worker, index), ""))
            if job is None:
                return
            self._leave(worker, index)
        if error is not None:
            self._break(job, error)
        self._end_if_over(job)

    def broken(self, worker: Worker, error: Exception) -> None:
        """See `milr.serve.worker.Desk`."""
        for index in self._indices(worker) - worker.queue.waiting():
            self.lost(worker, index, error)

    def ended(self, worker: Worker, error: Exception | None) -> None:
        """See `milr.serve.worker.Desk`."""
        self._models.note_ended(worker)
        if self.draining:
            with self._lock:
                left = [job for job in self._jobs.values() if job.order.model == worker.offer.name]
            for job in left:
                job.close(GeneratorExit("the server ends"))
                self._suspects.acquit(job)
        elif error is not None:
            worker.queue.close()
            told = MilrError(f"the model {worker.offer.name!r} cannot be loaded: the server's log says why")
            for index in self._indices(worker):
                self.lost(worker, index, told)

    # --- inside

    def _take_up(self, row: SearchRow, attempts: int) -> None:
        """Go on with a search of an earlier process, or say why not.

        Args:
            row: The search.
            attempts: Processes that have ended, one after the other, after they gave it a place and before a step.
        """
        if attempts >= MOST_ATTEMPTS:
            told = f"the server's process ended {attempts} times while it drew this search, which is given up"
            self._journal.end(row.id, "failed", told)
            self.store.succeed(row.id)
            return
        try:
            order = Order.model_validate_json(row.request)
            if all(offer.name != order.model for offer in self.offers):
                raise MilrError(f"the server was started again without the model {order.model!r}")
            job = self._make_job(row.id, order, row.owner, row.owner)
            for step in job.resume():
                self._journal.tell(job, step)
        except (ValueError, MilrError, OSError) as error:
            self._journal.end(row.id, "failed", say_error(error))
            return
        except SQLAlchemyError as error:  # a full disk: the next start tries again
            log.error("search not taken up", extra={"facts": {"search": row.id, "error": str(error)}})
            return
        with self._lock:
            self._jobs[job.id] = job
            if attempts:
                self._suspects.add(job, attempts)
                return
            self._hand_out(job)
        self._end_if_over(job)
        log.info("search taken up", extra={"facts": {"search": job.id, "left": len(job.open)}})

    def _try_suspect(self) -> None:
        """Give a place to the next search that may end the process; the others wait until it has made a step."""
        with self._lock:
            job = self._suspects.next(self._jobs.values())
            if job is None:
                return
            self._hand_out(job)
        self._end_if_over(job)

    def _make_job(self, search: str, order: Order, owner: str, client: str) -> Job:
        expires = time.monotonic() + order.seconds
        return Job(search, owner, client, order, self.settings.data / search, expires)

    def _hand_out(self, job: Job) -> None:
        """Put the remaining tasks of a search into its model's queue; called with the lock held."""
        method = load_method(job.order.settings.method)
        worker = job.worker = self._models.find(job.order.model)
        for place in job.remaining():
            given = Assignment(job.order.tasks[place[0]], method, job.order.seed(place[1]), known=job.recall(place))
            index = worker.queue.put(given, job.client, job.order.user, job.id)
            job.open[index] = place
            self._places[worker, index] = job.id

    def _make_room(self) -> None:
        """Let go of a model that no search needs, while another waits for memory."""
        with self._lock:
            self._models.make_room({job.order.model for job in self._jobs.values()})

    def _leave(self, worker: Worker, index: int) -> None:
        """Note that an image has ended."""
        with self._lock:
            search = self._places.pop((worker, index), None)
            if search is not None and search in self._jobs:
                self._jobs[search].open.pop(index, None)

    def _break(self, job: Job, error: Exception) -> None:
        """Note that a search has failed: none of its images begins any more, and its results stay."""
        log.warning("search failed", extra={"facts": {"search": job.id, "error": say_error(error)}})
        job.error = job.error or say_error(error)
        self.stop(job.id)

    def _cannot_write(self, job: Job, error: Exception) -> None:
        log.error("run not written", extra={"facts": {"search": job.id, "error": str(error)}})
        self._break(job, MilrError("the server cannot write its steps, for want of room perhaps"))

    def _end_if_over(self, job: Job) -> None:
        """Close a search of which nothing is left."""
        with self._lock:
            if job.open or job.ending:
                return
            job.ending = True
        wanted: Place | None = next(iter(job.remaining()), None)
        if not job.error and wanted is not None and job.why == "out of time":
            job.error = "out of time before every image had a first drawing"
        cancelled = any(step.finished == "cancelled" for step in job.ends.values()) or wanted is not None
        state: State = "failed" if job.error else "cancelled" if cancelled else "finished"
        try:
            job.close(MilrError(job.error) if job.error else GeneratorExit() if wanted is not None else None)
        except (MilrError, OSError) as error:
            state, job.error = "failed", job.error or say_error(error)
        self._journal.end(job.id, state, job.error, **job.conclude())
        with self._lock:
            del self._jobs[job.id]
        self._suspects.acquit(job)
        self._try_suspect()
        self.on_change(job.id)
        self._make_room()

    def _indices(self, worker: Worker) -> set[int]:
        with self._lock:
            return {index for one, index in self._places if one is worker}

    def _guess_wait(self) -> int:
        """Return after how many seconds a place may be free."""
        return 1 + len(self._places) // self.settings.batch_size

    def _watch_clock(self) -> None:
        while not self._closed.wait(_TICK):
            with self._lock:
                over = [job.id for job in self._jobs.values() if job.why is None and time.monotonic() > job.expires]
            for search in over:
                self.stop(search, "out of time")
