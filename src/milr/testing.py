"""Fakes that need no weights, for tests of this package and of plug-ins."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from milr.types import Drawing, Reasoning, Score, StepRecord, Task, Unscored


def brightness(picture: Image.Image, task: Task) -> float:
    """The mean of all channels, in [0, 1]: a value that depends on the picture alone."""
    pixels = picture.convert("RGB").tobytes()
    return sum(pixels) / (255 * len(pixels))


class FakeReward:
    """A reward made of any function of a picture and its task."""

    def __init__(
        self,
        value: Callable[[Image.Image, Task], float] = brightness,
        *,
        stop_at: float = 0.9,
        name: str = "fake@1",
    ) -> None:
        """Score with `value`; what it gives outside [0, 1], NaN among it, becomes `Unscored`."""
        self.value = value
        self.stop_at = stop_at
        self.name = name

    def __call__(self, pictures: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """One score a picture, in order."""
        return [
            fake_score(self.value(picture, task), stop_at=self.stop_at, name=self.name)
            for picture, task in zip(pictures, tasks, strict=True)
        ]


def fake_score(value: float, *, stop_at: float = 0.9, name: str = "fake@1") -> Score | Unscored:
    """A score of that value, or `Unscored` where it is none, as NaN is."""
    if 0.0 <= value <= 1.0:
        return Score(value=value, reward=name, stop_at=stop_at, explanation=f"the fake said {value}")
    return Unscored(reason=f"the fake said {value}", reward=name)


def fake_drawing(*keys: object, size: int = 16, tokens: int = 4) -> Drawing:
    """A drawing that depends on the keys alone: a plain colour and a few tokens."""
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return Drawing(tuple(digest[3 : 3 + tokens]), Image.new("RGB", (size, size), (digest[0], digest[1], digest[2])))


def fake_records(
    tasks: Sequence[Task],
    values: Sequence[Sequence[float]],
    *,
    stop_at: float = 0.9,
    drawings_per_step: int = 1,
    size: int = 16,
) -> Iterator[StepRecord]:
    """The records that a search would give, had its pictures scored as told.

    Args:
        tasks: All searched at once: the records of one step come one after another.
        values: For each task, each step's value; NaN for a picture that could not be scored. A task ends with its
            values, or with the first one above `stop_at`.
        stop_at: Of every score.
        drawings_per_step: All drawings of a step score the same.
        size: Of the pictures, in pixels.
    """
    best: dict[int, tuple[int, Drawing, Score | Unscored]] = {}
    done: set[int] = set()
    for step in range(max(map(len, values))):
        for index, task in enumerate(tasks):
            if index in done:
                continue
            score = fake_score(values[index][step], stop_at=stop_at)
            drawings = tuple(fake_drawing(task.key, step, number, size=size) for number in range(drawings_per_step))
            if index not in best or _value(score) > _value(best[index][2]):
                best[index] = step, drawings[0], score
            best_step, best_drawing, best_score = best[index]
            met = _value(score) > stop_at
            last = met or step + 1 == len(values[index])
            if last:
                done.add(index)
            yield StepRecord(
                task=task,
                index=index,
                step=step,
                moved=("text", "image") if step else (),
                reasoning=Reasoning(f"thoughts of step {step}", (1, 2, 3)),
                drawings=drawings,
                scores=(score,) * drawings_per_step,
                best=best_drawing,
                best_score=best_score,
                best_step=best_step,
                text_latents=2,
                image_latents=1,
                flipped_text=min(step, 2),
                flipped_image=min(step, 1),
                text_shift=0.1 * step,
                image_shift=0.2 * step,
                log_probability=-1.5 if step else None,
                drawings_spent=(step + 1) * drawings_per_step,
                tokens_spent=(step + 1) * 7,
                seconds=0.5 * (step + 1),
                finished=("met" if met else "out of steps") if last else None,
            )


def _value(score: Score | Unscored) -> float:
    return -math.inf if isinstance(score, Unscored) else score.value
