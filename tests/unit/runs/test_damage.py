"""Finished tasks that a full disk or a power failure damaged: readers name them, and resuming makes them again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from milr.benchmarks.tables import answers_of
from milr.errors import UsageError
from milr.runs import RunWriter, pack_run, read_run, read_task
from milr.runs.schema import dump_lines
from milr.settings import make_settings
from milr.testing import FakeReward, brightness, fake_records
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
    found = read_run(run)
    (note,) = found.notes
    assert note.startswith(f"set aside: {first_task(run)}") and said in note
    assert note.endswith(f"milr benchmark --resume {run} draws it again") and "\n" not in note
    assert [task.task for task in found.tasks] == TASKS[1:]


@pytest.mark.parametrize("kind", [*GONE_IMAGES, "image broken"])
def test_a_task_without_its_images_is_named_where_they_are_needed(run: Path, kind: str) -> None:
    broken = lambda task: (task / "steps" / "01-0.png").write_bytes(b"\0" * 9)  # noqa: E731
    damage, said = GONE_IMAGES.get(kind, (broken, "steps/01-0.png cannot be read"))
    damage(first_task(run))
    found = read_run(run)  # comparing needs no images
    with pytest.raises(UsageError, match=said):
        pack_run(found)


@pytest.mark.parametrize("kind", [*BROKEN_RECORDS, *GONE_IMAGES])
def test_resuming_makes_a_damaged_task_again(run: Path, kind: str) -> None:
    ({**BROKEN_RECORDS, **GONE_IMAGES}[kind][0])(first_task(run))
    kept = read_run(run).tasks[-1].folder
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
    (first_task(run) / "strip.png").unlink()  # as after unpacking
    shutil.rmtree(first_task(run) / "steps")
    assert len(read_run(run).tasks) == len(TASKS)
    assert RunWriter.resume(run).remaining() == []


def test_foreign_files_among_the_tasks_are_ignored_and_kept(run: Path) -> None:
    stray = run / "tasks" / "0000-copy"
    shutil.copytree(first_task(run), stray)
    (run / "tasks" / "notes.txt").write_text("mine")
    assert [task.task for task in read_run(run).tasks] == TASKS
    with RunWriter.resume(run) as writer:
        assert writer.remaining() == []
    assert stray.is_dir() and (run / "tasks" / "notes.txt").is_file()


# --- lines that are lost or changed, verdicts that are gone, links that lead out ---


EVALUATOR = FakeReward(brightness, name="bright@1", stop_at=0.9)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Return the same run with an evaluator."""
    folder = tmp_path / "judged"
    facts = {"tasks": TASKS, "settings": make_settings(), "model": "fake", "reward": "fake@1"}
    with RunWriter(folder, **facts, evaluator=EVALUATOR) as writer:  # type: ignore[arg-type]
        for record in fake_records(TASKS, VALUES):
            writer.write(record)
    return folder


def drop_last_step(task: Path) -> None:
    """Cut a file at the end of a line, without the task's last step and the end mark."""
    file = task / "records.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))


def change_a_digit(task: Path, file: str = "records.jsonl") -> None:
    content = (task / file).read_bytes()
    assert b'"value":0.' in content
    (task / file).write_bytes(content.replace(b'"value":0.', b'"value":0.9', 1))


CHANGED: dict[str, tuple[Damage, str]] = {
    "last step lost": (drop_last_step, "its last step is missing"),
    "first step lost": (
        lambda task: (task / "records.jsonl").write_bytes(
            b"".join((task / "records.jsonl").read_bytes().splitlines(keepends=True)[1:-1])
        ),
        "step 0 is missing",
    ),
    "a line lost before the mark": (
        lambda task: (task / "records.jsonl").write_bytes(
            b"".join((task / "records.jsonl").read_bytes().splitlines(keepends=True)[1:])
        ),
        "not what its end mark says",
    ),
    "a digit of a reward": (change_a_digit, "not what its end mark says"),
    "a digit of a verdict": (lambda task: change_a_digit(task, "evaluated.jsonl"), "not what its end mark says"),
    "another task's records": (
        lambda task: shutil.copy(sorted(task.parent.iterdir())[-1] / "records.jsonl", task / "records.jsonl"),
        "another task's folder",
    ),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_lost_or_changed_lines_are_reported_and_other_tasks_are_read(judged: Path, kind: str) -> None:
    damage, said = CHANGED[kind]
    damage(first_task(judged))
    found = read_run(judged)
    assert [task.task for task in found.tasks] == TASKS[1:]
    assert said in found.notes[0] and len(found.notes) == 1
    assert RunWriter.resume(judged, evaluator=EVALUATOR).remaining() == [(0, 0)]


LOST: dict[str, Damage] = {
    "file gone": lambda task: (task / "evaluated.jsonl").unlink(),
    "file empty": lambda task: (task / "evaluated.jsonl").write_bytes(b""),
    "by another evaluator": lambda task: (task / "evaluated.jsonl").write_bytes(
        dump_lines(
            one.model_copy(update={"score": replace(one.score, reward="other@1")}) for one in read_task(task).evaluated
        )
    ),
}


@pytest.mark.parametrize("kind", LOST)
def test_a_missing_verdict_is_never_replaced_by_the_optimised_reward(judged: Path, kind: str) -> None:
    whole = [answer.value for answer in answers_of(read_run(judged))]
    LOST[kind](first_task(judged))
    found = read_run(judged)
    assert [answer.value for answer in answers_of(found)] == [None, *whole[1:]]
    many = len(found.tasks[0].images)
    assert found.notes == [f"{judged}: {many} verdicts of {EVALUATOR.name} are missing"]
    with RunWriter.resume(judged, evaluator=EVALUATOR) as writer:
        writer.evaluate_missing()
    assert [answer.value for answer in answers_of(read_run(judged))] == whole and not read_run(judged).notes


@pytest.mark.parametrize("name", ["steps/01-0.png", "records.jsonl", "steps"])
def test_a_link_out_of_a_run_is_not_followed(judged: Path, tmp_path: Path, name: str) -> None:
    """Otherwise a received run's link would copy any file into the exported folder."""
    task = first_task(judged)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / Path(name).name
    (task / name).rename(moved)
    (task / name).symlink_to(moved)
    found = read_run(judged)
    if found.tasks[0].folder != task:
        assert "is a link that leads out of the run" in found.notes[0]
        return
    with pytest.raises(UsageError, match="is a link that leads out of the run"):
        found.tasks[0].find_file(found.tasks[0].images[1].image)
