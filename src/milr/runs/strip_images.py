"""The images of a task in progress as its strip shows them; the strip is drawn where the images are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from milr.png import encode_png
from milr.runs.layout import name_image
from milr.runs.strip import Frame, draw_strip, find_outcome
from milr.types import Score, StepRecord, Unscored, say_score

_LEVEL = 4  # of zlib: half the time of 6, a few percent more bytes


@dataclass(frozen=True)
class StripImage:
    """One image of a task."""

    step: int
    number: int
    file: str
    """Its name in the task's folder."""
    label: str
    reward: str


class StripImages:
    """All images of a task so far."""

    def __init__(self) -> None:
        """Begin without any."""
        self.images: list[StripImage] = []
        self.best = ""
        """Name of the best image."""
        self._first: Score | Unscored = Unscored("no image yet", "")

    def add(self, record: StepRecord) -> list[str]:
        """Add a step's images; return their names."""
        self._first = self._first if self.images else record.scores[0]
        names = [name_image(record.step, number) for number in range(len(record.images))]
        for number, (name, score) in enumerate(zip(names, record.scores, strict=True)):
            label = f"step {record.step}" + (f" #{number + 1}" if len(names) > 1 else "")
            self.images.append(StripImage(record.step, number, name, label, say_score(score)))
        if record.best_step == record.step:
            self.best = names[_best_number(record)]
        return names

    def draw(self, record: StepRecord, load: Callable[[str], Image.Image]) -> bytes:
        """Return the strip as PNG without texts.

        Args:
            record: The task's last one, which has been added.
            load: Returns the image of a name.
        """
        outcome = find_outcome(self._first, record)
        frames = [
            Frame(load(one.file), one.label, one.reward, outcome if one.file == self.best else None)
            for one in self.images
        ]
        return encode_png(draw_strip(record.task.shown, frames), _LEVEL)


def _best_number(record: StepRecord) -> int:
    """Return the number of the best image among the step's images: the same object, or the first with its tokens."""
    for number, sample in enumerate(record.images):
        if sample is record.best:
            return number
    return next(number for number, sample in enumerate(record.images) if sample.tokens == record.best.tokens)
