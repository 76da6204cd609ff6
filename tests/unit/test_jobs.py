"""Jobs: benchmarks and ablations that Ctrl-C interrupts keep the best image so far, and resume to equal results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from milr.cli.main import main
from milr.runs import read_manifest, read_run
from milr.testing import FakeModel
from tests.support.fake_benchmark import fakes

ASKED = ["--limit", "4", "--evaluator", "icons-judge", "--seed", "5", "--steps", "2", "--batch-size", "2"]
RECIPE = """title = "two"
hardware = "any"
settings = {steps = 2}
runs = [{method = "best-of-n"}, {method = "best-of-n-sampled"}]
"""


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the images that are drawn."""
    draw, drawn = FakeModel.draw, list[int]()

    def count(self: FakeModel, requests: Any, *arguments: Any) -> Any:
        drawn.append(len(requests))
        return draw(self, requests, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeModel, "draw", count)
        yield drawn


@contextmanager
def interrupted_at(call: int, error: BaseException | None = None) -> Iterator[None]:
    """Press Ctrl-C during the drawing with this number, or raise another error."""
    draw, calls = FakeModel.draw, iter(range(call))

    def cut(self: FakeModel, *arguments: Any) -> Any:
        if next(calls, None) is None:
            raise error or KeyboardInterrupt
        return draw(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeModel, "draw", cut)
        yield


def answers(folder: Path | str) -> list[object]:
    tasks = read_run(folder).tasks
    return [
        (task.steps[-1].best, task.answer, task.evaluated, task.load_image(task.last.best).tobytes()) for task in tasks
    ]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with fakes():
        yield


def test_an_interrupted_benchmark_keeps_its_best_images_and_resumes_to_equal_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["benchmark", "icons", "--method", "best-of-n", *ASKED]
    assert main([*asked, "--out", "whole"]) == 0
    with interrupted_at(5):
        assert main([*asked, "--out", "cut"]) == 130
    assert "type: milr benchmark --resume cut" in capsys.readouterr().err
    begun = list(Path("cut/tasks").glob("*.part"))
    assert begun and all((folder / "best.png").is_file() for folder in begun)
    assert 0 < len(read_run("cut").tasks) < 4  # interrupted tasks are not answers
    steps = sum(len((folder / "records.jsonl").read_bytes().splitlines()) for folder in begun)
    unfinished = 4 - len(read_run("cut").tasks)
    with counted() as drawn:
        assert main(["benchmark", "--resume", "cut"]) == 0
    assert answers("cut") == answers("whole") and len(answers("cut")) == 4
    assert steps and sum(drawn) == 3 * unfinished - steps, "recorded steps are repeated, not drawn"
    assert read_manifest(Path("cut")).drawings == read_manifest(Path("whole")).drawings


def test_a_run_whose_memory_ran_out_keeps_its_tasks_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["benchmark", "icons", "--method", "best-of-n", *ASKED]
    with interrupted_at(5, torch.OutOfMemoryError("CUDA out of memory. 1 GiB is free. Of it ...")):
        assert main([*asked, "--out", "cut"]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said.startswith("error: memory ran out (CUDA out of memory. 1 GiB is free): close other programs")
    assert said.endswith("; to go on, type: milr benchmark --resume cut")
    assert 0 < len(read_run("cut").tasks) < 4
    assert main(["benchmark", "--resume", "cut"]) == 0


@pytest.mark.slow
def test_an_interrupted_ablation_resumes_to_equal_results(capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.toml").write_text(RECIPE)
    asked = ["ablate", "two.toml", "--limit", "4", "--evaluator", "icons-judge", "--batch-size", "2"]
    assert main([*asked, "--out", "whole"]) == 0
    with interrupted_at(8):
        assert main([*asked, "--out", "cut"]) == 130
    assert "type the same command to go on in cut" in capsys.readouterr().err
    assert list(Path("cut").rglob("*.part/best.png"))
    assert main([*asked, "--out", "cut"]) == 0
    names = sorted(path.name for path in Path("whole").iterdir() if path.is_dir())
    assert len(names) == 2
    for name in names:
        assert answers(Path("cut") / name) == answers(Path("whole") / name)
