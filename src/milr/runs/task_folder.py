"""The folder of a task while it is being written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from milr.errors import UsageError
from milr.files import PART, move
from milr.rewards.base import Reward
from milr.rewards.images.files import UnreadableImage
from milr.runs.evaluating import Shown, evaluate_images
from milr.runs.layout import EVALUATED, RECORDS, STRIP, find_inside, name_image
from milr.runs.metadata import add_texts, describe_image
from milr.runs.reader import load_image, read_begun
from milr.runs.schema import EvaluatedImage, StoredStep, dump, dump_lines, end_lines
from milr.runs.strip import Frame, draw_strip, find_outcome
from milr.types import ImageSample, KnownStep, Reasoning, Score, StepRecord, Task, Unscored, encode_png

_STRIP_LEVEL = 4  # half the time of 6, a few percent more bytes: the coordinator of workers makes all strips


class TaskFolder:
    """The folder of a task in progress. Images are not kept in memory: strip and evaluator read them from disk."""

    def __init__(self, folder: Path, image: int, texts: Mapping[str, str]) -> None:
        """Begin a task's folder.

        Args:
            folder: Its name once the task is finished.
            image: Number of the image among the prompt's images.
            texts: Of every image, for its PNG file.
        """
        self.final = folder
        """Its name once the task is finished."""
        self._image, self._texts = image, texts
        self._folder = folder.with_name(folder.name + PART)
        if self._folder.exists():  # of an earlier session, whose steps are written again
            shutil.rmtree(self._folder)
        (self._folder / "steps").mkdir(parents=True)
        self.last: StepRecord | None = None
        """The last record."""
        self._best = ""
        self._first: Score | Unscored = Unscored("no image yet", "")
        self._cells: list[_Cell] = []
        self._reasonings: list[tuple[int, Reasoning]] = []

    def add(self, record: StepRecord) -> None:
        """Write the step's images and its line."""
        self._first = self._first if self._cells else record.scores[0]
        if record.images:
            self._reasonings.append((record.step, record.reasoning))
        names = [name_image(record.step, number) for number in range(len(record.images))]
        for number, (name, sample, score) in enumerate(zip(names, record.images, record.scores, strict=True)):
            texts = describe_image(record.task, record.reasoning, score, record.step)
            (self._folder / name).write_bytes(add_texts(sample.png, {**self._texts, **texts}))
            label = f"step {record.step}" + (f" #{number + 1}" if len(names) > 1 else "")
            self._cells.append(_Cell(record.step, number, name, label, _reward_text(score)))
        if record.best_step == record.step:
            self._best = names[_best_number(record)]
        with (self._folder / RECORDS).open("ab") as file:
            file.write(dump(StoredStep.of(record, names, self._best, self._image)) + b"\n")
        self.last = record

    def conclude(self, record: StepRecord) -> None:
        """Write the best image, the strip, and the records' end mark."""
        records = self._folder / RECORDS
        records.write_bytes(end_lines(records.read_bytes()))
        self.draw(record)

    def draw(self, record: StepRecord) -> Path:
        """Write the best image and the strip so far; return the folder."""
        text = next(one for step, one in self._reasonings if step == record.best_step)
        texts = {**self._texts, **describe_image(record.task, text, record.best_score, record.best_step)}
        (self._folder / "best.png").write_bytes(add_texts(record.best.png, texts))
        outcome = find_outcome(self._first, record)
        frames = [
            Frame(
                load_image(self._folder / cell.file),
                cell.label,
                cell.reward,
                outcome if cell.file == self._best else None,
            )
            for cell in self._cells
        ]
        strip = encode_png(draw_strip(record.task.shown, frames), _STRIP_LEVEL)
        (self._folder / STRIP).write_bytes(add_texts(strip, texts))
        return self._folder

    def evaluate(self, evaluator: Reward, task: Task) -> list[EvaluatedImage]:
        """Let the evaluator score all images; write and return its scores.

        Raises:
            NotScored: It cannot score any more.
        """
        shown = [Shown(cell.step, cell.number, self._folder / cell.file) for cell in self._cells]
        return self.keep(evaluate_images(evaluator, task, shown))

    def keep(self, evaluated: Sequence[EvaluatedImage]) -> list[EvaluatedImage]:
        """Write and return the evaluator's scores of all images."""
        (self._folder / EVALUATED).write_bytes(dump_lines(evaluated))
        return list(evaluated)

    def recall(self) -> list[KnownStep]:
        """Return the steps so far."""
        return recall_steps(self._folder)

    def discard(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder)

    def rename(self) -> Path:
        """Rename the folder to its final name, after all of it is on the disk; then the task is finished.

        A folder of an earlier, interrupted session with that name is replaced.
        """
        if self.final.exists():
            shutil.rmtree(self.final)
        move(self._folder, self.final)
        return self.final


def recall_steps(folder: Path) -> list[KnownStep]:
    """Return the first steps of a task as far as they and their images are whole, whatever ended the task.

    Args:
        folder: The task's folder, by the name that it has at the moment.
    """
    known: list[KnownStep] = []
    try:
        for step in read_begun(folder):
            if not step.images:  # it only says why the task ended
                break
            images = tuple(ImageSample(one.tokens, load_image(find_inside(folder, one.file))) for one in step.images)
            known.append(KnownStep(images, step.scores, step.seconds))
    except (OSError, ValueError, UsageError, UnreadableImage):  # the steps after this one cannot be repeated
        pass
    return known


@dataclass(frozen=True)
class _Cell:
    """One image of a task."""

    step: int
    number: int
    file: str
    label: str
    reward: str


def _best_number(record: StepRecord) -> int:
    """Return the number of the best image among the step's images: the same object, or the first with its tokens."""
    for number, sample in enumerate(record.images):
        if sample is record.best:
            return number
    return next(number for number, sample in enumerate(record.images) if sample.tokens == record.best.tokens)


def _reward_text(score: Score | Unscored) -> str:
    return "unscored" if isinstance(score, Unscored) else f"{score.value:.2f}"
