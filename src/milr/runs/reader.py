"""Reads a run folder back: its manifest and, for every finished task, its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from milr.errors import UsageError
from milr.runs.schema import Manifest, StoredDrawing, StoredStep
from milr.runs.writer import MANIFEST, PART, RECORDS
from milr.types import Task


@dataclass(frozen=True)
class TaskRun:
    """One finished task of a run."""

    folder: Path
    task: Task
    index: int
    steps: tuple[StoredStep, ...]
    """Step 0 first; never empty."""

    @property
    def first(self) -> StoredStep:
        """The step before any update."""
        return self.steps[0]

    @property
    def last(self) -> StoredStep:
        """The step that ended the task: its `best` is the answer."""
        return self.steps[-1]

    def picture(self, drawing: StoredDrawing) -> Image.Image:
        """The drawing's picture, RGB."""
        with Image.open(self.folder / drawing.picture) as picture:
            return picture.convert("RGB")


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path
    manifest: Manifest
    tasks: tuple[TaskRun, ...]
    """The finished tasks, in the order of the prompts."""


def read_run(folder: Path | str) -> Run:
    """Read a run; tasks that had not finished when it ended are left out.

    Raises:
        UsageError: The folder holds no run, or one that this version cannot read.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} holds no run ({MANIFEST} is missing): give the folder that `milr generate` named")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
        tasks = sorted(p for p in (folder / "tasks").glob("*-*") if p.is_dir() and p.suffix != PART)
        return Run(folder, manifest, tuple(_read_task(task) for task in tasks))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{folder} holds a run that this milr cannot read ({where}: {first['msg']}): "
            "read it with the version that its run.json names"
        ) from None


def _read_task(folder: Path) -> TaskRun:
    lines = (folder / RECORDS).read_bytes().splitlines()
    steps = tuple(StoredStep.model_validate_json(line) for line in lines)
    return TaskRun(folder, steps[0].task, steps[0].index, steps)
