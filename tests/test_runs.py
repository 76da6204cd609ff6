"""Run folders: what is kept, what a kill costs, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from PIL import Image

from milr.config import SearchConfig
from milr.errors import MilrError, UsageError
from milr.runs import Frame, RunWriter, StoredStep, check_folder, default_folder, draw_strip, read_run
from milr.testing import fake_records
from milr.types import Score, StepRecord, Task, Unscored

TASKS = [Task(prompt="a photo of a red apple"), Task(prompt="two blue clocks")]


def writer(folder: Path) -> RunWriter:
    """A writer for the tasks above."""
    return RunWriter(folder, tasks=TASKS, config=SearchConfig(seed=7), model="fake", reward="fake@1")


def names(folder: Path) -> list[str]:
    """The task folders' names."""
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
    pictured = {"drawings", "best"}
    for step, record in zip(written, expected, strict=True):
        for field in fields(StepRecord):
            if field.name not in pictured:
                assert getattr(step, field.name) == getattr(record, field.name), field.name
        task = found.tasks[record.index]
        for stored, drawing in zip((*step.drawings, step.best), (*record.drawings, record.best), strict=True):
            assert stored.tokens == drawing.tokens
            assert task.picture(stored).tobytes() == drawing.picture.tobytes()
    assert found.tasks[0].last.best.picture == "steps/01-0.png"
    with Image.open(found.tasks[0].folder / "best.png") as best:
        assert best.convert("RGB").tobytes() == records[-1].best.picture.tobytes()


def test_a_stored_step_has_every_field_of_a_record() -> None:
    assert list(StoredStep.model_fields) == [field.name for field in fields(StepRecord)]


def test_the_manifest_tells_how_the_run_was_made_and_what_it_cost(tmp_path: Path) -> None:
    with writer(tmp_path) as run:
        assert read_run(tmp_path).manifest.status == "running"
        for record in fake_records(TASKS, [[0.1, 0.2], [0.3]], drawings_per_step=3):
            run.write(record)
    manifest = read_run(tmp_path).manifest
    assert manifest.status == "finished"
    assert manifest.config.seed == 7
    assert (manifest.model, manifest.reward, manifest.tasks) == ("fake", "fake@1", tuple(TASKS))
    assert set(manifest.versions) == {"milr", "python", "torch", "transformers"}
    assert (manifest.tasks_finished, manifest.drawings, manifest.tokens) == (2, 6 + 3, 14 + 7)
    assert manifest.finished is not None and manifest.finished >= manifest.started
    assert json.loads((tmp_path / "run.json").read_text())["config"]["strategy"] == "joint"


@pytest.mark.parametrize(
    ("error", "status"),
    [(MilrError("step 2 of task 0: the gradient is NaN"), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_however_a_run_ends_finished_tasks_stay(tmp_path: Path, error: BaseException, status: str) -> None:
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
    run = writer(tmp_path).__enter__()  # and never left: what a kill looks like
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


def test_default_folders_are_named_by_the_prompt_and_never_taken(tmp_path: Path) -> None:
    seen: list[Path] = []
    for _ in range(3):
        folder = default_folder("A photo of: 2 red/apples" + "!" * 300, tmp_path)
        folder.mkdir()
        seen.append(folder)
    assert len(set(seen)) == 3
    assert all("a-photo-of-2-red-apples" in folder.name and folder.parent == tmp_path for folder in seen)
    assert default_folder("?!", tmp_path).name.endswith("-run")


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run \(run.json is missing\)"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 2}')
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


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (1, 16, (320, 16 + 26 + 12 + 128 + 22 + 16)),  # enlarged 8 times, and widened for the title
        (3, 128, (2 * 16 + 3 * 128 + 2 * 12, 16 + 26 + 12 + 128 + 22 + 16)),
        (21, 100, (2 * 16 + 7 * 200 + 6 * 12, 16 + 26 + 12 + 3 * (200 + 22) + 2 * 12 + 16)),
        (2, 768, (2 * 16 + 2 * 384 + 12, 16 + 26 + 12 + 384 + 22 + 16)),
    ],
)
def test_a_strip_wraps_to_rows_and_enlarges_by_whole_factors(count: int, size: int, expected: tuple[int, int]) -> None:
    frames = [Frame(Image.new("RGB", (size, size), "blue"), f"step {i}", "0.50", best=i == 0) for i in range(count)]
    strip = draw_strip("a red apple", frames)
    assert strip.size == expected
    assert strip.getpixel((16, 54)) == (0, 0, 255)  # the first picture's corner
    assert strip.getpixel((15, 53)) == (0x1A, 0x7F, 0x37)  # its frame, since it is the best


def test_a_long_title_wraps_and_a_strange_one_does_not_stop_the_run(tmp_path: Path) -> None:
    frame = Frame(Image.new("RGB", (128, 128)), "step 0", "unscored")
    short = draw_strip("a clock", [frame]).height
    assert draw_strip("a photo of " * 12, [frame]).height > short
    draw_strip("一只红色的苹果 " + "x" * 500, [frame]).save(tmp_path / "strip.png")
