"""Checks of a run folder: every file that its readers need, and commands that repair it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from milr.errors import UsageError
from milr.files import PART, flush
from milr.runs.layout import MANIFEST, list_tasks, read_manifest, say_resume
from milr.runs.lock import hold_run
from milr.runs.page import write_page
from milr.runs.reader import read_run, read_task
from milr.types import Score
from milr.weights import Finding

DAMAGED = "damaged"
"""The folder of a run into which `set_aside` moves tasks."""


def is_run_folder(path: Path) -> bool:
    """Return whether a path looks like a run folder, a damaged one too."""
    return path.is_dir() and any((path / name).exists() for name in (MANIFEST, MANIFEST + PART, "tasks"))


def examine_run(folder: Path) -> Iterator[Finding]:
    """Yield what is found in a run: its manifest, each damaged task, missing verdicts, unfinished tasks.

    All images are decoded.
    """
    if not (folder / MANIFEST).exists():
        yield Finding(MANIFEST, False, "missing: the run was ended before it had begun; the same command begins it")
        return
    try:
        run = read_run(folder)
    except UsageError as error:
        yield Finding(MANIFEST, False, str(error))
        return
    manifest = run.manifest
    yield Finding(MANIFEST, True, f"{manifest.status}, {manifest.method} by {manifest.reward} on {manifest.model}")
    resume = () if manifest.benchmark is None else (say_resume(folder, benchmark=True),)
    damaged = find_damaged(folder)
    for path, said in damaged.items():
        yield Finding(f"tasks/{path.name}", False, said, resume or (f"milr doctor {folder} --fix",))
    whole = [task for task in run.tasks if task.folder not in damaged]
    images = sum(len(task.images) for task in whole)
    yield Finding("tasks", True, f"{len(whole)} are whole, with {images} images")
    verdicts = [one.score for task in whole for one in task.evaluated if not isinstance(one.score, Score)]
    if verdicts:
        asks = (f"milr evaluate {folder} --evaluator {manifest.evaluator_asked or manifest.evaluator}",)
        yield Finding("verdicts", False, f"{len(verdicts)} of {images} images have none: {verdicts[0].reason}", asks)
    gone = manifest.tasks_finished - len(run.tasks) - len(run.damaged)
    if gone > 0:
        yield Finding("tasks", False, f"{gone} finished tasks are missing", resume)
    wanted = len(manifest.tasks) * manifest.images_per_prompt
    unscored = sum(not isinstance(task.last.best_score, Score) for task in whole)
    left = wanted - len(whole) - len(damaged) + unscored
    if left:
        yield Finding("unfinished", None, f"{left} of {wanted} tasks have not finished or were never scored", resume)


def find_damaged(folder: Path) -> dict[Path, str]:
    """Return the folders of finished tasks that cannot be read, each with the reason; all images are decoded."""
    found: dict[Path, str] = {}
    for path in list_tasks(folder):
        try:
            task = read_task(path)
            for one in task.images:
                if (path / one.image.file).exists() or (path / "strip.png").exists():  # else unpacked without it
                    task.load_image(one.image)
        except UsageError as error:
            found[path] = str(error)
    return found


def set_aside(folder: Path) -> int:
    """Move damaged tasks out of a run's tasks into `DAMAGED`, so that the run reads without them; return how many.

    Raises:
        UsageError: No run can be read there, or another process works on it.
        OSError: They cannot be moved.
    """
    read_manifest(folder)
    with hold_run(folder, MANIFEST):
        found = find_damaged(folder)
        for path in found:
            (folder / DAMAGED).mkdir(exist_ok=True)
            target = folder / DAMAGED / path.name
            number = 1
            while target.exists():
                number += 1
                target = folder / DAMAGED / f"{path.name}.{number}"
            os.rename(path, target)
        if found:
            flush(folder / "tasks")
            write_page(folder)
    return len(found)
