"""Finished tasks that a full disk or a power failure damaged: named by the readers, made anew by resuming."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from milr.errors import UsageError
from milr.runs import RunWriter, pack_run, read_run
from milr.settings import make_settings
from milr.testing import fake_records
from milr.types import Task

TASKS = [Task(prompt="a cat"), Task(prompt="a dog")]
VALUES = [[0.25, 0.5], [0.75, 0.5]]
Damage = Callable[[Path], object]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    with RunWriter(folder, tasks=TASKS, settings=make_settings(), model="fake", reward="fake@1") as writer:
        for record in fake_records(TASKS, VALUES):
            writer.write(record)
    return folder


def first_task(run: Path) -> Path:
    return next(path for path in sorted((run / "tasks").iterdir()) if path.name.startswith("0000-"))


BROKEN_RECORDS: dict[str, tuple[Damage, str]] = {
    "empty": (lambda task: (task / "records.jsonl").write_bytes(b""), "records.jsonl is empty"),
    "of NULs": (lambda task: (task / "records.jsonl").write_bytes(bytes(900)), "records.jsonl cannot be read"),
    "cut": (
        lambda task: (task / "records.jsonl").write_bytes((task / "records.jsonl").read_bytes()[:-40]),
        "records.jsonl cannot be read",
    ),
    "gone": (lambda task: (task / "records.jsonl").unlink(), "records.jsonl is gone"),
    "of another kind": (lambda task: (task / "records.jsonl").write_text('{"step": 0}\n'), "records.jsonl cannot be"),
    "wrong scores": (lambda task: (task / "evaluated.jsonl").write_text("{\n"), "evaluated.jsonl cannot be read"),
}
GONE_IMAGES: dict[str, tuple[Damage, str]] = {
    "image gone": (lambda task: (task / "steps" / "01-0.png").unlink(), "steps/01-0.png is gone"),
    "images gone": (lambda task: shutil.rmtree(task / "steps"), "steps/01-0.png is gone"),
}


@pytest.mark.parametrize("kind", BROKEN_RECORDS)
def test_a_task_without_records_is_named_with_its_file(run: Path, kind: str) -> None:
    damage, said = BROKEN_RECORDS[kind]
    damage(first_task(run))
    with pytest.raises(UsageError) as caught:
        read_run(run)
    assert str(first_task(run)) in str(caught.value) and said in str(caught.value)
    assert str(caught.value).endswith(f"milr benchmark --resume {run} makes it anew") and "\n" not in str(caught.value)
    assert [task.task for task in read_run(run, whole_only=True).tasks] == TASKS[1:]


@pytest.mark.parametrize("kind", [*GONE_IMAGES, "image broken"])
def test_a_task_without_its_images_is_named_where_they_are_needed(run: Path, kind: str) -> None:
    broken = lambda task: (task / "steps" / "01-0.png").write_bytes(b"\0" * 9)  # noqa: E731
    damage, said = GONE_IMAGES.get(kind, (broken, "steps/01-0.png cannot be read"))
    damage(first_task(run))
    found = read_run(run)  # comparing needs no images
    with pytest.raises(UsageError, match=said):
        pack_run(found)


@pytest.mark.parametrize("kind", [*BROKEN_RECORDS, *GONE_IMAGES])
def test_resuming_makes_a_damaged_task_anew(run: Path, kind: str) -> None:
    ({**BROKEN_RECORDS, **GONE_IMAGES}[kind][0])(first_task(run))
    kept = read_run(run, whole_only=True).tasks[-1].folder
    before = kept.stat().st_mtime_ns
    writer = RunWriter.resume(run)
    assert writer.remaining() == [(0, 0)]
    with writer:
        assert writer.remaining() == [(0, 0)]
        for record in fake_records(TASKS, VALUES):
            if record.index == 0:
                writer.write(record)
    assert [task.task for task in read_run(run).tasks] == TASKS
    assert (read_run(run).manifest.status, kept.stat().st_mtime_ns) == ("finished", before)


def test_an_unpacked_task_has_few_images_and_is_no_damaged_one(run: Path) -> None:
    (first_task(run) / "strip.png").unlink()  # as unpacking leaves it
    shutil.rmtree(first_task(run) / "steps")
    assert len(read_run(run, whole_only=True).tasks) == len(TASKS)
    assert RunWriter.resume(run).remaining() == []


def test_what_somebody_puts_among_the_tasks_is_no_task_and_stays(run: Path) -> None:
    stray = run / "tasks" / "0000-copy"
    shutil.copytree(first_task(run), stray)
    (run / "tasks" / "notes.txt").write_text("mine")
    assert [task.task for task in read_run(run).tasks] == TASKS
    with RunWriter.resume(run) as writer:
        assert writer.remaining() == []
    assert stray.is_dir() and (run / "tasks" / "notes.txt").is_file()
