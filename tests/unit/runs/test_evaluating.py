"""Another evaluator scores a finished run with the same result as from the start."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from milr.benchmarks.tables import answers_of
from milr.cli.main import main
from milr.errors import UsageError
from milr.models import embedded_folder
from milr.runs import RunError, RunWriter, evaluate_run, is_evaluated, read_run
from milr.runs.layout import MANIFEST
from milr.settings import Settings
from milr.testing import FakeReward, brightness
from milr.types import Score, Task, Unscored
from tests.support.fake_benchmark import fakes, parity
from tests.support.placed_reward import add_placed

PARITY = FakeReward(parity, name="icons@1", stop_at=0.9)
OTHER = FakeReward(lambda image, task: 1 - brightness(image, task), name="other@2", stop_at=0.9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of fakes, evaluated by parity."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["--limit", "6", "--steps", "2", "--reward", "icons-soft", "--evaluator", "icons", "--out", str(folder)]
    with fakes():
        assert main(["benchmark", "icons", *words]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of that run."""
    return shutil.copytree(finished, tmp_path / "run")


def scores(folder: Path) -> list[object]:
    return [task.evaluated for task in read_run(folder).tasks]


def test_evaluating_again_by_the_first_evaluator_restores_its_scores(run: Path) -> None:
    before = read_run(run)
    assert list(evaluate_run(run, OTHER, "other"))[-1] == (6, 6)
    seen = read_run(run)
    assert (seen.manifest.evaluator, seen.manifest.evaluator_asked) == ("other@2", "other")
    for task in seen.tasks:
        for one in task.images:
            expected = OTHER([task.load_image(one.image)], [task.task])[0]
            assert one.evaluator == expected
    assert [task.answer.image for task in seen.tasks] == [task.answer.image for task in before.tasks]
    list(evaluate_run(run, PARITY, "icons"))
    assert [task.evaluated for task in before.tasks] == scores(run)
    assert not list(run.rglob("*.new"))


def test_the_evaluators_time_does_not_count_as_the_methods(run: Path) -> None:
    before = read_run(run).manifest
    list(evaluate_run(run, OTHER, "other", vlm_usage=lambda: {"url": "u", "calls": 7, "cached": 0}))
    after = read_run(run).manifest
    assert after.seconds - after.evaluator_seconds == pytest.approx(
        before.seconds - before.evaluator_seconds, abs=0.002
    )
    assert (after.drawings, after.tokens, after.reward_calls) == (before.drawings, before.tokens, before.reward_calls)
    assert after.evaluated == before.evaluated + sum(len(task.images) for task in read_run(run).tasks)
    assert after.vlm_usage == {"url": "u", "calls": 0, "cached": 0}  # as many as before the call
    assert [session.status for session in after.sessions] == ["finished", "finished"]


def test_the_evaluator_is_placed_and_the_run_says_where(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_placed(monkeypatch)
    assert main(["evaluate", str(run), "--evaluator", "placed", "--device", "meta", "--dtype", "float16"]) == 0
    manifest = read_run(run).manifest
    assert manifest.evaluator == "placed@1/meta/float16"
    assert manifest.sessions[-1].machine["evaluator_device"] == "meta"


def test_an_evaluator_that_cannot_score_the_run_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / MANIFEST).read_bytes()
    assert main(["evaluate", str(run), "--evaluator", "wise"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "'wise' needs an explanation" in error and "give --evaluator one of these: " in error and "geneval" in error
    assert (run / MANIFEST).read_bytes() == before


@pytest.mark.slow
def test_an_evaluator_of_icons_is_refused_for_a_natural_models_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's model is looked up; if it is missing, nothing is refused because of it."""
    free = tmp_path / "free"
    shutil.copytree(embedded_folder(), free, ignore=shutil.ignore_patterns("*.safetensors"))
    said = json.loads((free / "milr.json").read_text())
    (free / "milr.json").write_text(json.dumps({**said, "grammar": "free"}))
    manifest = json.loads((run / MANIFEST).read_text())
    (run / MANIFEST).write_text(json.dumps({**manifest, "model_asked": str(free), "model_folder": None}))
    assert main(["evaluate", str(run), "--evaluator", "icons-judge"]) == 2
    assert "'icons-judge' reads icons only" in capsys.readouterr().err
    shutil.rmtree(free)
    assert main(["evaluate", str(run), "--evaluator", "icons-judge"]) == 0


def test_self_is_refused_for_another_models_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / MANIFEST).write_text(json.dumps({**json.loads((run / MANIFEST).read_text()), "model": "another"}))
    assert main(["evaluate", str(run), str(other), "--evaluator", "mix:icons+self"]) == 2
    assert "asks the model that drew, and another and fake drew these runs" in capsys.readouterr().err


def test_a_model_that_is_code_is_loaded_for_an_evaluator_only_when_it_is_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, code = str(tmp_path / "run"), "milr.testing:FakeModel"
    options = ["--reward", "milr.testing:FakeReward", "--method", "best-of-n", "--steps", "1", "--out", run]
    assert main(["generate", "a cat", "--model", code, *options]) == 0
    capsys.readouterr()
    before = scores(Path(run))
    for more in ([], ["--model", "embedded"], ["--model", "milr.testing:FakeReward"]):
        assert main(["evaluate", run, "--evaluator", "self", *more]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith(f"code is loaded only when you type it: if you trust it, add --model {code}"), said
    assert scores(Path(run)) == before
    assert main(["evaluate", run, "--evaluator", "self", "--model", code]) == 0
    assert read_run(run).manifest.evaluator == "self@2/fake" and None not in scores(Path(run))


class Moody:
    """A reward with one value for every image; None leaves it unscored."""

    name, stop_at = "moody@1", 0.9

    def __init__(self, value: float | None) -> None:
        self.value = value

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        one = (
            Unscored("asleep", self.name)
            if self.value is None
            else Score(value=self.value, reward=self.name, stop_at=self.stop_at)
        )
        return [one] * len(images)


@pytest.mark.parametrize(
    ("value", "least", "code"), [(0.5, None, 0), (0.5, "0.5", 0), (0.5, "0.6", 1), (None, None, 3), (None, "0", 3)]
)
def test_the_exit_code_says_if_images_are_unscored_or_the_mean_is_too_low(
    run: Path, monkeypatch: pytest.MonkeyPatch, value: float | None, least: str | None, code: int
) -> None:
    """The exit code is the same again if nothing is left to score: it depends on the runs' contents."""
    monkeypatch.setattr("milr.cli.evaluate.load_reward", lambda *names, **options: Moody(value))
    words = ["evaluate", str(run), "--evaluator", "icons-judge", *(() if least is None else ("--fail-under", least))]
    assert [main(words), main(words)] == [code, code]


def test_a_full_disk_is_one_line_and_the_same_command_continues(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("milr.runs.evaluate_run", fill)
    monkeypatch.setattr("milr.cli.evaluate.load_reward", lambda *names, **options: OTHER)
    assert main(["evaluate", str(run), "--evaluator", "icons-judge"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "error: cannot write the scores (No space left on device): make room there; the same command goes on"
    )


def test_requests_of_a_shared_client_are_counted_per_run(tmp_path: Path) -> None:
    """A sweep has one client, but each run counts only its own requests."""
    calls = [10]  # before the first run
    costs: list[object] = []
    for name in ("first", "second"):
        writer = RunWriter(
            tmp_path / name,
            tasks=[],
            settings=Settings(),
            model="m",
            reward="r",
            vlm_usage=lambda: {"url": "u", "calls": sum(calls)},
        )
        with writer:
            calls.append(7)
        costs.append(writer.manifest.vlm_usage)
    assert costs == [{"url": "u", "calls": 7}] * 2


def test_an_evaluator_that_stops_leaves_the_run_unchanged_and_the_next_call_continues(run: Path) -> None:
    before, manifest = scores(run), (run / "run.json").read_bytes()
    going = evaluate_run(run, OTHER, "other")
    assert [next(going), next(going)] == [(1, 6), (2, 6)]
    going.close()
    assert scores(run) == before
    assert (run / "run.json").read_bytes() == manifest
    rest = FakeReward(OTHER.value, name=OTHER.name, stop_at=OTHER.stop_at)
    list(evaluate_run(run, rest, "other"))
    assert rest.calls == 4
    list(evaluate_run(run, PARITY, "icons"))
    assert scores(run) == before


@pytest.mark.slow
def test_another_evaluators_verdicts_are_not_used(run: Path) -> None:
    going = evaluate_run(run, OTHER, "other")
    next(going)
    going.close()
    third = FakeReward(brightness, name="third@1")
    list(evaluate_run(run, third, "third"))
    assert third.calls == 6
    assert {one.score.reward for task in read_run(run).tasks for one in task.evaluated} == {"third@1"}


def test_a_run_that_is_not_finished_is_refused(run: Path) -> None:
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    with pytest.raises(UsageError, match=f"not finished .interrupted.: type milr benchmark --resume {run} first"):
        next(evaluate_run(run, OTHER, "other"))


@pytest.mark.slow
def test_the_command_evaluates_runs_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--evaluator", "icons-judge"]) == 0
    name = read_run(run).manifest.evaluator
    assert name is not None and name.startswith("icons-judge@")
    assert capsys.readouterr().out == f"{run}: 6 tasks, evaluated by {name} instead of icons@1\n"
    assert main(["evaluate", str(run), "--evaluator", "icons-judge"]) == 0
    assert capsys.readouterr().out == f"{run}: evaluated by {name} already\n"
    assert main(["evaluate", str(run), "--evaluator", "icon-judge"]) == 2
    assert "unknown reward 'icon-judge': did you mean" in capsys.readouterr().err


def test_an_evaluator_that_stops_scoring_is_reported(run: Path) -> None:
    class Spent:
        name, stop_at = "spent@1", 0.9

        def __call__(self, images: list[object], tasks: list[object]) -> list[Unscored]:
            return [Unscored("the budget is spent", self.name, final=True)] * len(images)

    before = scores(run)
    with pytest.raises(RunError, match="spent@1 scores nothing any more: the budget is spent"):
        list(evaluate_run(run, Spent(), "spent"))  # type: ignore[arg-type]
    assert scores(run) == before


class Down:
    """A reward whose server is down after this many images."""

    stop_at = 0.9

    def __init__(self, name: str, up: int = 0, *, final: bool = False) -> None:
        self.name, self.up, self.final, self.calls = name, up, final, 0

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        places = range(self.calls, self.calls + len(images))
        self.calls += len(images)
        lost = Unscored("HTTP 500", self.name, final=self.final)
        return [Score(0.5, self.name, 0.9) if n < self.up else lost for n in places]


def test_only_images_without_a_verdict_are_evaluated_again(run: Path) -> None:
    list(evaluate_run(run, Down("other@2", up=4), "other"))
    images = [one for task in read_run(run).tasks for one in task.images]
    assert [isinstance(one.evaluator, Score) for one in images] == [True] * 4 + [False] * (len(images) - 4)
    rest = Down("other@2", up=len(images))
    list(evaluate_run(run, rest, "other"))
    assert rest.calls == len(images) - 4
    assert is_evaluated(run, "other@2") and not is_evaluated(run, "icons@1")


@pytest.mark.slow
@pytest.mark.parametrize("down", ["icons", "icons-soft"])
def test_resuming_scores_unscored_images_again(down: str, tmp_path: Path) -> None:
    words = ["--limit", "3", "--steps", "1", "--stop-at", "1", "--reward", "icons-soft", "--evaluator", "icons"]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    with fakes():
        assert main(["benchmark", "icons", *words, "--out", str(whole)]) == 0
    with fakes({down: Down(f"{down}@1")}):
        main(["benchmark", "icons", *words, "--out", str(folder)])
    with fakes():
        assert main(["benchmark", "--resume", str(folder)]) == 0
        before = read_run(folder)
        assert main(["benchmark", "--resume", str(folder)]) == 0  # nothing is left to score
    assert read_run(folder).tasks == before.tasks
    again = [[(one.reward, one.evaluator) for one in task.images] for task in before.tasks]
    assert again == [[(one.reward, one.evaluator) for one in task.images] for task in read_run(whole).tasks]


@pytest.mark.slow
@pytest.mark.parametrize(("down", "final"), [("icons", True), ("icons-soft", False)])
def test_an_outage_stops_the_run_with_exit_code_3_and_the_same_command_continues(
    down: str, final: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task that was never scored is unfinished; eight of them in a row, or a reward that is given up, end the run."""
    words = ["--limit", "11", "--steps", "1", "--stop-at", "1", "--reward", "icons-soft", "--evaluator", "icons"]
    folder = tmp_path / "run"
    with fakes({down: Down(f"{down}@1", up=6, final=final)}):
        assert main(["benchmark", "icons", *words, "--batch-size", "1", "--out", str(folder)]) == 3
    said = capsys.readouterr().err
    manifest = read_run(folder).manifest
    assert f"to go on, type: milr benchmark --resume {folder}" in said and "HTTP 500" in said
    assert manifest.status == "failed" and manifest.tasks_finished == 3
    with fakes():
        assert main(["benchmark", "--resume", str(folder)]) == 0
    assert None not in [answer.value for answer in answers_of(read_run(folder))]
    assert read_run(folder).manifest.tasks_finished == 11


def test_a_task_that_was_never_scored_leaves_the_run_unfinished(tmp_path: Path) -> None:
    words = ["--limit", "3", "--steps", "1", "--stop-at", "1", "--reward", "icons-soft"]
    with fakes({"icons-soft": Down("icons-soft@1", up=4)}):
        assert main(["benchmark", "icons", *words, "--batch-size", "1", "--out", str(tmp_path / "run")]) == 3
    manifest = read_run(tmp_path / "run").manifest
    assert (manifest.status, manifest.tasks_finished) == ("stopped", 2)
