"""Reader of run folders: the manifest and the steps of every finished task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

from PIL import Image
from pydantic import ValidationError
from pydantic_core import from_json

from milr.errors import UsageError
from milr.files import PART
from milr.rewards.images.files import UnreadableImage, decode_image
from milr.runs.display import show_search
from milr.runs.layout import (
    EVALUATED,
    OLD_EVALUATED,
    RECORDS,
    STRIP,
    damaged,
    find_inside,
    list_tasks,
    name_task,
    read_manifest,
    say_fault,
)
from milr.runs.schema import EvaluatedImage, Manifest, StoredImage, StoredStep, split_lines
from milr.runs.upgrade import is_old_step, upgrade_step
from milr.types import Score, Task, Unscored, say_count, say_score
from milr.untrusted import read_file

MISSING = "no verdict of the run's evaluator is stored: type milr evaluate, or resume the run, to ask for it"
"""Reason why an image is unscored if its evaluator's score is missing."""


_SHOWN = 20  # most tasks of a run in a notebook


@dataclass(frozen=True)
class RunImage:
    """One image of a task, with the scores of reward and evaluator."""

    step: int
    number: int
    """Number of the image among the step's images, from 0."""
    image: StoredImage
    reward: Score | Unscored
    evaluator: Score | Unscored | None
    """None if the run has no evaluator."""


@dataclass(frozen=True, repr=False)
class TaskRun:
    """One finished task of a run."""

    folder: Path
    task: Task
    index: int
    steps: tuple[StoredStep, ...]
    """Step 0 first; never empty."""
    image: int = 0
    """Number of the image among the prompt's images, from 0."""
    evaluated: tuple[EvaluatedImage, ...] = ()
    """The evaluator's scores of every image, in order; empty if the run has no evaluator."""
    has_images: bool = True
    """False for a task of a packed run or of compact results, whose images have no files."""

    def __repr__(self) -> str:
        """Return prompt, steps, score and folder, on one line."""
        score = say_score(self.last.best_score)
        end = f"{say_count(len(self.steps), 'step')}, {score}, {self.last.finished}"
        return f"TaskRun({self.task.shown!r}, {end}, {str(self.folder)!r})"

    def to_html(self) -> str:
        """Return the task as HTML: best image, text with changed words marked, reward curve."""
        best = self.load_image(self.last.best) if self.has_images else None
        return show_search(self.steps, self.answer.evaluator, best)

    def _repr_html_(self) -> str:
        return self.to_html()

    @property
    def first(self) -> StoredStep:
        """Return step 0, before any update."""
        return self.steps[0]

    @property
    def last(self) -> StoredStep:
        """Return the last step; its `best` is the answer."""
        return self.steps[-1]

    @cached_property
    def images(self) -> tuple[RunImage, ...]:
        """Return every image, in order."""
        evaluated = {(one.step, one.number): one.score for one in self.evaluated}
        return tuple(
            RunImage(step.step, number, image, score, evaluated.get((step.step, number)))
            for step in self.steps
            for number, (image, score) in enumerate(zip(step.images, step.scores, strict=True))
        )

    @property
    def answer(self) -> RunImage:
        """Return the image that the last step names as the best."""
        best = self.last.best.file
        return next(one for one in self.images if one.image.file == best)

    def find_file(self, image: StoredImage) -> Path:
        """Return the file of a stored image.

        Raises:
            UsageError: It is missing, it is a link out of the run, or the run never had it.
        """
        if not self.has_images:
            raise UsageError(f"{self.folder.parents[1]} has no images: give the run folder that it was packed from")
        file = find_inside(self.folder, image.file)
        if file.is_file():
            return file
        if not (self.folder / STRIP).exists():  # as after unpacking
            raise UsageError(
                f"{self.folder / image.file} was not drawn again when the run was unpacked: unpack it once more, with "
                "--pictures all"
            )
        raise damaged(self.folder, image.file, "is gone")

    def load_image(self, image: StoredImage) -> Image.Image:
        """Load a stored image, RGB.

        Raises:
            UsageError: Its file is missing or broken.
        """
        try:
            return load_image(self.find_file(image))
        except (OSError, ValueError, UnreadableImage) as error:
            raise damaged(self.folder, image.file, f"cannot be read ({say_fault(error)})") from error


@dataclass(frozen=True, repr=False)
class Run:
    """A run folder."""

    folder: Path
    manifest: Manifest
    tasks: tuple[TaskRun, ...]
    """The finished tasks, in the order of the prompts and, for each, of its images."""
    damaged: tuple[str, ...] = ()
    """Finished tasks that cannot be read and are set aside: file, fault and fix of each."""

    def __repr__(self) -> str:
        """Return folder, method, model, reward and how much has finished, on one line."""
        made = self.manifest
        wanted = len(made.tasks) * made.images_per_prompt
        parts = (str(self.folder), made.method, f"model {made.model}", f"reward {made.reward}")
        return f"Run({', '.join(parts)}, {len(self.tasks)} of {wanted} tasks, {made.status})"

    def _repr_html_(self) -> str:
        left = len(self.tasks) - _SHOWN
        more = f"<p>and {left} more: {escape(str(self.folder / 'index.html'))}</p>" if left > 0 else ""
        return f"<p>{escape(repr(self))}</p>" + "".join(one.to_html() for one in self.tasks[:_SHOWN]) + more

    @property
    def notes(self) -> list[str]:
        """Return notes on the run's numbers: tasks that are set aside, scores that are missing."""
        lost = sum(one.score == _missing(self.manifest) for task in self.tasks for one in task.evaluated)
        missing = [f"{self.folder}: {lost} verdicts of {self.manifest.evaluator} are missing"] if lost else []
        gone = self.manifest.tasks_finished - len(self.tasks) - len(self.damaged) if self.folder.is_dir() else 0
        lacks = [f"{self.folder}: {gone} finished tasks are missing"] if gone > 0 else []
        return [*(f"set aside: {one}" for one in self.damaged), *lacks, *missing]


def read_run(folder: Path | str) -> Run:
    """Read a run; unfinished tasks are left out, damaged ones are set aside and named.

    Raises:
        UsageError: The folder holds no run, or one that this version cannot read.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    tasks: list[TaskRun] = []
    faults: list[str] = []
    for path in list_tasks(folder):
        try:
            tasks.append(_read_task(path, lambda: manifest))
        except UsageError as error:
            faults.append(str(error))
    return Run(folder, manifest, tuple(sorted(tasks, key=lambda task: (task.index, task.image))), tuple(faults))


def read_task(folder: Path) -> TaskRun:
    """Read one task of a run, finished or in progress; `read_run` reads all finished ones.

    Raises:
        UsageError: One of its files is missing or cannot be read.
    """
    return _read_task(folder, lambda: read_manifest(folder.parents[1]))


def read_begun(folder: Path) -> Iterator[StoredStep]:
    """Yield the steps of a task that may have been cut off at any byte, up to the first one that is not whole.

    Raises:
        OSError, UsageError: The file cannot be read, or is a link out of the run.
    """
    content = read_file(find_inside(folder, RECORDS))
    for place, line in enumerate(content.splitlines()):
        try:
            step = StoredStep.model_validate_json(line)
        except ValidationError:  # cut off, or the end mark
            return
        if step.step != place or len(step.images) != len(step.scores):
            return
        yield step


def read_whole(folder: Path) -> TaskRun | None:
    """Read one finished task with all its images; return None if it is damaged.

    An unpacked task has no strip, and only the requested images.
    """
    try:
        task = read_task(folder)
        images = [find_inside(folder, image.file) for step in task.steps for image in step.images]
    except UsageError:
        return None
    return task if all(map(Path.is_file, images)) or not (folder / STRIP).exists() else None


def _read_task(folder: Path, find_manifest: Callable[[], Manifest]) -> TaskRun:
    file = RECORDS
    try:
        lines = split_lines(read_file(find_inside(folder, file)))
        if not lines:
            raise damaged(folder, RECORDS, "is empty")
        manifest = find_manifest()
        steps = tuple(_read_step(line, manifest.method) for line in lines)
        file = EVALUATED if (folder / EVALUATED).is_file() else OLD_EVALUATED
        evaluated = read_evaluated(find_inside(folder, file))
        return make_task_run(folder, manifest, steps, evaluated, begun=folder.name.endswith(PART))
    except FileNotFoundError:
        raise damaged(folder, file, "is gone") from None
    except (OSError, ValidationError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged(folder, file, f"cannot be read ({say_fault(error)})") from None


def make_task_run(
    folder: Path,
    manifest: Manifest,
    steps: Sequence[StoredStep],
    evaluated: Sequence[EvaluatedImage],
    *,
    has_images: bool = True,
    begun: bool = False,
) -> TaskRun:
    """Return a task of a run, with an evaluator's score for each image, after checking that its parts fit together.

    Args:
        folder: The task's folder.
        manifest: The run's manifest.
        steps: All its steps.
        evaluated: The stored scores; those of another evaluator than the run's count as missing.
        has_images: As in `TaskRun`.
        begun: True if the task may be in progress.

    Raises:
        ValueError: Steps are missing, or of another task; or scores and images do not fit together.
    """
    first, last = steps[0], steps[-1]
    if first.index >= len(manifest.tasks) or manifest.tasks[first.index] != first.task:
        raise ValueError(f"its task is not task {first.index} of the run")
    if first.image >= manifest.images_per_prompt or folder.name.removesuffix(PART) != name_task(
        first.index, first.task, first.image
    ):
        raise ValueError("it is of another task's folder")
    for place, step in enumerate(steps):
        if (step.task, step.index, step.image) != (first.task, first.index, first.image):
            raise ValueError(f"step {step.step} is another task's")
        if step.step != place:
            raise ValueError(f"step {place} is missing")
        if len(step.scores) != len(step.images):
            raise ValueError(f"step {step.step} has {len(step.images)} images and {len(step.scores)} scores")
    if last.finished is None and not begun:
        raise ValueError("its last step is missing")
    files = [image.file for step in steps for image in step.images]
    if len(set(files)) != len(files) or last.best.file not in files:
        raise ValueError("its best image is none of its images" if len(set(files)) == len(files) else "a file is twice")
    task = TaskRun(folder, first.task, first.index, tuple(steps), first.image, has_images=has_images)
    if manifest.evaluator is None:
        return task
    known = {(one.step, one.number): one for one in evaluated}
    if len(known) != len(evaluated) or not known.keys() <= {(one.step, one.number) for one in task.images}:
        raise ValueError("a verdict is there twice, or of no image")
    if begun:
        return task
    whole = tuple(
        one
        if (one := known.get((image.step, image.number))) is not None and one.score.reward == manifest.evaluator
        else EvaluatedImage(step=image.step, number=image.number, score=_missing(manifest))
        for image in task.images
    )
    return TaskRun(folder, first.task, first.index, tuple(steps), first.image, whole, has_images)


def _missing(manifest: Manifest) -> Unscored:
    return Unscored(MISSING, manifest.evaluator or "")


def _read_step(line: bytes, method: str) -> StoredStep:
    if b'"drawings":' in line:  # of format 1, or a text that claims so
        step = from_json(line)
        if is_old_step(step):
            return StoredStep.model_validate(upgrade_step(step, method))
    return StoredStep.model_validate_json(line)


def read_evaluated(file: Path) -> tuple[EvaluatedImage, ...]:
    """Read an evaluator's scores of a task's images; nothing if there is no such file.

    Raises:
        OSError, ValueError: It cannot be read, or does not match its end mark.
    """
    lines = split_lines(read_file(file)) if file.is_file() else []
    return tuple(EvaluatedImage.model_validate_json(line) for line in lines)


def load_image(file: Path) -> Image.Image:
    """Load an image of a run, RGB.

    Raises:
        OSError, ValueError, UnreadableImage: It is missing, not a PNG, broken, or far too large.
    """
    return decode_image(read_file(file), ("PNG",)).convert("RGB")
