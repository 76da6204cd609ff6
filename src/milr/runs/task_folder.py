"""The folder of a task while it is being written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from milr.errors import UsageError
from milr.files import PART, move
from milr.rewards.base import Reward
from milr.rewards.images.files import UnreadableImage
from milr.runs.evaluating import Shown, evaluate_images
from milr.runs.layout import EVALUATED, RECORDS, STRIP, find_inside
from milr.runs.metadata import add_texts, describe_image
from milr.runs.reader import load_image, read_begun
from milr.runs.schema import EvaluatedImage, StoredStep, dump, dump_lines, end_lines
from milr.runs.strip_images import StripImages
from milr.types import ImageSample, KnownStep, Reasoning, StepRecord, Task


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
        self._shown = StripImages()
        self._reasonings: list[tuple[int, Reasoning]] = []

    def add(self, record: StepRecord) -> None:
        """Write the step's images and its line."""
        if record.images:
            self._reasonings.append((record.step, record.reasoning))
        names = self._shown.add(record)
        for name, sample, score in zip(names, record.images, record.scores, strict=True):
            texts = describe_image(record.task, record.reasoning, score, record.step)
            (self._folder / name).write_bytes(add_texts(sample.png, {**self._texts, **texts}))
        with (self._folder / RECORDS).open("ab") as file:
            file.write(dump(StoredStep.of(record, names, self._shown.best, self._image)) + b"\n")
        self.last = record

    def conclude(self, record: StepRecord, strip: bytes | None = None) -> None:
        """Write the best image, the strip, and the records' end mark."""
        records = self._folder / RECORDS
        records.write_bytes(end_lines(records.read_bytes()))
        self.draw(record, strip)

    def draw(self, record: StepRecord, strip: bytes | None = None) -> Path:
        """Write the best image and the strip so far; return the folder.

        Args:
            record: The last one.
            strip: From `StripImages.draw`, where somebody has drawn it already.
        """
        text = next(one for step, one in self._reasonings if step == record.best_step)
        texts = {**self._texts, **describe_image(record.task, text, record.best_score, record.best_step)}
        (self._folder / "best.png").write_bytes(add_texts(record.best.png, texts))
        if strip is None:
            strip = self._shown.draw(record, lambda name: load_image(self._folder / name))
        (self._folder / STRIP).write_bytes(add_texts(strip, texts))
        return self._folder

    def evaluate(self, evaluator: Reward, task: Task) -> list[EvaluatedImage]:
        """Let the evaluator score all images; write and return its scores.

        Raises:
            NotScored: It cannot score any more.
        """
        shown = [Shown(one.step, one.number, self._folder / one.file) for one in self._shown.images]
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
