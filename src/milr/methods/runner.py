"""The runner of all methods: it serves the requests of many tasks in batches.

It admits tasks, refills places, stops, counts, and yields one record per step. While a reward waits on a network, the
other half of the tasks is decoded; while a device decodes pixels, the texts of the other half are written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import cycle
from typing import Any, Self

from milr.errors import MilrError, UsageError
from milr.methods.context import ImageBatch, Method, MethodError, ScoredImage, TaskContext
from milr.methods.latents import Update, take_steps
from milr.methods.needs import check_needs
from milr.methods.queue import Assigned, Assignment, Listed, Repeats, TaskQueue, TaskSource
from milr.methods.rounds import ImageRound
from milr.models.absent import check_latents
from milr.models.base import Model, TaskState, TextRequest
from milr.models.devices import own_numbers
from milr.rewards import check_scorable, load_reward
from milr.rewards.base import Reward, RewardFunction, WaitingReward, make_reward
from milr.settings import LIMITS, MilrSettings, RunSettings, Settings
from milr.tasks import make_task
from milr.types import Finished, StepRecord, Task, find_final, is_met

Group = list[TaskContext[Any]]
OnLost = Callable[[int, MilrError | None], None]
"""A callback for a task that ended without a last record. It gets the task's index and the error, or None if the task
was cancelled before it had an image."""


class Runner(Iterator[StepRecord]):
    """An iterator over the records of tasks, which it runs through a method until each is met, out of budget or done.

    Records of different tasks are interleaved; those of one task are in order, and its last one says why it ended. If
    the reward cannot score any more, or a total limit is reached, tasks in progress end with their best image so far,
    and no other task begins.
    """

    stopped: str | None = None
    """Reason why the whole run stopped before all tasks were finished; None if it did not."""

    def __init__(
        self,
        method: Method,
        tasks: str | Task | Iterable[str | Task] | TaskQueue | Assigned,
        model: Model,
        reward: str | Reward | RewardFunction,
        settings: Settings,
        *,
        on_lost: OnLost | None = None,
    ) -> None:
        """Prepare. Nothing is computed before the first record is requested.

        Args:
            method: From `milr.load_method`.
            tasks: Tasks or prompts: one, any iterable, assignments, or a `TaskQueue`, which may be empty at the moment.
            model: The model.
            reward: A name, a `Reward`, or a function of images and tasks that returns a number in [0, 1] per image.
            settings: Settings of that method: `model.settings(method.name, ...)`.
            on_lost: Called when a task ends without a last record. With it, an error of a task's method ends that task
                alone; without it, the error ends the run.

        Raises:
            UsageError: A prompt that the model does not read, no reward of that name, or a reward that cannot score the
                model's images or, where their number is known, the tasks.
        """
        self.reward = load_reward(reward, model=model) if isinstance(reward, str) else make_reward(reward)
        is_source = isinstance(tasks, TaskQueue | Assigned)
        listed = tasks if is_source else _read_tasks(tasks, free=model.reads_free_prompts)
        known = listed.tasks if isinstance(listed, Assigned) else listed if isinstance(listed, list) else ()
        check_scorable(self.reward, known, model.capabilities)
        check_needs(method, settings, model.capabilities)
        if settings.sampling.guidance != 1 and not model.capabilities.takes_guidance:
            check_latents({"guidance": settings.sampling.guidance}, model.capabilities)
        self.method, self.model, self.settings = method, model, settings
        self._source: TaskSource = listed if isinstance(listed, TaskQueue | Assigned) else Listed(listed)
        self._queue = listed if isinstance(listed, TaskQueue) else None
        self._on_lost = on_lost
        self.cut: set[int] = set()
        """Tasks that a total limit ended before their method or a limit of their own did."""
        self._cancelled: dict[int, Finished] = {}  # index -> reason for its last record
        self._repeats = Repeats()
        self._ended = dict.fromkeys(LIMITS, 0.0)  # spent by finished tasks
        self._groups: list[Group] = []
        self._rounds: list[ImageRound | None] = []  # of each group: its images in work
        self._records = self._run()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> StepRecord:
        """Return the next record."""
        with own_numbers():
            return next(self._records)

    def cancel(self, index: int, why: Finished = "cancelled") -> None:
        """End a task at its next record, with its best image so far; skip a task that has not begun.

        It may be called from another thread.

        Args:
            index: The task's index.
            why: The reason for its last record.
        """
        self._cancelled[index] = why

    def find(self, state: TaskState) -> int | None:
        """Return the index of the task in progress with this state; None if there is none. Only for the same thread."""
        return next((ctx.index for group in self._groups for ctx in group if ctx.state is state), None)

    def close(self) -> None:
        """Abandon the tasks in progress."""
        self._records.close()

    def _run(self) -> Generator[StepRecord]:
        self._started = time.monotonic()
        size, places = self._source.size, self.settings.run.batch_size
        places = places if size is None else min(places, size)
        count = 2 if isinstance(self.reward, WaitingReward) and places > 1 else 1
        groups = self._groups = [list[TaskContext[Any]]() for _ in range(count)]
        rounds = self._rounds = [None] * count
        for place in cycle(range(count)):
            group = groups[place]
            if begun := rounds[place]:
                rounds[place] = None
                yield from self._conclude(groups, group, begun.finish())
            self._admit(group, -(-places // count), wait=not any(groups))
            if not any(groups):
                return
            rounds[place] = self._serve(group) if group else None

    def _admit(self, group: Group, places: int, *, wait: bool) -> None:
        """Fill free places with waiting tasks; if nothing is in progress, wait for one."""
        if self._queue is not None and len(group) >= places and self.stopped is None:
            for index in self._queue.choose_to_yield({ctx.index: ctx.served for ctx in group}):
                ctx = next(one for one in group if one.index == index)
                group.remove(ctx)
                self._queue.put_back(ctx)
        new: list[tuple[int, str, Assignment]] = []
        while len(group) + len(new) < places and self.stopped is None:
            try:
                taken = self._source.take(wait=wait and not new)
            except StopIteration:
                break
            if taken is None:
                break
            index, own = taken
            if isinstance(own, TaskContext):
                if index in self._cancelled and own.best is None:
                    own.close()
                    self._lose(index)
                else:
                    own.served = 0
                    group.append(own)
                continue
            if isinstance(own, Assignment):
                key = own.key or own.task.key
            else:
                key, own = self._repeats.key(own), Assignment(own, self.method, self.settings)
            if index in self._cancelled:
                self._lose(index)
            else:
                new.append((index, key, own))
        states = self.model.start([own.task for _, _, own in new])
        for (index, key, own), state in zip(new, states, strict=True):
            try:
                ctx: TaskContext[Any] = TaskContext(own.task, index, key, state, self.model, own.settings, own.method)
                ctx.known = own.known
                group.append(ctx)
            except MilrError as error:
                self._fail(index, error)

    def _serve(self, group: Group) -> ImageRound:
        """Serve updates and texts until every task requests images, draw these, and begin to score them."""
        while True:
            self._score_decoded(wait=False)
            if updates := [ctx for ctx in group if isinstance(ctx.request, Update)]:
                self._update(group, updates)
            elif texts := [(ctx, ctx.request) for ctx in group if isinstance(ctx.request, TextRequest)]:
                outputs = self.model.reason([request for _, request in texts])
                for (ctx, _), output in zip(texts, outputs, strict=True):
                    self._answer(group, ctx, output)
            else:
                break
        self._score_decoded(wait=True)  # the other group's reward may wait on a network while this one is drawn
        begun = ImageRound(group, self.model, self.reward)
        begun.begin_scoring(wait=False)
        return begun

    def _score_decoded(self, *, wait: bool) -> None:
        """Begin to score the images that are decoded to pixels, or all of them after waiting."""
        for begun in self._rounds:
            if begun is not None:
                begun.begin_scoring(wait=wait)

    def _update(self, group: Group, asking: Group) -> None:
        """Take the optimisation steps that tasks request; tasks with the same settings share a batch."""
        for own, sampling in dict.fromkeys((ctx.own, ctx.sampling) for ctx in asking):
            alike = [ctx for ctx in asking if (ctx.own, ctx.sampling) == (own, sampling)]
            if not isinstance(own, MilrSettings):
                raise MethodError(f"the method {alike[0].method!r} asks for updates: its settings must be MilrSettings")
            updates = [ctx.request for ctx in alike if isinstance(ctx.request, Update)]
            for ctx, log_p in zip(alike, take_steps(self.model, updates, own, sampling), strict=True):
                self._answer(group, ctx, log_p)

    def _answer(self, group: Group, ctx: TaskContext[Any], answer: object) -> None:
        """Send a method its answer; if the method fails, end its task."""
        try:
            ctx.answer(answer)
        except MilrError as error:
            self._fail(ctx.index, error)
            self._end(group, ctx)

    def _fail(self, index: int, error: MilrError) -> None:
        """End the task alone by its error if a callback is told, else end the run."""
        if self._on_lost is None:
            raise error
        self._lose(index, error)

    def _lose(self, index: int, error: MilrError | None = None) -> None:
        self._cancelled.pop(index, None)
        if self._queue is not None:
            self._queue.end(index)
        if self._on_lost is not None:
            self._on_lost(index, error)

    def _end(self, group: Group, ctx: TaskContext[Any]) -> None:
        """Remove a task from its group."""
        group.remove(ctx)
        ctx.close()
        if self._queue is not None:
            self._queue.end(ctx.index)
        here = ctx.spent_here
        self._ended = {kind: used + here[kind] for kind, used in self._ended.items()}

    def _conclude(
        self, groups: Sequence[Group], group: Group, scored: Sequence[list[ScoredImage]]
    ) -> Iterator[StepRecord]:
        """Count a group's drawings, resume its methods, yield records, and remove finished tasks."""
        lost = find_final(image.score for images in scored for image in images)
        for ctx, images in zip(group, scored, strict=True):
            assert isinstance(ctx.request, ImageBatch)
            ctx.count(ctx.request, images, self.reward)
            ctx.served += 1
        limit = self._total_limit(groups)
        self.stopped = self.stopped or lost or limit
        faults: list[
            tuple[TaskContext[Any], MilrError]
        ] = []  # raised late, so that finished drawings still yield their records
        for ctx, images in zip(list(group), scored, strict=True):
            batch = ctx.request
            assert isinstance(batch, ImageBatch)
            try:
                ctx.answer(images)
            except MilrError as error:
                faults.append((ctx, error))
            finished, notes = self._find_end(ctx, lost, limit)
            if finished:
                self._end(group, ctx)
                self._cancelled.pop(ctx.index, None)
            if ctx.best is not None and (batch.whole or finished):
                yield ctx.record(batch, images if batch.whole else (), finished, notes)
            if finished and ctx.best is None:
                self._lose(ctx.index)
        for ctx, error in faults:
            if ctx in group or self._on_lost is None:
                self._fail(ctx.index, error)
                self._end(group, ctx)

    def _find_end(
        self, ctx: TaskContext[Any], lost: str | None, limit: Finished | None
    ) -> tuple[Finished | None, list[str]]:
        """Return the reason why a task is over, if it is, and notes about it."""
        best, run = None if ctx.best is None else ctx.best[0].score, ctx.run
        if best is not None and is_met(best, run.stop_at):
            return "met", []
        if lost is not None:
            return "unscored", [f"ended with the best so far: {lost}"]
        if ctx.index in self._cancelled:
            return self._cancelled[ctx.index], []
        if best is not None and (reached := _task_limit(ctx, run)):
            return reached, []
        if best is not None and limit is not None and ctx.request is not None:
            self.cut.add(ctx.index)
            return limit, []
        if ctx.request is None and best is None:
            raise MethodError(f"a method must end after whole images: {ctx.task.prompt!r} ended without one")
        return ("out of steps", []) if ctx.request is None else (None, [])

    def _total_limit(self, groups: Sequence[Group]) -> Finished | None:
        each = [self._ended, *(ctx.spent_here for group in groups for ctx in group)]
        spent = {kind: sum(one[kind] for one in each) for kind in LIMITS}
        spent["seconds"] = time.monotonic() - self._started  # tasks run in parallel, so their seconds do not add up
        return _reached(spent, self.settings.run.limits("total"))


def _task_limit(ctx: TaskContext[Any], run: RunSettings) -> Finished | None:
    if ctx.request is not None and run.max_drawings is not None and ctx.room(run.max_drawings) < 1:
        return "out of drawings"
    return _reached(ctx.spent, run.limits("max"))


def _reached(spent: Mapping[str, float], limits: Mapping[str, float]) -> Finished | None:
    return next((LIMITS[kind] for kind, limit in limits.items() if spent[kind] >= limit), None)


def _read_tasks(tasks: str | Task | Iterable[str | Task], *, free: bool) -> Iterable[Task]:
    """Return tasks from tasks or prompts: as a list if their number is known, else as an iterator."""
    if isinstance(tasks, str | Task):
        return [make_task(tasks, free=free)]
    _check_iterable(tasks)
    read = (make_task(task, free=free) for task in tasks)
    return list(read) if isinstance(tasks, Sized) else read


def _check_iterable(tasks: object) -> None:
    if isinstance(tasks, Mapping) or not isinstance(tasks, Iterable):
        said = f"{tasks!r} ({type(tasks).__name__})"  # pyright: ignore[reportUnknownArgumentType]
        raise UsageError(f"{said} is no list of tasks: give prompts in words, or milr.Task")


def search(
    tasks: str | Task | Iterable[str | Task] | TaskQueue,
    model: Model,
    reward: str | Reward | RewardFunction,
    settings: Settings | None = None,
    *,
    method: str | None = None,
    **changes: object,
) -> Runner:
    """Search over the latents of each task; return an iterator over the records.

    ``search(tasks, model, reward)`` needs no settings; ``search(tasks, model, reward, strategy="steer", steps=10)``.

    Args:
        tasks: Tasks or prompts: one, or any iterable.
        model: A frozen model from `load_model`.
        reward: A name that `milr info` lists, a `Reward`, or a function of images and tasks that returns a number in
            [0, 1] per image.
        settings: Settings of any method; None takes the model's defaults for `method`.
        method: A name that `milr info` lists; None is the paper's, `milr`, or that of `settings`.
        changes: Settings by name, added to `settings` or to the defaults.

    Raises:
        UsageError: A setting is unknown, not read by the method, or not allowed; a prompt that the model does not read;
            or an unknown reward, or one that cannot score the tasks or the model's images.
        RewardError: Raised while iterating: the reward does not return one score in [0, 1] per image.
    """
    from milr.methods import load_method

    if settings is None:
        settings = model.settings(method or "milr", **changes)
    elif method not in (None, settings.method):
        raise UsageError(f"settings of {settings.method!r} are none of {method!r}: leave one of the two out")
    else:
        settings = settings.change(**changes)
    return Runner(load_method(settings.method), tasks, model, reward, settings)
