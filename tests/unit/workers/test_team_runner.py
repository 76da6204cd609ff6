"""The coordinator alone, with workers that the test plays: who gets which task, when, and who is blamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from milr.methods import load_method
from milr.methods.queue import Assigned, Assignment, TaskQueue
from milr.models.devices import Placement
from milr.parts import Hooks, Names
from milr.testing import FakeModel
from milr.types import Finished, ImageSample, Reasoning, Score, StepRecord, Task
from milr.workers import team, team_runner
from milr.workers.messages import Begun, Broken, Cancel, Command, Died, Do, Lost, Message, Ready, Spec, Step
from milr.workers.team import Team
from milr.workers.team_runner import TeamRunner
from milr.workers.worker import NO_IMAGE

NAMES = Names("fake", "icons", "best-of-n")


class Played:
    """A worker that does nothing by itself."""

    def __init__(self, number: int) -> None:
        self.where, self.told = f"worker {number}", list[Command]()

    def send(self, command: Command) -> None:
        self.told.append(command)

    @property
    def tasks(self) -> list[str]:
        """The prompts of its tasks that have not ended, and were not taken back."""
        back = {one.id for one in self.told if isinstance(one, Cancel)}
        return [one.task.prompt for one in self.told if isinstance(one, Do) and one.id not in back]

    def find(self, prompt: str) -> Do:
        return next(one for one in reversed(self.told) if isinstance(one, Do) and one.task.prompt == prompt)


class Stage:
    """A backend whose messages are the test's, and a clock. Implements `milr.workers.backend.Backend`."""

    def __init__(self, count: int) -> None:
        self.count, self.now = count, 0.0
        self.workers: list[Played] = []
        self.script: Iterator[Sequence[tuple[Played, Message]]] = iter(())
        self.said: list[tuple[Played, Message]] = []

    def start(self, spec: Spec, number: int) -> Played:
        worker = Played(number)
        self.workers.append(worker)
        ready = Ready("fake", Path(), FakeModel.capabilities, {}, True, True, ("icons@1", 1.0), None, {}, {"cpus": 1})
        self.said.append((worker, ready))
        return worker

    def receive(self, seconds: float) -> list[tuple[Any, Message]]:
        said, self.said = self.said, []
        return said or list(next(self.script))

    def close(self) -> None:
        pass


def make_stage(monkeypatch: pytest.MonkeyPatch, workers: int) -> Stage:
    stage = Stage(workers)
    for module in (team, team_runner):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: stage.now))
    return stage


def assign(prompt: str) -> Assignment:
    return Assignment(Task(prompt=prompt), load_method("best-of-n"), FakeModel().settings("best-of-n", steps=3))


def make_step(do: Do, step: int, finished: Finished | None = None) -> Step:
    image = ImageSample((), NO_IMAGE.image)
    score = Score(0.5, reward="icons@1", stop_at=1.0)
    record = StepRecord(
        task=do.task,
        index=0,
        step=step,
        reasoning=Reasoning("", ()),
        images=(image,),
        scores=(score,),
        best=image,
        best_score=score,
        best_step=0,
        drawings_spent=step + 1.0,
        tokens_spent=1,
        reward_calls=step + 1,
        seconds=1.0,
        cost=0.0,
        finished=finished,
    )
    return Step(do.id, record, False)


class Play:
    """A run of tasks by played workers."""

    def __init__(self, stage: Stage, source: Assigned | TaskQueue, places: int = 2, **limits: object) -> None:
        self.stage, self.aside, self.begun, self.lost = stage, dict[int, str](), list[int](), list[int]()
        hooks = Hooks(
            evaluated=lambda place, scores: None,
            recall=lambda place: (),
            set_aside=self.aside.__setitem__,
            begun=lambda place, tokens: self.begun.append(place),
            lost=self.lost.append,
        )
        self.team = Team(Spec(NAMES, Placement(), places), stage)
        self.records: list[StepRecord] = []
        self.runner = TeamRunner(self.team, source, FakeModel().settings("one-shot", **limits), hooks)
        stage.script = self._script()
        self._next: list[tuple[Played, Message]] = []
        self._idle = 0

    def _script(self) -> Iterator[list[tuple[Played, Message]]]:
        while True:
            said, self._next = self._next, []
            self._idle += not said
            yield said if said or self._idle < 2 else [(self.stage.workers[-1], _HALT)]

    def hear(self, *said: tuple[Played, Message]) -> None:
        """Let workers say this, and the coordinator act on it."""
        self._next, self._idle = list(said), 0
        try:
            while True:
                self.records.append(next(self.runner))
        except _Halt:
            records = self.runner._run()  # pyright: ignore[reportPrivateUsage]
            self.runner._records = records  # pyright: ignore[reportPrivateUsage]
        except StopIteration:
            self.ended = True

    ended = False


class _Halt(Exception):
    """Ends the coordinator when a test has seen enough."""


class _HaltMessage(Broken):
    """Raises `_Halt` when it is read."""


_HALT = _HaltMessage("")


@pytest.fixture(autouse=True)
def halting(monkeypatch: pytest.MonkeyPatch) -> None:
    take = TeamRunner._take  # pyright: ignore[reportPrivateUsage]

    def halt(self: TeamRunner, member: Any, message: Message) -> Iterator[StepRecord]:
        if message is _HALT:
            raise _Halt
        return take(self, member, message)

    monkeypatch.setattr(TeamRunner, "_take", halt)


def test_idle_workers_take_waiting_tasks_from_loaded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(monkeypatch, 2)
    play = Play(stage, Assigned([assign(word) for word in "abcd"]))
    play.hear()
    first, second = stage.workers
    assert (first.tasks, second.tasks) == (["a", "c"], ["b", "d"])
    play.hear(*[(second, make_step(second.find(word), 0, "out of steps")) for word in "bd"])
    assert len(first.tasks) == len(second.tasks) == 1 and {*first.tasks, *second.tasks} == {"a", "c"}


def test_a_last_task_without_a_step_for_long_is_given_to_a_second_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(monkeypatch, 2)
    play = Play(stage, Assigned([assign("a"), assign("b")]))
    play.hear()
    first, second = stage.workers
    stage.now = 10.0
    play.hear((second, make_step(second.find("b"), 0, "out of steps")))
    stage.now = 60.0  # six times the longest step
    play.hear()
    assert second.tasks == []
    stage.now = 71.0
    play.hear()
    assert second.tasks == ["a"] and first.tasks == ["a"], "both have it"
    play.hear((second, make_step(second.find("a"), 0, "out of steps")))
    assert first.tasks == [], "the slow one is told to stop"
    play.hear((first, make_step(first.find("a"), 0, "out of steps")))
    assert [one.index for one in play.records] == [1, 0] and play.ended and not play.aside


@pytest.mark.parametrize("breaks", [False, True])
def test_only_tasks_that_had_begun_are_blamed(breaks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(monkeypatch, 1)
    play = Play(stage, Assigned([assign(word) for word in "abcd"]), places=2)
    play.hear()
    worker = stage.workers[0]
    assert worker.tasks == ["a", "b", "c", "d"]
    play.hear(*[(worker, Begun(worker.find(word).id, None)) for word in "ab"])
    assert play.begun == [0, 1]
    for failure in range(2):
        play.hear((worker, Broken("a fault") if breaks else Died("it died")))
        worker = stage.workers[-1]
        if not breaks:
            play.hear()
        if failure == 0:
            waiting = [word for word in "cd" if word in worker.tasks]
            assert waiting == ["c", "d"], "they are given again at once, or still there"
            play.hear(*[(worker, make_step(worker.find(word), 0, "out of steps")) for word in "cd"])
            assert worker.tasks[-1:] == ["a"], "one that has failed is alone"
            play.hear((worker, Begun(worker.find("a").id, None)))
    assert play.aside == {0: "a fault" if breaks else "it died"}, "the second failure; b has failed once"


def test_a_queue_is_spread_at_once_and_one_that_failed_gets_a_worker_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, queue = make_stage(monkeypatch, 2), TaskQueue()
    for word in "abcdef":
        queue.put(assign(word), word)
    play = Play(stage, queue, places=1)
    play.hear()
    first, second = stage.workers
    assert (first.tasks, second.tasks) == (["a", "c", "e"], ["b", "d", "f"])
    assert first.find("c").turn == ("c",)
    play.hear((first, Begun(first.find("a").id, None)))
    play.hear((first, Died("it died")))
    play.hear()
    third = stage.workers[-1]
    alone = next(one for one in (second, third) if "a" in one.tasks)
    other = third if alone is second else second
    assert alone.tasks == ["a"] and sorted(other.tasks) == ["b", "c", "d", "e", "f"]
    play.hear((alone, make_step(alone.find("a"), 0, "out of steps")))
    queue.put(assign("g"), "g")
    play.hear()
    assert "g" in alone.tasks and not play.aside


def test_a_task_that_has_an_image_and_no_worker_ends_with_it_at_a_total_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(monkeypatch, 2)
    play = Play(stage, Assigned([assign(word) for word in "abcd"]), total_drawings=3)
    play.hear()
    first, second = stage.workers
    assert (first.tasks, second.tasks) == (["a", "c"], ["b", "d"])
    died = Died("it was taken away", blameless=True)
    # the worker of a and c goes in the moment in which the limit is reached
    steps = [(worker, make_step(worker.find(word), 0)) for worker, word in ((first, "a"), (second, "b"), (second, "d"))]
    play.hear(steps[0], (first, died), *steps[1:])
    *before, last = play.records
    assert [(one.index, one.step, one.finished) for one in before] == [(0, 0, None), (1, 0, None), (3, 0, None)]
    assert (last.index, last.step, last.finished, last.images) == (0, 1, "out of drawings", ())
    assert (last.best, last.best_score, last.drawings_spent) == (before[0].best, before[0].best_score, 1.0)
    assert play.runner.cut == {0} and play.runner.stopped == "out of drawings" and not play.ended
    # the others are told to end; d was given to this worker again, which repeats its steps
    assert [one.why for one in second.told if isinstance(one, Cancel)] == ["out of drawings"] * 2
    play.hear((second, make_step(second.find("b"), 1, "out of drawings")), (second, Lost(second.find("d").id, None)))
    assert [(one.index, one.step, one.finished) for one in play.records[4:]] == [
        (1, 1, "out of drawings"),
        (3, 1, "out of drawings"),
    ]
    assert play.runner.cut == {0, 1, 3} and play.ended and not play.lost and not play.aside


@pytest.mark.parametrize("drawn", [False, True])
def test_a_task_that_is_cancelled_while_another_worker_repeats_its_steps_ends_with_its_best_image(
    drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, queue = make_stage(monkeypatch, 1), TaskQueue()
    queue.put(assign("a"), "a")
    play = Play(stage, queue)
    play.hear()
    if drawn:
        play.hear((stage.workers[0], make_step(stage.workers[0].find("a"), 0)))
    play.hear((stage.workers[0], Died("it was taken away", blameless=True)))
    play.hear()
    worker = stage.workers[-1]
    assert worker.find("a").heard == drawn
    play.runner.cancel(0)
    play.hear()
    play.hear((worker, Lost(worker.find("a").id, None)))
    ends = [(one.step, one.finished, one.images) for one in play.records[1:]]
    assert (ends, play.lost) == (([(1, "cancelled", ())], []) if drawn else ([], [0]))
