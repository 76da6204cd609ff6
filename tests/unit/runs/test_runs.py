"""Run folders: contents, the loss after a kill, refusals."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from milr.errors import MilrError, UsageError
from milr.runs import Frame, RunError, RunWriter, StoredStep, check_folder, default_folder, draw_strip, read_run
from milr.runs.strip import Outcome, find_outcome
from milr.settings import Settings, make_settings
from milr.testing import FakeReward, fake_records, fake_score
from milr.types import Finished, Score, StepRecord, Task, Unscored

TASKS = [Task(prompt="a photo of a red apple"), Task(prompt="two blue clocks")]


def writer(folder: Path) -> RunWriter:
    """Return a writer for the tasks above."""
    return RunWriter(folder, tasks=TASKS, settings=make_settings(given={"seed": 7}), model="fake", reward="fake@1")


def names(folder: Path) -> list[str]:
    """Return the names of the task folders."""
    return sorted(path.name for path in (folder / "tasks").iterdir())


def test_a_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    records = list(fake_records(TASKS, [[0.25, 0.75, 0.5], [0.0, 1.0]], drawings_per_step=2))
    with writer(tmp_path / "run") as run:
        folders = [run.write(record) for record in records]
    found = read_run(tmp_path / "run")

    assert [folder for folder in folders if folder] == [found.tasks[1].folder, found.tasks[0].folder]
    assert [task.task for task in found.tasks] == TASKS
    assert [task.folder.name for task in found.tasks] == [f"{i:04d}-{task.key}" for i, task in enumerate(TASKS)]
    written = [step for task in found.tasks for step in task.steps]
    expected = [record for index in (0, 1) for record in records if record.index == index]
    stored_as_files = {"images", "best"}
    for step, record in zip(written, expected, strict=True):
        for field in fields(StepRecord):
            if field.name not in stored_as_files:
                assert getattr(step, field.name) == getattr(record, field.name), field.name
        task = found.tasks[record.index]
        for stored, sample in zip((*step.images, step.best), (*record.images, record.best), strict=True):
            assert stored.tokens == sample.tokens
            assert task.load_image(stored).tobytes() == sample.image.tobytes()
    assert found.tasks[0].last.best.file == "steps/01-0.png"
    with Image.open(found.tasks[0].folder / "best.png") as best:
        assert best.convert("RGB").tobytes() == records[-1].best.image.tobytes()


def test_a_stored_step_has_every_field_of_a_record() -> None:
    of_the_run = {"image"}
    assert [name for name in StoredStep.model_fields if name not in of_the_run] == [f.name for f in fields(StepRecord)]


def test_the_manifest_says_how_the_run_was_made_and_what_it_cost(tmp_path: Path) -> None:
    with writer(tmp_path) as run:
        assert read_run(tmp_path).manifest.status == "running"
        for record in fake_records(TASKS, [[0.1, 0.2], [0.3]], drawings_per_step=3):
            run.write(record)
    manifest = read_run(tmp_path).manifest
    assert manifest.status == "finished"
    assert manifest.settings.run.seed == 7
    assert (manifest.model, manifest.reward, manifest.tasks) == ("fake", "fake@1", tuple(TASKS))
    assert set(manifest.versions) == {"milr", "python", "torch", "transformers"}
    assert (manifest.tasks_finished, manifest.drawings, manifest.tokens) == (2, 6 + 3, 14 + 7)
    assert manifest.finished is not None and manifest.finished >= manifest.started
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["own"]["strategy"] == "joint"


@pytest.mark.parametrize(
    ("error", "status"),
    [(MilrError("step 2 of task 0: the gradient is NaN"), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_finished_tasks_stay_after_any_end_of_a_run(tmp_path: Path, error: BaseException, status: str) -> None:
    def stopping() -> Iterator[StepRecord]:
        yield from [record for record in fake_records(TASKS, [[0.1, 0.2, 0.3], [0.95]]) if record.step < 2]
        raise error

    with pytest.raises(type(error)), writer(tmp_path) as run:
        for record in stopping():
            run.write(record)
    found = read_run(tmp_path)
    assert found.manifest.status == status
    assert found.manifest.error == (str(error) or None)
    assert found.manifest.tasks_finished == 1
    assert [task.index for task in found.tasks] == [1]
    assert names(tmp_path) == [f"0000-{TASKS[0].key}.part", f"0001-{TASKS[1].key}"]


def test_a_kill_leaves_a_readable_run_with_the_finished_tasks(tmp_path: Path) -> None:
    run = writer(tmp_path).__enter__()  # and never closed, as after a kill
    for record in fake_records(TASKS, [[0.1, 0.2], [0.95]]):
        if record.finished != "out of steps":
            run.write(record)
    found = read_run(tmp_path)
    assert found.manifest.status == "running"
    assert [task.index for task in found.tasks] == [1]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with writer(tmp_path / "run") as run:
        for record in fake_records(TASKS, [[0.1], [0.2]]):
            run.write(record)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(UsageError, match="holds another run; nothing was overwritten: give --out"):
        writer(tmp_path / "run").__enter__()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="holds files"):
        check_folder(tmp_path / "other")
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "other" / "thesis.txt")
    with pytest.raises(UsageError, match="cannot make"):
        writer(tmp_path / "other" / "thesis.txt" / "run").__enter__()
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty")


def test_default_folders_are_named_by_the_prompt_and_always_new(tmp_path: Path) -> None:
    seen: list[Path] = []
    for _ in range(3):
        folder = default_folder("A photo of: 2 red/apples" + "!" * 300, tmp_path)
        folder.mkdir()
        seen.append(folder)
    assert len(set(seen)) == 3
    assert all("a-photo-of-2-red-apples" in folder.name and folder.parent == tmp_path for folder in seen)
    assert default_folder("?!", tmp_path).name.endswith("-run")


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run \(run.json is missing\)"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 3}')
    with pytest.raises(UsageError, match="cannot read") as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_unscored_stays_unscored_and_odd_evidence_is_kept(tmp_path: Path) -> None:
    class Array:
        def tolist(self) -> list[float]:
            return [1.0, 2.0]

    odd = Score(0.5, "fake@1", 0.9, parts={"a": math.nan}, evidence={"boxes": Array(), "where": Path("x")})
    first, last = fake_records(TASKS[:1], [[math.nan, 0.5]])
    with writer(tmp_path) as run:
        run.write(first)
        run.write(replace(last, scores=(odd,), best_score=odd))
    steps = read_run(tmp_path).tasks[0].steps
    assert steps[0].scores == (Unscored("the fake said nan", "fake@1"),)
    score = steps[1].best_score
    assert isinstance(score, Score)
    assert math.isnan(score.parts["a"])
    assert score.evidence == {"boxes": [1.0, 2.0], "where": "x"}


def finished_run(folder: Path, **more: Any) -> None:
    """Return a finished run of the tasks above."""
    facts = {"tasks": TASKS, "settings": Settings(), "model": "fake", "reward": "fake@1", **more}
    with RunWriter(folder, **facts) as run:
        for record in fake_records(TASKS, [[0.25, 0.75, 0.5], [0.0, 1.0]], drawings_per_step=2):
            run.write(record)


def test_an_evaluator_scores_every_image_in_the_order_of_drawing(tmp_path: Path) -> None:
    evaluator = FakeReward(name="other@1")
    settings = make_settings("best-of-n")
    finished_run(tmp_path, evaluator=evaluator, benchmark="geneval", settings=settings, places=(3, 4))
    found = read_run(tmp_path)
    assert evaluator.calls == 2  # one call per task
    assert (found.manifest.evaluator, found.manifest.evaluated) == ("other@1", 10)
    assert (found.manifest.benchmark, found.manifest.method, found.manifest.places) == ("geneval", "best-of-n", (3, 4))
    assert found.manifest.settings == settings
    first = found.tasks[0]
    assert [(one.step, one.number) for one in first.images] == [(s, n) for s in range(3) for n in range(2)]
    for one in first.images:
        assert one.evaluator == evaluator([first.load_image(one.image)], [first.task])[0]
    assert (first.answer.step, first.answer.number) == (1, 0)
    assert first.answer.reward == first.last.best_score
    assert (first.folder / "evaluated.jsonl").read_text().count("\n") == 6 + 1  # and the end mark


def test_an_evaluator_whose_budget_is_spent_ends_the_run_without_partial_tasks(tmp_path: Path) -> None:
    class Spent(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            self.calls += 1
            if self.calls == 1:
                return super().__call__(images, tasks)
            return [Unscored("the budget is spent", self.name, final=True)] * len(images)

    with pytest.raises(RunError, match="scores nothing any more: the budget is spent; the finished tasks are kept"):
        finished_run(tmp_path, evaluator=Spent())
    assert [task.index for task in read_run(tmp_path).tasks] == [1]
    assert read_run(tmp_path).manifest.status == "failed"


def test_a_run_resumes_where_it_was_interrupted(tmp_path: Path) -> None:
    records = list(fake_records(TASKS, [[0.25, 0.75, 0.5], [0.0, 1.0]]))
    finished_run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "cut") as run:
        for record in records[:4]:  # the second task has finished, the first is in flight
            run.write(record)
        raise KeyboardInterrupt
    with RunWriter.resume(tmp_path / "cut") as again:
        assert again.remaining() == [(0, 0)]
        for record in records:
            if record.index == 0:
                again.write(record)
        assert again.remaining() == []
    cut = read_run(tmp_path / "cut")
    assert names(tmp_path / "cut") == names(tmp_path / "whole")
    assert [step.model_dump() for task in cut.tasks for step in task.steps] == [
        StoredStep.of(record, [f"steps/{record.step:02d}-0.png"], f"steps/{record.best_step:02d}-0.png").model_dump()
        for index in (0, 1)
        for record in records
        if record.index == index
    ]
    assert [session.status for session in cut.manifest.sessions] == ["interrupted", "finished"]
    assert (cut.manifest.status, cut.manifest.tasks_finished) == ("finished", 2)
    assert cut.manifest.drawings == 4 + 3  # two of the first task were lost


def test_what_a_killed_session_spent_after_its_last_finished_task_is_counted(tmp_path: Path) -> None:
    records = list(fake_records(TASKS, [[0.1, 0.2, 0.3], [0.3]], drawings_per_step=2))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with writer(whole) as run:
        for record in records[:-1]:  # the second task has ended, the first one has two of its three steps
            run.write(record)
        shutil.copytree(whole, killed, ignore=shutil.ignore_patterns("lock"))  # what a kill leaves
        run.write(records[-1])
    assert read_run(killed).manifest.drawings == 4
    with RunWriter.resume(killed) as run:
        assert len(run.recall(0, 0)) == 2
        for record in records:
            if record.index == 0:
                run.write(record)
    ours, theirs = read_run(killed).manifest, read_run(whole).manifest
    for name in ("drawings", "tokens", "reward_calls"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert [session.drawings for session in ours.sessions] == [6, 2]


def test_a_killed_run_with_records_that_are_no_file_resumes(tmp_path: Path) -> None:
    records = list(fake_records(TASKS, [[0.1, 0.2], [0.3]]))
    run = writer(tmp_path / "run").__enter__()  # and never closed, as after a kill
    for record in records[:-1]:
        run.write(record)
    shutil.copytree(tmp_path / "run", tmp_path / "killed", ignore=shutil.ignore_patterns("lock"))
    (begun,) = (tmp_path / "killed" / "tasks").glob("*.part")
    (begun / "records.jsonl").unlink()
    os.mkfifo(begun / "records.jsonl")
    with RunWriter.resume(tmp_path / "killed") as again:
        assert again.recall(0, 0) == [] and again.remaining() == [(0, 0)]


def test_a_run_whose_tasks_are_not_all_done_is_stopped_not_finished(tmp_path: Path) -> None:
    records = list(fake_records(TASKS, [[0.25], [0.5]]))
    with writer(tmp_path) as run:
        run.write(records[0])
    assert read_run(tmp_path).manifest.status == "stopped"
    with RunWriter.resume(tmp_path) as again:
        again.write(records[1])
    assert read_run(tmp_path).manifest.status == "finished"


def test_reward_and_evaluator_cost_money_together(tmp_path: Path) -> None:
    class Paid(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            return [replace(score, cost=0.25) for score in super().__call__(images, tasks)]

    facts: dict[str, Any] = {"tasks": TASKS, "settings": Settings(), "model": "fake", "reward": "fake@1"}
    records = list(fake_records(TASKS, [[0.25, 0.5], [0.5, 0.25]]))
    with RunWriter(tmp_path, **facts, evaluator=Paid()) as run:
        for record in records[:3]:
            run.write(replace(record, cost=0.5 * (record.step + 1)))
    with RunWriter.resume(tmp_path, evaluator=Paid()) as run:
        run.write(replace(records[1], finished="out of money", cost=0.5))
    found = read_run(tmp_path).manifest
    assert [session.cost for session in found.sessions] == [1.0 + 0.5 + 0.5, 0.5 + 0.25]
    assert found.cost == 2.75
    assert read_run(tmp_path).tasks[1].last.finished == "out of money"


def test_each_image_of_a_prompt_is_a_task(tmp_path: Path) -> None:
    tasks = TASKS[:1]
    facts: dict[str, Any] = {"tasks": tasks, "settings": Settings(), "model": "fake", "reward": "fake@1"}
    with RunWriter(tmp_path, **facts, images_per_prompt=2) as run:
        assert run.remaining() == [(0, 0), (0, 1)]
        for image in (1, 0):
            for record in fake_records(tasks, [[0.25 * image]]):
                run.write(record, image)
    found = read_run(tmp_path)
    assert [(task.index, task.image, task.answer.reward) for task in found.tasks] == [
        (0, image, fake_score(0.25 * image)) for image in (0, 1)
    ]
    assert found.manifest.tasks_finished == 2


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_dead_processs_lock_is_ignored(tmp_path: Path) -> None:
    code = (
        "import sys, time; from milr.runs import RunWriter; from milr.settings import Settings; "
        "from milr.types import Task\n"
        "with RunWriter(sys.argv[1], tasks=[Task(prompt='a cat')], settings=Settings(), model='m', reward='r@1'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    run = tmp_path / "run"
    command = [sys.executable, "-c", code, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        refusal = f"process {other.pid} on {socket.gethostname()} works on"
        with pytest.raises(UsageError, match=refusal), RunWriter.resume(run):
            pass
        other.kill()
    with RunWriter.resume(run) as again:
        assert again.remaining() == [(0, 0)]
    assert [session.status for session in read_run(run).manifest.sessions] == [
        "running",
        "stopped",
    ]  # nothing was changed


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line_and_the_run_resumes_later(tmp_path: Path) -> None:
    """A limit on file sizes replaces a full disk: both make a write fail with OSError."""
    code = (
        "import resource, sys; from milr.cli.main import _fail; from milr.errors import MilrError\n"
        "from tests.unit.runs.test_runs import finished_run\n"
        "from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        "try: finished_run(Path(sys.argv[1]))\n"
        "except MilrError as error: sys.exit(_fail(str(error)))"
    )
    run = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: cannot write {run} (File too large): make room there; the finished tasks")
    assert done.stderr.count("\n") == 1
    with RunWriter.resume(run) as again:
        left = {index for index, _ in again.remaining()}
        assert left
        for record in fake_records(TASKS, [[0.25, 0.75, 0.5], [0.0, 1.0]], drawings_per_step=2):
            if record.index in left:
                again.write(record)
    assert len(read_run(run).tasks) == 2


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (1, 16, (320, 16 + 26 + 12 + 128 + 22 + 16)),  # enlarged 8 times, and wider for the title
        (3, 128, (2 * 16 + 3 * 128 + 2 * 12, 16 + 26 + 12 + 128 + 22 + 16)),
        (21, 100, (2 * 16 + 7 * 200 + 6 * 12, 16 + 26 + 12 + 3 * (200 + 22) + 2 * 12 + 16)),
        (2, 768, (2 * 16 + 2 * 384 + 12, 16 + 26 + 12 + 384 + 22 + 16)),
    ],
)
def test_a_strip_wraps_to_rows_and_enlarges_by_whole_factors(count: int, size: int, expected: tuple[int, int]) -> None:
    blue = Image.new("RGB", (size, size), "blue")
    frames = [Frame(blue, f"step {i}", "0.50", None if i else "met") for i in range(count)]
    strip = draw_strip("a red apple", frames)
    assert strip.size == expected
    assert strip.getpixel((16, 54)) == (0, 0, 255)  # the first image's corner
    assert strip.getpixel((15, 53)) == (0x1A, 0x7F, 0x37)  # its frame, since it is the best


@pytest.mark.parametrize(
    ("first", "best", "finished", "outcome"),
    [
        (0.2, 1.0, "met", "met"),
        (0.2, 0.5, "out of steps", "improved"),
        (0.0, 0.0, "out of steps", "failed"),
        (0.5, 0.5, "out of time", "failed"),
        (None, 0.0, "out of steps", "improved"),
        (None, None, "unscored", "failed"),
    ],
)
def test_a_strips_frame_shows_met_improved_and_failed(
    first: float | None, best: float | None, finished: Finished, outcome: str
) -> None:
    def made(value: float | None) -> Score | Unscored:
        return Unscored("down", "fake") if value is None else Score(value, "fake", 0.9)

    (record,) = fake_records([Task(prompt="a dog")], [[0.0]])
    last = replace(record, best_score=made(best), finished=finished)
    assert find_outcome(made(first), last) == outcome


def test_each_outcome_has_its_own_frame_colour() -> None:
    image = Image.new("RGB", (128, 128), "blue")
    outcomes: list[Outcome] = ["met", "improved", "failed"]
    frames = [draw_strip("a dog", [Frame(image, "step 0", "0.00", one)]).getpixel((15, 53)) for one in outcomes]
    assert len(set(frames)) == 3


def test_a_long_title_wraps_and_a_strange_one_does_not_stop_the_run(tmp_path: Path) -> None:
    frame = Frame(Image.new("RGB", (128, 128)), "step 0", "unscored")
    short = draw_strip("a clock", [frame]).height
    assert draw_strip("a photo of " * 12, [frame]).height > short
    draw_strip("一只红色的苹果 " + "x" * 500, [frame]).save(tmp_path / "strip.png")
