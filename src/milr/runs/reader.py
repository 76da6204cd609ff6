"""Reads a run folder back: its manifest and, for every finished task, its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import ValidationError
from pydantic_core import from_json

from milr.errors import UsageError
from milr.runs.layout import EVALUATED, OLD_EVALUATED, RECORDS, STRIP, damaged, list_tasks, read_manifest
from milr.runs.schema import EvaluatedImage, Manifest, StoredImage, StoredStep
from milr.runs.upgrade import is_old_step, upgrade_step
from milr.types import Score, Task, Unscored


@dataclass(frozen=True)
class RunImage:
    """One image of a task, with the scores of reward and evaluator."""

    step: int
    number: int
    """Of the step's images, from 0."""
    image: StoredImage
    reward: Score | Unscored
    evaluator: Score | Unscored | None
    """None if the run has no evaluator."""


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
    evaluated: tuple[EvaluatedImage, ...] = ()
    """The evaluator's scores of every image, in order; empty if the run has no evaluator."""
    has_images: bool = True
    """False for a task of a packed run or of compact results: its images have no files."""

    @property
    def first(self) -> StoredStep:
        """The step before any update."""
        return self.steps[0]

    @property
    def last(self) -> StoredStep:
        """The step that ended the task: its `best` is the answer."""
        return self.steps[-1]

    @property
    def images(self) -> tuple[RunImage, ...]:
        """Every image, in order."""
        evaluated = {(one.step, one.number): one.score for one in self.evaluated}
        return tuple(
            RunImage(step.step, number, image, score, evaluated.get((step.step, number)))
            for step in self.steps
            for number, (image, score) in enumerate(zip(step.images, step.scores, strict=True))
        )

    @property
    def answer(self) -> RunImage:
        """The image that the reward ranks best, the first of equals: what the task is worth."""
        best = self.last.best.file
        return next(one for one in self.images if one.image.file == best)

    def find_file(self, image: StoredImage) -> Path:
        """Return the file of a stored image.

        Raises:
            UsageError: It is gone, or the run never had it.
        """
        if not self.has_images:
            raise UsageError(f"{self.folder.parents[1]} has no images: give the run folder that it was packed from")
        file = self.folder / image.file
        if not file.is_file():
            raise damaged(self.folder, image.file, "is gone")
        return file

    def load_image(self, image: StoredImage) -> Image.Image:
        """Load a stored image, RGB.

        Raises:
            UsageError: Its file is gone or broken.
        """
        try:
            return load_image(self.find_file(image))
        except (OSError, ValueError, SyntaxError) as error:
            raise damaged(self.folder, image.file, "cannot be read") from error


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path
    manifest: Manifest
    tasks: tuple[TaskRun, ...]
    """The finished tasks, in the order of the prompts and, for each, of its images."""


def read_run(folder: Path | str, *, whole_only: bool = False) -> Run:
    """Read a run; tasks that had not finished when it ended are left out.

    Args:
        folder: The run's.
        whole_only: Leave damaged tasks out too, as resuming does, which makes them anew.

    Raises:
        UsageError: The folder holds no run, or one that this version cannot read; or a task is damaged, which names it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if whole_only:
        tasks = [task for path in list_tasks(folder) if (task := read_whole(path)) is not None]
    else:
        tasks = [_read_task(path, lambda: manifest.method) for path in list_tasks(folder)]
    return Run(folder, manifest, tuple(sorted(tasks, key=lambda task: (task.index, task.image))))


def read_task(folder: Path) -> TaskRun:
    """Read one finished task of a run; `read_run` reads all.

    Raises:
        UsageError: A file of it is gone or cannot be read.
    """
    return _read_task(folder, lambda: read_manifest(folder.parents[1]).method)


def read_whole(folder: Path) -> TaskRun | None:
    """Read one finished task with all its images there; None if it is damaged.

    A task that was unpacked has no strip, and only the images that were asked for.
    """
    try:
        task = read_task(folder)
    except UsageError:
        return None
    images = [folder / image.file for step in task.steps for image in step.images]
    return task if all(map(Path.is_file, images)) or not (folder / STRIP).exists() else None


def _read_task(folder: Path, method: Callable[[], str]) -> TaskRun:
    """Read a task; the run's method is asked for only if its lines are of format 1."""
    file = folder / RECORDS
    try:
        lines = file.read_bytes().splitlines()
        if not lines:
            raise damaged(folder, RECORDS, "is empty")
        steps = tuple(_read_step(line, method) for line in lines)
        file = folder / EVALUATED if (folder / EVALUATED).is_file() else folder / OLD_EVALUATED
        evaluated = read_evaluated(file)
    except FileNotFoundError:
        raise damaged(folder, file.name, "is gone") from None
    except (OSError, ValidationError, ValueError, LookupError, TypeError) as error:
        reason = f"cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"cannot be read ({'.'.join(map(str, first['loc']))}: {first['msg']})"
        raise damaged(folder, file.name, reason) from None
    return TaskRun(folder, steps[0].task, steps[0].index, steps, steps[0].image, evaluated)


def _read_step(line: bytes, method: Callable[[], str]) -> StoredStep:
    step = from_json(line)
    return StoredStep.model_validate(upgrade_step(step, method()) if is_old_step(step) else step)


def read_evaluated(file: Path) -> tuple[EvaluatedImage, ...]:
    """Read an evaluator's scores of a task's images; nothing if there is no such file."""
    lines = file.read_bytes().splitlines() if file.is_file() else []
    return tuple(EvaluatedImage.model_validate_json(line) for line in lines)


def load_image(file: Path) -> Image.Image:
    """Load an image of a run, RGB."""
    with Image.open(file) as image:
        return image.convert("RGB")
