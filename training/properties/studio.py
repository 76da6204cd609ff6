"""Texts and images of the model that is measured, through milr's own API, and what both detectors say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from milr.decode.sampling import open_stream
from milr.models.base import ImageRequest, Model, TextRequest
from milr.rewards.geneval.rules import THRESHOLD, Detection
from milr.rewards.icons.reward import Icons, IconsEvaluator
from milr.settings import SamplingParams
from milr.types import Reasoning, Score, Task, Unscored
from training.stage import Settings

SEED = 90_000  # of everything that is measured; training never saw its worlds
ROWS = 32  # images drawn at once


@dataclass(frozen=True)
class Seen:
    """An object that a detector found."""

    name: str
    color: str | None
    """None if it has no single colour."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels."""


@dataclass(frozen=True)
class Drawing:
    """A drawn image and its verdicts."""

    tokens: tuple[int, ...]
    image: Image.Image
    right: bool
    """True if the evaluator, icons-judge, says that the image shows what the prompt asks for."""
    chosen: bool
    """True if the reward, icons, says so."""


class Studio:
    """A model, a reward and an evaluator."""

    def __init__(self, model: Model, reward: Icons, evaluator: IconsEvaluator) -> None:
        self.model, self.reward, self.evaluator = model, reward, evaluator
        self.sampling = model.settings("one-shot").sampling
        """The model's own sampling parameters."""
        self.drawings = 0
        """Number of images drawn so far."""

    def write(self, tasks: Sequence[Task], label: str = "") -> list[Reasoning]:
        """Return a text for each task: greedy, or sampled at the model's temperature if there is a label.

        Args:
            tasks: Tasks.
            label: Name of the random streams.
        """
        found: list[Reasoning] = []
        for start in range(0, len(tasks), ROWS):
            states = self.model.start(tasks[start : start + ROWS])
            requests = [
                TextRequest(
                    state,
                    stream=open_stream(SEED, f"{label} {number} {state.task.key}", 0, 0, "text") if label else None,
                )
                for number, state in enumerate(states, start)
            ]
            found += [output.reasoning for output in self.model.reason(requests)]
        return found

    def draw(
        self,
        tasks: Sequence[Task],
        texts: Sequence[Reasoning | None],
        label: str,
        *,
        starts: Sequence[Sequence[int]] | None = None,
        sampling: SamplingParams | None = None,
    ) -> list[Drawing]:
        """Draw one image for each task and let both detectors judge it.

        Args:
            tasks: Tasks.
            texts: The text that each image follows; None draws from the prompt alone.
            label: Name of the random streams; equal names give equal numbers.
            starts: Given first tokens of each image.
            sampling: Sampling parameters; None takes the model's own.
        """
        found: list[Drawing] = []
        for start in range(0, len(tasks), ROWS):
            rows = range(start, min(start + ROWS, len(tasks)))
            chosen = [tasks[row] for row in rows]
            requests = [
                ImageRequest(
                    state,
                    texts[row],
                    open_stream(SEED, f"{label} {row} {state.task.key}", 0, 0),
                    tokens=starts[row] if starts else (),
                )
                for row, state in zip(rows, self.model.start(chosen), strict=True)
            ]
            samples = [output.sample for output in self.model.draw(requests, sampling or self.sampling)]
            images = [sample.image for sample in samples]
            right, pleased = (passes(critic(images, chosen)) for critic in (self.evaluator, self.reward))
            found += [
                Drawing(sample.tokens, *rest) for sample, *rest in zip(samples, images, right, pleased, strict=True)
            ]
        self.drawings += len(tasks)
        return found

    def look(self, images: Sequence[Image.Image]) -> list[list[Seen]]:
        """Return the objects that the evaluator finds in each image."""
        return [find_objects(found) for found in self.evaluator.detector.detect(images)]


def open_studio(settings: Settings, model: Model) -> Studio:
    """Open a studio with the detectors of a training's folder, or the shipped ones if it has none."""
    folders = [Path(settings["critics"][name]["folder"]) for name in ("icons-detector", "icons-judge")]
    detector, evaluator = (folder if (folder / "model.safetensors").exists() else None for folder in folders)
    return Studio(model, Icons(detector), IconsEvaluator(evaluator))


def passes(scores: Sequence[Score | Unscored]) -> list[bool]:
    """Return for each score whether it is above its stop value."""
    return [isinstance(score, Score) and score.value > score.stop_at for score in scores]


def find_objects(found: dict[str, list[Detection]]) -> list[Seen]:
    """Return confident detections, the surest first; a box with several names counts once."""
    every = [(one[4], name, one) for name, seen in found.items() for one in seen if one[4] > THRESHOLD]
    objects: dict[tuple[float, ...], Seen] = {}
    for _, name, (x0, y0, x1, y1, _, color) in sorted(every, key=lambda one: (-one[0], one[1])):
        objects.setdefault((x0, y0, x1, y1), Seen(name, color, (x0, y0, x1, y1)))
    return list(objects.values())
