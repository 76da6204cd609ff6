"""A run that is killed, or finds the disk full, before any of its changes to the file system."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from milr.cli.main import main
from milr.errors import MilrError
from milr.runs import RunWriter, evaluate_run, read_run
from milr.settings import make_settings
from milr.testing import FakeReward, brightness, fake_records
from milr.types import Task
from tests.robustness.file_events import full_disk, run_killed, watch
from tests.robustness.rounds import ROUNDS
from tests.support.fake_benchmark import fakes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")
TASKS = [Task(prompt="a cat"), Task(prompt="a dog")]
VALUES = [[0.25, 0.5], [0.75, 0.5]]
EVALUATOR = FakeReward(brightness, name="bright@1")
OTHER = FakeReward(lambda image, task: 1 - brightness(image, task), name="other@2")
STRIDE = 1 if ROUNDS > 1 else 3
"""Distance between the changes that are tried; `make fuzz` tries all."""


def begin(folder: Path) -> None:
    """Make the whole run."""
    facts = {"tasks": TASKS, "settings": make_settings(), "model": "fake", "reward": "fake@1"}
    _write(RunWriter(folder, **facts, evaluator=EVALUATOR))  # type: ignore[arg-type]


def go_on(folder: Path) -> None:
    """Finish the run as the same command would; start again if there is no manifest yet."""
    if (folder / "run.json").exists():
        _write(RunWriter.resume(folder, evaluator=EVALUATOR))
    else:
        begin(folder)


def _write(writer: RunWriter) -> None:
    with writer:
        writer.evaluate_missing()
        left = set(writer.remaining())
        for record in fake_records(TASKS, VALUES):
            if (record.index, 0) in left:
                writer.write(record)


def content(folder: Path) -> object:
    """Return everything of a run that must not depend on when it was interrupted."""
    run = read_run(folder)
    images = [[task.load_image(one.image).tobytes() for one in task.images] for task in run.tasks]
    steps = [[step.model_copy(update={"seconds": 0.0}) for step in task.steps] for task in run.tasks]
    verdicts = [[one.model_dump() for one in task.evaluated] for task in run.tasks]
    manifest = run.manifest
    return run.notes, steps, images, verdicts, manifest.status, manifest.tasks_finished, manifest.evaluator


def evaluate(folder: Path) -> None:
    """Score the run by another evaluator."""
    for _ in evaluate_run(folder, OTHER, "other"):
        pass


Work = Callable[[Path], None]
WALKS: dict[str, tuple[Work | None, Work, Work]] = {
    # name: the state before, the work that is stopped, the work that continues
    "a run from nothing": (None, begin, go_on),
    "another evaluator": (begin, evaluate, evaluate),
}


def finished_tasks(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (folder / "tasks").glob("*") if not path.name.endswith(".part")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Expected result of each walk."""
    found: dict[str, object] = {}
    for name, (before, work, _) in WALKS.items():
        folder = tmp_path_factory.mktemp("expected") / "run"
        if before is not None:
            before(folder)
        work(folder)
        found[name] = content(folder)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKS)
def test_a_kill_before_any_change_loses_no_finished_task(
    name: str, tmp_path: Path, expected: dict[str, object]
) -> None:
    before, work, again = WALKS[name]
    folder = tmp_path / "run"
    for point in count(0, STRIDE):
        shutil.rmtree(folder, ignore_errors=True)
        if before is not None:
            before(folder)
        reached = run_killed(lambda: work(folder), point)
        kept = finished_tasks(folder)
        again(folder)
        assert content(folder) == expected[name], point
        assert kept.items() <= finished_tasks(folder).items(), f"a finished task was made again: {point}"
        if not reached:
            assert point > 10
            print(f"{name}: {-(-point // STRIDE)} points of {point}")
            return


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKS)
def test_a_disk_that_is_full_at_any_change_is_reported_in_one_line_and_loses_nothing(
    name: str, tmp_path: Path, expected: dict[str, object]
) -> None:
    before, work, again = WALKS[name]
    folder = tmp_path / "run"
    for point in count(0, STRIDE):
        shutil.rmtree(folder, ignore_errors=True)
        if before is not None:
            before(folder)
        with full_disk(after=point) as failed:
            try:
                work(folder)
            except (MilrError, OSError) as error:  # the command line shows both as one line
                assert "\n" not in str(error)
        kept = finished_tasks(folder)
        again(folder)
        assert content(folder) == expected[name], (point, failed)
        assert kept.items() <= finished_tasks(folder).items(), f"a finished task was made again: {point}"
        if not failed:
            assert point > 10
            print(f"{name}: {-(-point // STRIDE)} points of {point}")
            return


WORDS = ["--limit", "3", "--steps", "2", "--reward", "icons-soft", "--evaluator", "icons", "--batch-size", "2"]


def command(folder: Path) -> None:
    """Make the run with the command, or continue it."""
    there = (folder / "run.json").exists()
    words = ["--resume", str(folder)] if there else ["icons", *WORDS, "--out", str(folder)]
    with fakes():
        assert main(["benchmark", *words]) == 0


@pytest.mark.slow
def test_a_command_killed_at_random_resumes_to_the_same_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is killed up to three times in a row, at changes that a seed chooses."""
    dice = random.Random(29)
    command(tmp_path / "whole")
    expected = content(tmp_path / "whole")
    kills = 0
    for number in range(5 * ROUNDS):
        folder = tmp_path / f"run-{number}"
        for _ in range(3):
            kills += run_killed(partial(command, folder), dice.randrange(60))
        command(folder)
        assert content(folder) == expected, number
        shutil.rmtree(folder)
    capsys.readouterr()
    print(f"{kills} kills")
    assert kills > 6


def test_a_task_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power failure after a folder got its name could leave empty files in it."""
    dirty: set[str] = set()
    renamed: list[str] = []

    def see(kind: str, path: object, content: bytes) -> None:
        if kind in ("open", "write") and "tasks" in str(path):
            dirty.add(str(path))
        if kind == "replace" and "tasks" in str(path):
            renamed.append(str(path))
            assert not {one for one in dirty if one.startswith(str(path))}, f"{path} counts before it is on the disk"

    def flush(descriptor: int) -> None:
        dirty.discard(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr("milr.files.os.fsync", flush)
    with watch(see):
        begin(tmp_path / "run")
    assert len([path for path in renamed if path.endswith(".part")]) == len(TASKS)
