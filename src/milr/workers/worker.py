"""The worker: it loads a run's parts once, runs the tasks that it is given through one runner, and tells all records.

It knows no backend: commands come by `Worker.take_command`, messages go to a function.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from threading import Lock, Semaphore, Thread

from PIL import Image

from milr.errors import MilrError
from milr.methods import load_method
from milr.methods.queue import Assignment, TaskQueue
from milr.methods.rows import RowWatch
from milr.methods.runner import Runner
from milr.models.devices import machine_facts
from milr.models.hub import HubAccess
from milr.models.optional import Watchable, count_tokens
from milr.parts import Parts, load_parts
from milr.png import decode_png
from milr.registry import Entry, load
from milr.rewards.base import begin_scoring
from milr.rewards.panel import Watcher
from milr.rewards.vlm.client import VlmClient
from milr.runs.evaluating import score_images
from milr.runs.layout import NotScored
from milr.runs.schema import EvaluatedImage
from milr.runs.strip_images import StripImages
from milr.settings import make_settings
from milr.types import ImageSample, StepRecord
from milr.workers.messages import (
    Begun,
    Broken,
    Cancel,
    Command,
    Do,
    Failed,
    Grown,
    Heard,
    Judge,
    Judged,
    Lost,
    Message,
    Ready,
    Spec,
    Spent,
    Step,
    Stop,
    Watch,
)

log = logging.getLogger("milr.workers")
Emit = Callable[[Message], None]
NO_IMAGE = ImageSample((), Image.new("RGB", (1, 1)))
"""The best image of a record that does not repeat it."""


class _Ids(TaskQueue):
    """A queue whose indices are turned into the ids of `Do`, and back."""

    def __init__(self, tell: Callable[[Do], None]) -> None:
        super().__init__()
        self.ids: dict[int, Do] = {}  # index -> command, of tasks that wait or are in progress
        self._lock, self._tell = Lock(), tell
        self.on_begin = self._begin

    def add(self, do: Do, assignment: Assignment) -> None:
        with self._lock:
            self.ids[self.put(assignment, *do.turn)] = do

    def _begin(self, index: int, own: Assignment) -> None:
        with self._lock:  # until its id is known
            do = self.ids[index]
        self._tell(do)

    def find(self, id: int) -> int | None:
        with self._lock:
            return next((index for index, do in self.ids.items() if do.id == id), None)

    def remove(self, index: int) -> Do:
        with self._lock:
            return self.ids.pop(index)

    def keep_waiting(self) -> None:
        self.forget_begun()
        with self._lock:
            waiting = self.waiting()
            self.ids = {index: do for index, do in self.ids.items() if index in waiting}


class _Shown:
    """The images of a task, for its strip."""

    def __init__(self) -> None:
        self.images = StripImages()
        self.pngs: dict[str, bytes] = {}


class Worker:
    """One worker: `run` in one thread, `take_command` from another."""

    def __init__(self, spec: Spec, emit: Emit) -> None:
        """Prepare; `run` loads.

        Args:
            spec: What to load.
            emit: Sends a message; it may wait until the coordinator has read earlier ones. Two threads call it.
        """
        self._spec = spec
        self._lock = Lock()
        self._send = emit
        self._unheard = Semaphore(spec.places)  # records that may be made before the earlier ones are heard
        self._queue = _Ids(self._begin)
        self._watched: frozenset[int] = frozenset()
        self._runner: Runner | None = None
        self._parts: Parts | None = None
        self._vlm = VlmClient(spec.vlm)
        self._bests: dict[int, ImageSample] = {}  # index -> the best image that the coordinator has
        self._shown: dict[int, _Shown] = {}  # index -> images, of tasks whose strip is wanted

    def take_command(self, command: Command) -> None:
        """Obey, without waiting."""
        if isinstance(command, Do):
            try:
                method = load_method(command.method)
                settings = make_settings(command.method, {}, command.settings, declared=method.settings)
            except MilrError as error:
                self._emit(Lost(command.id, str(error)))
                return
            self._queue.add(command, Assignment(command.task, method, settings, command.key, command.known))
        elif isinstance(command, Cancel):
            index = self._queue.find(command.id)
            if index is not None and self._queue.drop(index):
                self._lose(index, None)
            elif index is not None and self._runner is not None:
                self._runner.cancel(index, command.why)
        elif isinstance(command, Heard):
            self._unheard.release()
        elif isinstance(command, Watch):
            self._watched = command.ids
        elif isinstance(command, Judge):
            Thread(target=self._judge, args=(command,), daemon=True).start()
        else:
            self.stop()

    def stop(self) -> None:
        """End after the batch in progress; what waits stays undone."""
        self._queue.close()
        for index in self._queue.waiting():
            self._queue.drop(index)

    def run(self) -> None:
        """Load, and work until `Stop`."""
        try:
            if self._spec.threads is not None:
                import torch

                torch.set_num_threads(self._spec.threads)
            parts = self._parts = self._load()
        except MilrError as error:
            self._emit(Failed(str(error), error.exit_code))
            return
        except Exception as error:
            log.exception("worker cannot load")
            self._emit(Failed(f"{type(error).__name__}: {error}", 1))
            return
        self._emit(_describe(parts, self._spec))
        while self._serve(parts):
            pass

    def _load(self) -> Parts:
        spec = self._spec
        loader = load_parts if spec.loader is None else load(Entry(spec.loader, "code"))
        hub = HubAccess(spec.offline)
        parts: Parts = loader(spec.names, spec.placement, self._vlm, hub, deterministic=spec.deterministic)
        return parts

    def _serve(self, parts: Parts) -> bool:
        """Run tasks until there are no more, and return false; return true after a fault, to start again."""
        watcher, queue = Watcher(parts.panel), self._queue
        self._bests, self._shown = {}, {}
        settings = parts.model.settings("one-shot", batch_size=self._spec.places)
        runner = self._runner = Runner(
            load_method("one-shot"), queue, parts.model, parts.reward, settings, on_lost=self._forget(watcher)
        )
        if isinstance(parts.model, Watchable):
            RowWatch(parts.model, runner.find, self._is_watched, self._show)
        try:
            with closing(runner):
                while self._make_record(parts, runner, watcher):
                    pass
        except NotScored as error:
            self._emit(Failed(str(error), error.exit_code))
            return False
        except Exception as error:
            log.exception("worker failed")
            queue.keep_waiting()
            self._emit(Broken(f"{type(error).__name__}: {error}" if not isinstance(error, MilrError) else str(error)))
            return True
        if runner.stopped is None:  # the queue is closed and empty
            return False
        self._emit(Spent(runner.stopped))
        return True

    def _make_record(self, parts: Parts, runner: Runner, watcher: Watcher) -> bool:
        """Make and send a record, once the coordinator has heard enough earlier ones; return false at the end."""
        self._unheard.acquire()
        sent = False
        try:
            record = next(runner, None)
            sent = record is not None and self._tell(parts, watcher.look(record))
            return record is not None
        finally:
            if not sent:
                self._unheard.release()

    def _begin(self, do: Do) -> None:
        self._emit(Begun(do.id, None if self._parts is None else count_tokens(self._parts.model, do.task.prompt)))

    def _is_watched(self, index: int) -> bool:
        return bool(self._watched) and self._queue.ids[index].id in self._watched

    def _show(self, index: int, tokens: int, image: Image.Image) -> None:
        self._emit(Grown(self._queue.ids[index].id, tokens, image))

    def _forget(self, watcher: Watcher) -> Callable[[int, MilrError | None], None]:
        def lose(index: int, error: MilrError | None) -> None:
            watcher.forget(index)
            self._lose(index, None if error is None else str(error))

        return lose

    def _lose(self, index: int, error: str | None) -> None:
        self._bests.pop(index, None)
        self._shown.pop(index, None)
        self._emit(Lost(self._queue.remove(index).id, error))

    def _tell(self, parts: Parts, record: StepRecord) -> bool:
        """Send a record and return true; one that the coordinator has is not sent."""
        do, usage = self._queue.ids[record.index], self._vlm.usage()
        evaluated: list[EvaluatedImage] = []
        is_new = record.step >= do.heard  # the coordinator has the earlier ones
        strip = self._show_record(record) if do.strip else None
        if is_new:
            if parts.evaluator is not None and record.images:
                evaluated = score_images(
                    parts.evaluator, record.task, record.step, [one.image for one in record.images]
                )
            same = self._bests.get(record.index) is record.best
            short = replace(record, index=0, best=NO_IMAGE) if same else replace(record, index=0)
            self._bests[record.index] = record.best
            self._emit(Step(do.id, short, same, evaluated, strip, usage))
        if record.finished is not None:
            self._bests.pop(record.index, None)
            self._queue.remove(record.index)
            if not is_new:  # it was to end while it repeated the steps of another worker
                self._emit(Lost(do.id, None))
        return is_new

    def _show_record(self, record: StepRecord) -> bytes | None:
        """Take a record's images for the strip; return the strip with a task's last record."""
        shown = self._shown.setdefault(record.index, _Shown())
        shown.pngs.update(zip(shown.images.add(record), (one.png for one in record.images), strict=True))
        if record.finished is None:
            return None
        del self._shown[record.index]
        return shown.images.draw(record, lambda name: decode_png(shown.pngs[name]))

    def _judge(self, command: Judge) -> None:
        assert self._parts is not None
        scorer = self._parts.scorer if command.evaluator else self._parts.reward
        try:
            scores = begin_scoring(scorer, command.images, command.tasks)()
        except Exception as error:
            code = error.exit_code if isinstance(error, MilrError) else 1
            self._emit(Failed(str(error) or type(error).__name__, code))
        else:
            self._emit(Judged(command.id, scores))

    def _emit(self, message: Message) -> None:
        with self._lock:
            self._send(message)


def _describe(parts: Parts, spec: Spec) -> Ready:
    model, evaluator = parts.model, parts.evaluator
    return Ready(
        model=model.name,
        folder=model.folder,
        capabilities=model.capabilities,
        defaults=dict(model.defaults),
        reads_free_prompts=model.reads_free_prompts,
        deterministic=model.deterministic,
        reward=(parts.reward.name, parts.reward.stop_at),
        evaluator=None if evaluator is None else (evaluator.name, evaluator.stop_at),
        panel={name: one.name for name, one in parts.panel.items()},
        machine=machine_facts(spec.placement, {}),
    )


__all__ = ["NO_IMAGE", "Stop", "Worker"]
