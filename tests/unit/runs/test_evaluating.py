"""Another judge sees a finished run: as if it had judged from the start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milr.cli.main import main
from milr.config import SearchConfig
from milr.errors import UsageError
from milr.runs import RunError, RunWriter, judge_run, read_run
from milr.testing import FakeReward, brightness
from tests.support.fake_benchmark import fakes, parity

PARITY = FakeReward(parity, name="icons@1", stop_at=0.9)
OTHER = FakeReward(lambda picture, task: 1 - brightness(picture, task), name="other@2", stop_at=0.9)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of fakes, judged by parity."""
    folder = tmp_path / "run"
    words = ["--limit", "6", "--steps", "2", "--reward", "icons-soft", "--judge", "icons", "--out", str(folder)]
    with fakes():
        assert main(["benchmark", "icons", *words]) == 0
    return folder


def verdicts(folder: Path) -> list[object]:
    return [task.judged for task in read_run(folder).tasks]


def test_another_judge_and_back_is_the_first_judge(run: Path) -> None:
    before = read_run(run)
    assert list(judge_run(run, OTHER, "other"))[-1] == (6, 6)
    seen = read_run(run)
    assert (seen.manifest.judge, seen.manifest.judge_asked) == ("other@2", "other")
    for task in seen.tasks:
        for drawing in task.drawings:
            expected = OTHER([task.picture(drawing.drawing)], [task.task])[0]
            assert drawing.judge == expected
    assert [task.answer.drawing for task in seen.tasks] == [task.answer.drawing for task in before.tasks]
    list(judge_run(run, PARITY, "icons"))
    assert [task.judged for task in before.tasks] == verdicts(run)
    assert not list(run.rglob("*.new"))


def test_the_judges_time_is_not_the_searchs(run: Path) -> None:
    before = read_run(run).manifest
    list(judge_run(run, OTHER, "other", judges=lambda: {"url": "u", "calls": 7, "cached": 0}))
    after = read_run(run).manifest
    assert after.seconds - after.judge_seconds == pytest.approx(before.seconds - before.judge_seconds, abs=0.002)
    assert (after.drawings, after.tokens, after.reward_calls) == (before.drawings, before.tokens, before.reward_calls)
    assert after.judged == before.judged + sum(len(task.drawings) for task in read_run(run).tasks)
    assert after.judges == {"url": "u", "calls": 0, "cached": 0}  # as many as before the call
    assert [session.status for session in after.sessions] == ["finished", "finished"]


def test_a_client_that_serves_several_runs_is_counted_for_each(tmp_path: Path) -> None:
    """As one sweep has one client: a run costs what was asked for it, not what was asked before."""
    calls = [10]  # before the first run
    costs: list[object] = []
    for name in ("first", "second"):
        writer = RunWriter(
            tmp_path / name,
            tasks=[],
            config=SearchConfig(),
            model="m",
            reward="r",
            judges=lambda: {"url": "u", "calls": sum(calls)},
        )
        with writer:
            calls.append(7)
        costs.append(writer.manifest.judges)
    assert costs == [{"url": "u", "calls": 7}] * 2


def test_a_judge_that_stops_leaves_the_run_as_it_was_and_the_next_call_goes_on(run: Path) -> None:
    before, manifest = verdicts(run), (run / "run.json").read_bytes()
    going = judge_run(run, OTHER, "other")
    assert [next(going), next(going)] == [(1, 6), (2, 6)]
    going.close()
    assert verdicts(run) == before
    assert (run / "run.json").read_bytes() == manifest
    rest = FakeReward(OTHER.value, name=OTHER.name, stop_at=OTHER.stop_at)
    list(judge_run(run, rest, "other"))
    assert rest.calls == 4
    list(judge_run(run, PARITY, "icons"))
    assert verdicts(run) == before


def test_what_another_judge_left_is_not_taken_for_this_ones(run: Path) -> None:
    going = judge_run(run, OTHER, "other")
    next(going)
    going.close()
    third = FakeReward(brightness, name="third@1")
    list(judge_run(run, third, "third"))
    assert third.calls == 6
    assert {one.score.reward for task in read_run(run).tasks for one in task.judged} == {"third@1"}


def test_a_run_that_is_not_finished_is_refused(run: Path) -> None:
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    with pytest.raises(UsageError, match=f"not finished .interrupted.: milr benchmark --resume {run} first"):
        next(judge_run(run, OTHER, "other"))


def test_the_command_judges_runs_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["judge", str(run), "--judge", "icons-judge"]) == 0
    name = read_run(run).manifest.judge
    assert name is not None and name.startswith("icons-judge@")
    assert capsys.readouterr().out == f"{run}: 6 tasks, judged by {name} instead of icons@1\n"
    assert main(["judge", str(run), "--judge", "icons-judge"]) == 0
    assert capsys.readouterr().out == f"{run}: judged by {name} already\n"
    assert main(["judge", str(run), "--judge", "icon-judge"]) == 2
    assert "unknown reward 'icon-judge': did you mean" in capsys.readouterr().err


def test_a_judge_that_judges_nothing_any_more_is_said(run: Path) -> None:
    from milr.types import Unscored

    class Spent:
        name, stop_at = "spent@1", 0.9

        def __call__(self, pictures: list[object], tasks: list[object]) -> list[Unscored]:
            return [Unscored("the budget is spent", self.name, final=True)] * len(pictures)

    before = verdicts(run)
    with pytest.raises(RunError, match="spent@1 judges nothing any more: the budget is spent"):
        list(judge_run(run, Spent(), "spent"))  # type: ignore[arg-type]
    assert verdicts(run) == before
