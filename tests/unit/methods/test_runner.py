"""The runner for every method: sources of tasks, limits, cancelling, rewards that wait, methods of other packages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from threading import Condition, Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from milr.errors import MilrError, UsageError
from milr.methods import METHODS, load_method
from milr.methods.context import Method, MethodError, Requests, TaskContext
from milr.methods.latents import Latents, Update
from milr.methods.queue import Assigned, Assignment, TaskQueue
from milr.methods.runner import Runner
from milr.rewards.base import Scores
from milr.settings import METHOD_SETTINGS, MethodSettings, RunSettings, SamplingParams, Settings, make_settings
from milr.testing import FakeModel, FakeReward, brightness
from milr.types import KnownStep, Score, StepRecord, Task, Unscored, rank

CAT, DOGS, TREE, ONE = (Task(prompt=p) for p in ("a red cat", "two dogs", "a big tree", "one"))
TASKS = [CAT, DOGS, TREE, ONE]
NEVER = 1.0  # no reward is strictly above it
ONCE = {"one-shot", "text-reasoning"}  # methods that draw once
MANY = [name for name in METHODS if name not in ONCE]
SETTINGS: dict[str, Any] = {"steps": 5, "text_ratio": 0.5, "image_ratio": 0.2, "learning_rate": 0.2, "guidance": 2.0}
FAST = ("milr", "keep-right")
"""Methods in `make fast`; `make test` runs all."""


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test once per method; all but `FAST` are slow."""
    return pytest.mark.parametrize(
        "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]
    )


ALL = each(METHODS)


def start(
    name: str,
    tasks: Iterable[Task] | TaskQueue,
    reward: FakeReward | None = None,
    model: FakeModel | None = None,
    **settings: Any,
) -> Runner:
    """Return a runner that does not stop early by default; the method gets the settings that it reads."""
    model = model or FakeModel()
    kinds = (METHOD_SETTINGS[name], SamplingParams, RunSettings)
    wanted = SETTINGS | {"stop_at": NEVER} | settings
    given = {one: value for one, value in wanted.items() if any(one in kind.model_fields for kind in kinds)}
    return Runner(load_method(name), tasks, model, reward or FakeReward(), model.settings(name, **given))


def timeless(records: Iterable[StepRecord], index: int | None = None) -> list[StepRecord]:
    """Return the records of one task, or of all tasks in order, without times."""
    kept = [replace(record, seconds=0) for record in records if index in (None, record.index)]
    return sorted(kept, key=lambda record: (record.index, record.step))


def ends(records: Iterable[StepRecord]) -> dict[int, str]:
    """Return the reason why each task ended."""
    return {record.index: record.finished for record in records if record.finished}


class Paid(FakeReward):
    """A reward that costs a quarter of a dollar per image, scored or not."""

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        return [replace(score, cost=0.25) for score in super().__call__(images, tasks)]


class Clock:
    """A clock that advances only while the reward is called."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow(FakeReward):
    """A reward that takes one second of a clock per call."""

    def __init__(self, clock: Clock, value: Callable[[Image.Image, Task], float] = brightness) -> None:
        super().__init__(value)
        self.clock = clock

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        self.clock.now += 1
        return super().__call__(images, tasks)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that the runner sees."""
    made = Clock()
    for module in ("context", "runner"):  # a server in another thread of this process needs the real clock
        monkeypatch.setattr(f"milr.methods.{module}.time", SimpleNamespace(monotonic=made))
    return made


# --- sources of tasks


@ALL
def test_tasks_of_an_endless_iterator_are_taken_as_places_get_free(name: str) -> None:
    taken = finished = 0

    def endless() -> Iterator[Task]:
        nonlocal taken
        while True:
            taken += 1
            yield Task(prompt=f"cat {taken}")

    runner = start(name, endless(), steps=2, batch_size=3)
    assert taken == 0, "nothing is taken before a record is asked for"
    while finished < 7:
        finished += next(runner).finished is not None
        assert finished <= taken <= finished + 3
    runner.close()
    with pytest.raises(StopIteration):
        next(runner)


@ALL
def test_a_generator_and_a_list_of_tasks_give_equal_results(name: str) -> None:
    assert timeless(start(name, iter(TASKS), batch_size=3)) == timeless(start(name, TASKS))


@each(MANY)
def test_a_task_added_during_a_search_joins_at_the_next_step(name: str) -> None:
    queue = TaskQueue()
    assert queue.put(CAT) == 0
    runner = start(name, queue, steps=9)
    first = next(runner)
    assert (first.index, first.step) == (0, 0)
    assert queue.put(DOGS) == 1
    queue.close()
    rest = list(runner)
    order = [record.index for record in rest]
    assert 0 in order[order.index(1) :], "the dogs did not wait for the cat's end"
    assert order.index(1) <= 1 or name in ("parm", "grid-prune"), "these have steps without a record"
    assert timeless([first, *rest]) == timeless(start(name, [CAT, DOGS], steps=9))


def test_a_joining_task_takes_its_steps_in_turn_with_others() -> None:
    queue = TaskQueue()
    queue.put(CAT)
    runner = start("best-of-n", queue, steps=2)
    order = [next(runner)]
    queue.put(DOGS)
    queue.close()
    order += runner
    assert [(record.index, record.step) for record in order] == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (1, 2)]


class Watched(Condition):
    """A condition that reports when a thread waits on it, and for how long at most."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeping = Event()
        self.timeouts: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.timeouts.append(timeout)
        self.sleeping.set()  # another thread gets the lock only when this one waits
        return super().wait(timeout)

    def await_sleep(self) -> None:
        assert self.sleeping.wait(60)
        self.sleeping.clear()


class Consumer(Thread):
    """A thread that consumes a runner."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(daemon=True)
        self.runner = runner
        self.records: list[StepRecord] = []
        self.start()

    def run(self) -> None:
        self.records += self.runner

    def end(self) -> list[StepRecord]:
        self.join(60)
        assert not self.is_alive()
        return self.records


class Waiting(FakeReward):
    """A reward that scores when it is waited for, and records who began and who waited."""

    def __init__(self, value: Callable[[Image.Image, Task], float] = brightness, **more: Any) -> None:
        super().__init__(value, **more)
        self.log: list[tuple[str, frozenset[str]]] = []

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        group = frozenset(task.prompt for task in tasks)
        self.log.append(("begin", group))

        def wait() -> list[Score | Unscored]:
            self.log.append(("wait", group))
            return self(images, tasks)

        return wait


@pytest.mark.parametrize("reward", [FakeReward, Waiting])
def test_the_runner_sleeps_on_an_empty_queue_until_a_task_comes_or_it_is_closed(reward: type[FakeReward]) -> None:
    queue, changed = TaskQueue(), Watched()
    queue._changed = changed  # pyright: ignore[reportPrivateUsage]
    consumer = Consumer(start("best-of-n", queue, reward(), steps=2))
    for index, task in enumerate((CAT, DOGS)):
        changed.await_sleep()
        assert len(ends(consumer.records)) == index, "it sleeps once all tasks are finished"
        assert queue.put(task) == index
    changed.await_sleep()
    assert consumer.is_alive()
    queue.close()
    assert timeless(consumer.end()) == timeless(start("best-of-n", [CAT, DOGS], steps=2))
    assert changed.timeouts == [None] * 3, "it slept once for each task and once for the end, without a timeout"


def test_a_closed_queue_serves_what_it_has_and_takes_no_more() -> None:
    queue = TaskQueue()
    for task in TASKS:
        queue.put(task)
    queue.close()
    with pytest.raises(ValueError, match="the queue is closed"):
        queue.put(CAT)
    assert ends(start("best-of-n", queue, batch_size=2)) == dict.fromkeys(range(4), "out of steps")


def assign(task: Task, name: str, **given: Any) -> Assignment:
    return Assignment(task, load_method(name), FakeModel().settings(name, stop_at=NEVER, **given))


def test_tasks_of_one_queue_may_have_methods_and_settings_of_their_own() -> None:
    """Each task gets its result alone, independent of neighbours and earlier tasks."""
    given = [
        assign(CAT, "milr", steps=3, seed=7),
        assign(CAT, "milr", steps=2, seed=7, guidance=3.0, learning_rate=0.4),
        assign(CAT, "best-of-n", steps=1, seed=7),
        assign(DOGS, "milr", steps=3, seed=7, drawings_per_step=2),
        assign(CAT, "best-of-n", steps=1, seed=7),
    ]
    queue = TaskQueue()
    for one in given:
        queue.put(one)
    queue.close()
    records = timeless(start("one-shot", queue, batch_size=3))
    for index, one in enumerate(given):
        alone = Runner(one.method, [one.task], FakeModel(), FakeReward(), one.settings)
        assert [replace(r, index=0) for r in records if r.index == index] == timeless(alone)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_failing_method_ends_only_its_task_if_a_callback_gets_the_error(images: int) -> None:
    def fails(ctx: TaskContext[Any]) -> Requests:
        for _ in range(images):
            yield from ctx.draw()
        raise MilrError("it went wrong")

    queue, lost = TaskQueue(), list[tuple[int, str]]()
    queue.put(assign(CAT, "best-of-n", steps=3))
    queue.put(replace(assign(DOGS, "one-shot"), method=Method("fails", fails, MethodSettings)))
    queue.put(assign(TREE, "best-of-n", steps=1))
    queue.close()
    runner = Runner(
        load_method("one-shot"),
        queue,
        FakeModel(),
        FakeReward(),
        FakeModel().settings("one-shot", batch_size=2),
        on_lost=lambda index, error: lost.append((index, str(error))),
    )
    records = list(runner)
    assert lost == [(1, "it went wrong")]
    assert ends(records) == {0: "out of steps", 2: "out of steps"}
    assert len(timeless(records, 1)) == images, "the records of what it drew before stay"


def test_a_task_cancelled_without_a_record_is_reported() -> None:
    queue, lost = TaskQueue(), list[tuple[int, MilrError | None]]()
    for task in (CAT, DOGS):
        queue.put(assign(task, "parm", steps=1))
    queue.close()

    def value(image: Image.Image, task: Task) -> float:
        runner.cancel(0)
        return 0.0

    runner = Runner(
        load_method("one-shot"),
        queue,
        FakeModel(),
        FakeReward(value),
        FakeModel().settings("one-shot", batch_size=1),
        on_lost=lambda index, error: lost.append((index, error)),
    )
    runner.cancel(1)
    assert list(runner) == []
    assert lost == [(0, None), (1, None)], "one before its first whole image, one before it began"


def test_clients_of_a_queue_take_turns_and_what_waits_can_be_dropped() -> None:
    queue = TaskQueue()
    for client, task in (("a", CAT), ("a", DOGS), ("a", TREE), ("b", ONE), ("a", CAT), ("b", TREE)):
        queue.put(task, client)
    assert queue.drop(2) and not queue.drop(2) and not queue.drop(99)
    assert queue.waiting() == {0, 1, 3, 4, 5}
    taken = [queue.take(wait=False) for _ in range(5)]
    assert [one[0] for one in taken if one] == [0, 3, 1, 5, 4]
    assert queue.take(wait=False) is None and not queue.drop(0)


def test_the_users_of_a_client_share_its_turns() -> None:
    """A client that gives many names of users gets no more turns than one that gives none."""
    queue = TaskQueue()
    for client, user in (("a", "1"), ("a", "2"), ("a", "3"), ("a", "1"), ("b", ""), ("b", "")):
        queue.put(CAT, client, user)
    assert queue.drop(1) and queue.waiting() == {0, 2, 3, 4, 5}
    taken = [queue.take(wait=False) for _ in range(5)]
    assert [one[0] for one in taken if one] == [0, 4, 2, 5, 3]


@pytest.mark.parametrize("many", [1, 3])
def test_a_short_task_gets_a_place_of_another_client_and_changes_no_result(many: int) -> None:
    """All places are held by one client's long searches; another client's drawing does not wait for their end."""
    queue, long = TaskQueue(), [assign(task, "milr", steps=12) for task in TASKS[:many]]
    for one in long:
        queue.put(one, "a", "", "long")
    runner = start("one-shot", queue, batch_size=many)
    records = [next(runner) for _ in range(many)]
    queue.put(assign(ONE, "one-shot"), "b", "", "short")
    queue.close()
    records += runner
    ended = next(place for place, one in enumerate(records) if one.index == many)
    assert records[ended].finished and ended <= (7 if many == 1 else 3) * many, "after a step, or four of an equal's"
    for index, one in enumerate(long):
        alone = TaskQueue()
        alone.put(one)
        alone.close()
        wanted = [replace(record, index=index) for record in start("one-shot", alone)]
        # the last digits of the latents depend on the batch
        kept = [replace(record, trace=None) for record in timeless(records, index)]
        assert kept == [replace(record, trace=None) for record in timeless(wanted)]


@pytest.mark.parametrize("given", [{}, {"image_ratio": 0.0}, {"strategy": "steer"}, {"drawings_per_step": 2}])
def test_a_task_continues_after_its_known_steps_with_equal_records_and_times(given: dict[str, Any]) -> None:
    own = assign(CAT, "milr", steps=4, **given)
    whole = list(start("one-shot", Assigned([own])))
    known = [KnownStep(one.images, one.scores, one.seconds + 100) for one in whole[:3]]
    scored, reward = list[int](), FakeReward(lambda image, task: scored.append(1) or brightness(image, task))
    again = list(start("one-shot", Assigned([own], lambda place: known), reward))
    assert timeless(again) == timeless(whole)
    assert len(scored) == sum(len(one.images) for one in whole[3:]), "known images are not scored again"
    assert 100 < again[0].seconds < 110 and again[3].seconds > known[2].seconds, "time goes on where it stopped"


def test_a_task_that_waits_to_continue_is_cancelled_with_its_best_image() -> None:
    queue = TaskQueue()
    for client in ("a", "b"):
        queue.put(assign(CAT, "best-of-n", steps=30), client)
    queue.close()
    runner = start("one-shot", queue, batch_size=1)
    records = [next(runner) for _ in range(6)]
    assert [one.index for one in records].count(0) == 4, "four steps each, in turn"
    assert not queue.drop(0), "it has begun"
    runner.cancel(0, "cancelled")
    records += [next(runner) for _ in range(2)]
    ended = next(one for one in records if one.finished)
    assert (ended.index, ended.finished, ended.step) == (0, "cancelled", 4) and ended.best_step <= 4
    runner.close()


def test_a_cancelled_task_says_why() -> None:
    runner = start("best-of-n", [CAT, DOGS], steps=3)
    next(runner)
    runner.cancel(0, "out of time")
    assert ends(runner) == {0: "out of time", 1: "out of steps"}


# --- cancelling


@each(MANY)
def test_a_task_in_progress_is_cancelled_and_ends_with_its_best(name: str) -> None:
    settings: dict[str, Any] = {"steps": 9, "batch_size": 2}
    whole = list(start(name, TASKS, **settings))
    runner = start(name, TASKS, **settings)
    records: list[StepRecord] = []
    for record in runner:
        records.append(record)
        if (record.index, record.step) == (0, 0):
            runner.cancel(0)
    own = timeless(records, 0)
    assert own[-1].finished == "cancelled" and len(own) == 2
    # Another task got its place, and nothing else changed.
    assert timeless(records)[len(own) :] == [record for record in timeless(whole) if record.index != 0]
    expected = timeless(whole, 0)[:2]
    assert own[0] == expected[0]
    if own[1].images:
        assert own[1] == replace(expected[1], finished="cancelled")
    assert (
        own[1].best is max([s for r in own for s in zip(r.scores, r.images, strict=True)], key=lambda s: rank(s[0]))[1]
    )
    assert runner.stopped is None


@ALL
def test_a_waiting_task_is_cancelled_without_a_record(name: str) -> None:
    tasks = [CAT, DOGS, CAT, TREE]
    whole = timeless(start(name, tasks))
    model = FakeModel()
    runner = start(name, tasks, model=model, batch_size=1)
    runner.cancel(0)  # before anything began; the second cat keeps its own random streams
    records: list[StepRecord] = []
    for record in runner:
        records.append(record)
        runner.cancel(3)
    assert timeless(records) == [record for record in whole if record.index in (1, 2)]
    assert {request.state.task for request in model.drawn} == {CAT, DOGS}


def test_a_task_in_a_queue_is_cancelled_before_it_begins() -> None:
    queue = TaskQueue()
    indices = [queue.put(task) for task in TASKS]
    queue.close()
    runner = start("best-of-n", queue, batch_size=2)
    for index in indices[1:3]:
        runner.cancel(index)
    records = list(runner)
    assert set(ends(records)) == {0, 3}
    assert {record.task for record in records} == {CAT, ONE}


def test_the_runner_keeps_waiting_if_all_queued_tasks_are_cancelled() -> None:
    queue, changed = TaskQueue(), Watched()
    queue._changed = changed  # pyright: ignore[reportPrivateUsage]
    runner = start("one-shot", queue)
    runner.cancel(queue.put(CAT))
    consumer = Consumer(runner)
    changed.await_sleep()
    queue.put(DOGS)
    queue.close()
    assert [record.task for record in consumer.end()] == [DOGS]


@each(MANY)
def test_a_task_is_cancelled_from_another_thread(name: str) -> None:
    asked, go = Event(), Event()

    def value(image: Image.Image, task: Task) -> float:
        if task == DOGS and reward.calls >= 5:
            asked.set()
            assert go.wait(60)
        return brightness(image)

    reward = FakeReward(value)
    runner = start(name, TASKS, reward, steps=20)
    consumer = Consumer(runner)
    assert asked.wait(60)
    runner.cancel(1)
    go.set()
    records = consumer.end()
    assert ends(records) == {0: "out of steps", 1: "cancelled", 2: "out of steps", 3: "out of steps"}
    assert timeless(records, 1)[-1].drawings_spent < 21


def test_cancelling_an_ended_or_unknown_task_changes_nothing() -> None:
    whole = timeless(start("best-of-n", TASKS))
    runner = start("best-of-n", TASKS)
    runner.cancel(99)
    records: list[StepRecord] = []
    for record in runner:
        records.append(record)
        if record.finished:
            runner.cancel(record.index)
    assert timeless(records) == whole


def test_a_task_that_is_met_stays_met_if_it_was_cancelled() -> None:
    def value(image: Image.Image, task: Task) -> float:
        runner.cancel(0)
        return 0.95

    runner = start("best-of-n", [CAT], FakeReward(value), stop_at=None)
    assert ends(runner) == {0: "met"}


@pytest.mark.parametrize(
    ("name", "cancel_at", "reward_calls", "drawings"),
    # parm: three partial images and a whole one, then the first partial one of the next; grid-prune: a whole image,
    # then four partial ones.
    [("parm", 5, 5, 1.2), ("parm", 6, 6, 1.4), ("grid-prune", 3, 5, 1.8), ("grid-prune", 7, 9, 2.6)],
)
def test_a_task_that_ends_between_partial_images_has_a_closing_record(
    name: str, cancel_at: int, reward_calls: int, drawings: float
) -> None:
    calls = 0

    def value(image: Image.Image, task: Task) -> float:
        nonlocal calls
        calls += 1
        if calls == cancel_at:
            runner.cancel(0)
        return 0.0

    runner = start(name, [CAT], FakeReward(value), steps=9)
    first, last = runner
    assert (first.step, first.finished, len(first.images)) == (0, None, 1)
    assert (last.step, last.finished) == (1, "cancelled")
    assert last.images == last.scores == () and last.trace is None
    assert (last.best, last.best_score, last.best_step) == (first.best, first.best_score, 0)
    assert (last.reward_calls, last.drawings_spent) == (reward_calls, drawings)
    assert last.tokens_spent > first.tokens_spent and last.seconds >= first.seconds


def test_a_task_that_is_cancelled_before_its_first_whole_image_has_no_record() -> None:
    def value(image: Image.Image, task: Task) -> float:
        runner.cancel(0)
        return 0.0

    runner = start("parm", [CAT, DOGS], FakeReward(value), steps=1)
    records = list(runner)
    assert ends(records) == {1: "out of steps"} and {record.index for record in records} == {1}


# --- limits of each task


def first_calls(name: str) -> int:
    """Return the number of images scored up to the first whole one, for a reward that finds an object in each."""
    return 2 if name == "parm" else 1


@ALL
@pytest.mark.parametrize("limit", [0.5, 1.0, 2.5, 5.0])
def test_drawings_are_limited_and_never_more(name: str, limit: float) -> None:
    model = FakeModel()
    records = list(start(name, [CAT, TREE], model=model, steps=20, max_drawings=limit))
    whole = timeless(start(name, [CAT, TREE], steps=6))
    for index, task in enumerate([CAT, TREE]):
        own = timeless(records, index)
        assert own[0].images, "the first image is always drawn"
        assert own[-1].finished == ("out of steps" if name in ONCE and limit > 1 else "out of drawings")
        assert own[-1].drawings_spent <= max(limit, 1)
        assert own[-1].drawings_spent > limit - 1 or name in ONCE, "what there is room for is drawn"
        decoded = sum(
            (one.until or 25) - next((i for i, t in enumerate(one.tokens) if t is None), len(one.tokens))
            for one in model.drawn
            if one.state.task is task
        )
        assert own[-1].drawings_spent == decoded / 25
        if name != "grid-prune":  # it draws fewer in parallel
            drawn = [replace(record, finished=None) for record in own if record.images]
            assert drawn == [replace(record, finished=None) for record in timeless(whole, index)[: len(drawn)]]


@ALL
@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_reward_calls_are_limited_and_never_more(name: str, limit: int) -> None:
    asked: list[Task] = []

    def value(image: Image.Image, task: Task) -> float:
        asked.append(task)
        return brightness(image)

    records = list(start(name, [CAT, TREE], FakeReward(value), steps=20, max_reward_calls=limit))
    for index, task in enumerate([CAT, TREE]):
        own = timeless(records, index)
        assert own[0].images
        assert own[-1].finished == ("out of steps" if name in ONCE and limit > 1 else "out of reward calls")
        assert own[-1].reward_calls == asked.count(task)
        assert own[-1].reward_calls == (1 if name in ONCE else max(limit, first_calls(name)))


@ALL
@pytest.mark.parametrize("limit", [0.5, 3.0])
def test_seconds_are_limited(name: str, limit: float, clock: Clock) -> None:
    records = list(start(name, [CAT], Slow(clock), steps=20, max_seconds=limit))
    assert records[0].images
    last = records[-1]
    assert last.finished == ("out of steps" if name in ONCE and limit > 1 else "out of time")
    # The batch in which the limit was reached is the last.
    assert last.seconds == (1 if name in ONCE else max(first_calls(name), int(limit)))


@ALL
@pytest.mark.parametrize("limit", [0.1, 0.6])
def test_money_is_limited(name: str, limit: float) -> None:
    records = list(start(name, [CAT], Paid(), steps=20, max_cost=limit))
    assert all(record.cost == 0.25 * record.reward_calls for record in records)
    assert records[0].images
    last = records[-1]
    assert last.finished == ("out of steps" if name in ONCE and limit > 0.25 else "out of money")
    if name in ONCE:
        assert last.cost == 0.25
    elif name == "grid-prune" and limit > 0.25:
        assert last.cost == 0.25 * (1 + 4)  # the batch in which it was reached
    else:
        assert last.cost == 0.25 * max(first_calls(name), 3 if limit > 0.25 else 1)


def test_both_tries_of_an_unscored_image_cost_and_are_one_call() -> None:
    (record,) = start("one-shot", [CAT], Paid(unscored_calls={0}))
    assert isinstance(record.scores[0], Score)
    assert (record.cost, record.reward_calls) == (0.5, 1)


@pytest.mark.parametrize(
    ("limits", "reason", "images"),
    [
        ({"max_drawings": 3, "max_reward_calls": 2}, "out of reward calls", 2),
        ({"max_drawings": 2, "max_reward_calls": 3}, "out of drawings", 2),
        ({"max_seconds": 4, "max_drawings": 5, "max_reward_calls": 6, "max_cost": 1.5}, "out of time", 4),
        ({"max_seconds": 9, "max_drawings": 5, "max_reward_calls": 6, "max_cost": 0.75}, "out of money", 3),
        ({"max_seconds": 9, "max_drawings": 9, "max_reward_calls": 9, "max_cost": 9, "steps": 1}, "out of steps", 2),
        ({"max_drawings": 4, "total_drawings": 2}, "out of drawings", 2),
        ({"max_drawings": 2, "total_seconds": 4}, "out of drawings", 2),
    ],
)
@pytest.mark.parametrize("name", ["milr", "best-of-n", "keep-right", "reflection"])
def test_the_first_limit_that_is_reached_ends_the_task(
    name: str, limits: dict[str, float], reason: str, images: int, clock: Clock
) -> None:
    class Both(Slow, Paid):
        pass

    records = list(start(name, [CAT], Both(clock), **({"steps": 20} | limits)))
    assert records[-1].finished == reason
    assert sum(len(record.images) for record in records) == images


@ALL
def test_a_task_that_is_met_as_a_limit_is_reached_is_met(name: str) -> None:
    runner = start(name, [CAT], FakeReward(lambda image, task: 0.95), stop_at=None, max_drawings=1, max_reward_calls=1)
    assert ends(runner) == {0: "met"}


@pytest.mark.parametrize("limits", [{"max_reward_calls": 6}, {"max_drawings": 6}, {"max_drawings": 6.9}])
def test_a_step_of_several_images_is_cut_to_the_budget_that_is_left(limits: dict[str, float]) -> None:
    whole = list(start("milr", [CAT], drawings_per_step=4))
    first, second = start("milr", [CAT], drawings_per_step=4, **limits)
    assert (len(first.images), len(second.images)) == (4, 2)
    assert second.finished == ("out of reward calls" if "max_reward_calls" in limits else "out of drawings")
    assert (second.reward_calls, second.drawings_spent) == (6, 6)
    assert timeless([first]) == timeless(whole)[:1]
    assert second.images == whole[1].images[:2] and second.scores == whole[1].scores[:2]
    assert second.trace == whole[1].trace


def test_the_first_step_of_several_images_is_cut_too() -> None:
    (record,) = start("milr", [CAT], drawings_per_step=4, max_reward_calls=3)
    assert (len(record.images), record.finished) == (3, "out of reward calls")
    (record,) = start("milr", [CAT], drawings_per_step=4, max_drawings=0.1)
    assert (len(record.images), record.finished) == (1, "out of drawings")


def test_grid_prune_finishes_what_it_has_grown_within_its_drawings() -> None:
    first, second = start("grid-prune", [CAT], steps=20, max_drawings=5)
    assert (len(first.images), len(second.images)) == (1, 4)
    assert (second.finished, second.drawings_spent) == ("out of drawings", 5)


# --- limits of the whole run


@ALL
@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("total_drawings", 2, "out of drawings"),
        ("total_reward_calls", 2, "out of reward calls"),
        ("total_cost", 0.5, "out of money"),
        ("total_seconds", 1, "out of time"),
    ],
)
def test_a_total_stops_the_whole_run(name: str, limit: str, value: float, reason: str, clock: Clock) -> None:
    class Both(Slow, Paid):
        pass

    model = FakeModel()
    runner = start(name, TASKS, Both(clock), model, steps=20, batch_size=2, **{limit: value})
    records = list(runner)
    end = "out of steps" if name in ("one-shot", "text-reasoning") else reason  # these have drawn all their images
    assert ends(records) == {0: end, 1: end} and len(records) == 2
    assert all(record.images and record.best in record.images for record in records)
    assert runner.stopped == reason
    assert {request.state.task for request in model.drawn} == {CAT, DOGS}


@pytest.mark.parametrize("reward", [Paid, Waiting])
def test_tasks_in_progress_end_with_their_best_when_a_total_is_reached(reward: type[FakeReward]) -> None:
    whole = list(start("best-of-n", TASKS, reward(), steps=9))
    runner = start("best-of-n", TASKS, reward(), steps=9, batch_size=2, total_drawings=5)
    records = list(runner)
    assert runner.stopped == "out of drawings" and ends(records) == {0: "out of drawings", 1: "out of drawings"}
    for index in (0, 1):
        own = timeless(records, index)
        assert own == [replace(r, finished=o.finished) for r, o in zip(timeless(whole, index), own, strict=False)]
    spent = sum(record.drawings_spent for record in records if record.finished)
    assert 5 <= spent < 5 + 2, "no more than the batches that were in progress"


def test_finished_tasks_count_towards_a_total() -> None:
    met = FakeReward(lambda image, task: 0.95)
    runner = start("milr", TASKS, met, stop_at=None, batch_size=1, total_reward_calls=3)
    assert ends(runner) == {0: "met", 1: "met", 2: "met"}
    assert runner.stopped == "out of reward calls"


@ALL
def test_a_run_that_was_not_stopped_says_so(name: str) -> None:
    runner = start(name, TASKS, total_drawings=1000, total_seconds=1000, total_reward_calls=1000, total_cost=1000)
    assert timeless(runner) == timeless(start(name, TASKS))
    assert runner.stopped is None


def test_a_reward_that_stops_scoring_ends_the_run_with_a_reason() -> None:
    class Spent(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            scores = super().__call__(images, tasks)
            return (
                [Unscored("the budget is spent", self.name, final=True) for _ in scores] if self.calls > 1 else scores
            )

    runner = start("best-of-n", TASKS, Spent(), batch_size=2)
    records = list(runner)
    assert ends(records) == {0: "unscored", 1: "unscored"}
    assert runner.stopped == "the budget is spent"
    assert all(isinstance(record.best_score, Score) for record in records)
    assert records[-1].notes == ("ended with the best so far: the budget is spent",)


# --- each task's own state


@ALL
def test_each_task_has_its_own_seconds(name: str, clock: Clock) -> None:
    records = list(start(name, [CAT, DOGS], Slow(clock, lambda image, task: 0.0), steps=2, batch_size=1))
    one, other = ([record.seconds for record in records if record.index == index] for index in (0, 1))
    assert one == other and one[0] > 0
    assert one == sorted(one)


@ALL
def test_a_task_that_is_admitted_later_is_limited_by_its_own_spending(name: str, clock: Clock) -> None:
    class Both(Slow, Paid):
        pass

    for limits in ({"max_drawings": 2}, {"max_reward_calls": 3}, {"max_seconds": 3}, {"max_cost": 0.7}):
        settings: dict[str, Any] = {"steps": 9, "batch_size": 1} | limits
        own = [replace(record, index=0) for record in start(name, [CAT, DOGS], Both(clock), **settings) if record.index]
        assert own == list(start(name, [DOGS], Both(clock), **settings))


# --- rewards that wait


@ALL
def test_while_a_reward_waits_for_one_half_of_the_tasks_the_other_half_is_drawn(name: str) -> None:
    reward = Waiting()
    records = list(start(name, TASKS, reward, steps=4))
    assert timeless(records) == timeless(start(name, TASKS, steps=4))
    (first, group), (second, other) = reward.log[:2]
    assert (first, second) == ("begin", "begin") and len(group) == len(other) == 2 and not group & other
    waiting: list[frozenset[str]] = []
    for what, who in reward.log:
        if what == "begin":
            waiting.append(who)
        else:
            assert waiting.pop(0) == who, "the group that began first is waited for first"
        assert len(waiting) <= 2
    assert not waiting
    if name not in ONCE and name not in ("parm", "keep-right"):  # its groups need not end together
        whats = [what for what, _ in reward.log]
        assert whats == ["begin", *["begin", "wait"] * (len(whats) // 2 - 1), "wait"]


@pytest.mark.slow
@ALL
def test_refills_and_stops_are_the_same_with_a_reward_that_waits(name: str) -> None:
    values = sorted(rank(record.best_score) for record in start(name, TASKS) if record.finished)
    stop = (values[1] + values[2]) / 2
    plain = timeless(start(name, TASKS, stop_at=stop))
    for batch_size in (1, 2, 4):
        reward = Waiting(unscored_calls={0})  # the second try is not begun, but asked for at once
        assert timeless(start(name, iter(TASKS), reward, stop_at=stop, batch_size=batch_size)) == plain
        groups = [who for _, who in reward.log]
        assert all(len(who) <= max(batch_size // 2, 1) for who in groups)


def test_a_single_place_waits_for_every_score() -> None:
    reward = Waiting()
    assert len(list(start("best-of-n", [CAT, DOGS], reward, batch_size=1, steps=2))) == 6
    assert [what for what, _ in reward.log] == ["begin", "wait"] * 6


# --- methods of other packages


class MySettings(MethodSettings):
    """Settings of a method that is not in this package."""

    tries: int = 2
    """The images of each task."""


def mine(ctx: TaskContext[MySettings]) -> Requests:
    """Draw from the prompt alone, repeatedly."""
    for _ in range(ctx.own.tries):
        yield from ctx.draw(notes=["mine"])


def run_mine(solve: Callable[[TaskContext[Any]], Requests], tasks: Sequence[Task] = TASKS, **given: Any) -> Runner:
    settings = make_settings("mine", {"stop_at": NEVER} | given, FakeModel.defaults, declared=MySettings)
    return Runner(Method("mine", solve, MySettings), tasks, FakeModel(), FakeReward(), settings)


def collect(runner: Runner, found: list[StepRecord]) -> None:
    """Return the records before an error."""
    for record in runner:
        found.append(record)  # noqa: PERF402


def test_a_method_of_another_package_runs_like_any_other() -> None:
    records = list(run_mine(mine, tries=3, seed=4, batch_size=2))
    assert [record.step for record in timeless(records)] == [0, 1, 2] * 4
    assert ends(records) == dict.fromkeys(range(4), "out of steps")
    firsts = [record.images for record in timeless(records) if record.step == 0]
    assert firsts == [record.images for record in timeless(start("one-shot", TASKS, seed=4))]
    assert {record.notes for record in records} == {("mine",)} and {record.trace for record in records} == {None}
    limited = run_mine(mine, tries=9, max_reward_calls=2)
    assert ends(limited) == dict.fromkeys(range(4), "out of reward calls")
    with pytest.raises(UsageError, match="'mine' does not read the setting 'steps'; best-of-n"):
        run_mine(mine, steps=3)
    with pytest.raises(UsageError, match="unknown setting 'trys'.*did you mean 'tries'"):
        run_mine(mine, trys=3)


def test_a_method_must_end_after_whole_images() -> None:
    def ends_after_a_text(ctx: TaskContext[MySettings]) -> Requests:
        yield from ctx.draw()
        yield from ctx.reason()

    def draws_nothing(ctx: TaskContext[MySettings]) -> Requests:
        return
        yield

    def ends_after_a_part(ctx: TaskContext[MySettings]) -> Requests:
        yield from ctx.draw(until=5)

    found: list[StepRecord] = []
    with pytest.raises(MethodError, match="must end after whole images: 'a red cat' ended after a text"):
        collect(run_mine(ends_after_a_text), found)
    assert [(record.index, record.finished) for record in found] == [(index, None) for index in range(4)]
    with pytest.raises(MethodError, match="must end after whole images: 'a red cat'"):
        list(run_mine(draws_nothing))
    with pytest.raises(MethodError, match="must end after whole images: 'a red cat' ended without one"):
        list(run_mine(ends_after_a_part))


def test_one_methods_error_does_not_lose_its_batchs_records() -> None:
    def fails_for_the_dogs(ctx: TaskContext[MySettings]) -> Requests:
        yield from ctx.draw()
        if ctx.task in (DOGS, ONE):
            raise MilrError(f"no more of {ctx.task.prompt}")
        yield from ctx.draw()

    found: list[StepRecord] = []
    with pytest.raises(MilrError, match="no more of two dogs"):
        collect(run_mine(fails_for_the_dogs), found)
    assert [(record.index, record.step) for record in found] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_a_method_that_updates_needs_the_settings_of_an_update() -> None:
    def updates(ctx: TaskContext[MySettings]) -> Requests:
        (image,) = yield from ctx.draw(keep_hidden=2)
        assert image.hidden is not None
        z = Latents(torch.empty(0, 8), image.hidden)
        yield Update(z, (), (z.prefix("image", image.sample.tokens),), (0.5,), ("image",), ctx.open_stream(0, 1))
        yield from ctx.draw()

    with pytest.raises(MethodError, match="'mine' asks for updates: its settings must be MilrSettings"):
        list(run_mine(updates))


def test_settings_of_another_method_are_kept_by_a_process_that_does_not_know_it() -> None:
    settings = make_settings("mine", {"tries": 7, "seed": 3}, declared=MySettings)
    read = Settings.model_validate_json(settings.model_dump_json())
    assert (read.method, read.get("tries"), read.run.seed) == ("mine", 7, 3)
    assert read.flat == settings.flat
    assert read.change(seed=5).flat == settings.change(seed=5).flat
