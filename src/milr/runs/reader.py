"""Reads a run folder back: its manifest and, for every finished task, its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from milr.files import PART
from milr.runs.layout import JUDGED, RECORDS, read_manifest, unreadable
from milr.runs.schema import EvaluatedImage, Manifest, StoredImage, StoredStep
from milr.types import Score, Task, Unscored


@dataclass(frozen=True)
class RunImage:
    """One drawing of a task, with what reward and judge say of it."""

    step: int
    number: int
    """Of the step's drawings, from 0."""
    drawing: StoredImage
    reward: Score | Unscored
    judge: Score | Unscored | None
    """None where the run had no judge."""


@dataclass(frozen=True)
class TaskRun:
    """One finished task of a run."""

    folder: Path
    task: Task
    index: int
    steps: tuple[StoredStep, ...]
    """Step 0 first; never empty."""
    image: int = 0
    """Which of the prompt's images this is, from 0."""
    judged: tuple[EvaluatedImage, ...] = ()
    """What the judge says of every drawing, in order; empty where the run had no judge."""

    @property
    def first(self) -> StoredStep:
        """The step before any update."""
        return self.steps[0]

    @property
    def last(self) -> StoredStep:
        """The step that ended the task: its `best` is the answer."""
        return self.steps[-1]

    @property
    def drawings(self) -> tuple[RunImage, ...]:
        """Every drawing, in order."""
        said = {(one.step, one.number): one.score for one in self.judged}
        return tuple(
            RunImage(step.step, number, drawing, score, said.get((step.step, number)))
            for step in self.steps
            for number, (drawing, score) in enumerate(zip(step.drawings, step.scores, strict=True))
        )

    @property
    def answer(self) -> RunImage:
        """The drawing that the reward ranks best, the first of equals: what the task is worth."""
        best = self.last.best.picture
        return next(one for one in self.drawings if one.drawing.picture == best)

    def picture(self, drawing: StoredImage) -> Image.Image:
        """The drawing's picture, RGB."""
        return read_picture(self.folder / drawing.picture)


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path
    manifest: Manifest
    tasks: tuple[TaskRun, ...]
    """The finished tasks, in the order of the prompts and, for each, of its images."""


def read_run(folder: Path | str) -> Run:
    """Read a run; tasks that had not finished when it ended are left out.

    Raises:
        UsageError: The folder holds no run, or one that this version cannot read.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    finished = [path for path in (folder / "tasks").glob("*-*") if path.is_dir() and path.suffix != PART]
    try:
        tasks = sorted((read_task(path) for path in finished), key=lambda task: (task.index, task.image))
    except ValidationError as error:
        raise unreadable(folder, error) from None
    return Run(folder, manifest, tuple(tasks))


def read_task(folder: Path) -> TaskRun:
    """One finished task of a run; `read_run` gives all."""
    lines = (folder / RECORDS).read_bytes().splitlines()
    steps = tuple(StoredStep.model_validate_json(line) for line in lines)
    return TaskRun(folder, steps[0].task, steps[0].index, steps, steps[0].image, read_verdicts(folder / JUDGED))


def read_verdicts(file: Path) -> tuple[EvaluatedImage, ...]:
    """What a judge said of a task's pictures; nothing where there is no such file."""
    lines = file.read_bytes().splitlines() if file.is_file() else []
    return tuple(EvaluatedImage.model_validate_json(line) for line in lines)


def read_picture(file: Path) -> Image.Image:
    """A picture of a run, RGB."""
    with Image.open(file) as picture:
        return picture.convert("RGB")
