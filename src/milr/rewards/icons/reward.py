"""The rewards `icons`, `icons-soft` and `icons-judge`: an icon detector's findings under GenEval's rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image

from milr.errors import MilrError
from milr.rewards.geneval.rules import apply_rules, conditions_met, to_regions
from milr.rewards.icons.detector import IconDetector
from milr.tasks import check_task
from milr.types import Score, Task, Unscored

_NEARLY = 0.9
"""Highest value of `icons-soft` for an image that is not correct."""


class Icons:
    """1 if GenEval's rules call the image correct, else 0.

    A score's parts are the task's conditions (see `milr.rewards.geneval.rules.conditions_met`), its explanation lists
    the faults, and its regions are all detections.
    """

    metric: ClassVar[str] = "icons@1"
    """Version of the rules, increased with every change."""
    stop_at = 0.9
    shipped: ClassVar[str] = "icons-detector"
    """The detector that comes with the package."""
    golden_test: ClassVar[bool] = True
    """True if its scores on the golden images are known: a benchmark checks them before anything else."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Load the detector.

        Args:
            folder: Folder of the detector's `model.safetensors` and `config.json`; None takes the shipped one.
        """
        self.detector = IconDetector.from_folder(self.shipped if folder is None else folder)
        self.name = f"{self.metric}/{self.detector.version}"

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return [self._score(image, task) for image, task in zip(images, tasks, strict=True)]

    def _score(self, image: Image.Image, task: Task) -> Score | Unscored:
        if not task.include:
            reason = "the task has no include list, so nobody can tell what a correct image must show"
            return Unscored(reason=reason, reward=self.name)
        try:
            check_task(task)
            detections = self.detector.detect([image])[0]
        except MilrError as error:
            return Unscored(reason=str(error), reward=self.name)
        except (OSError, ValueError) as error:
            return Unscored(reason=f"the image cannot be read: {error}", reward=self.name)
        verdict = apply_rules(detections, task)
        parts = conditions_met(detections, task)
        return Score(
            value=self._value(verdict.correct, parts),
            reward=self.name,
            stop_at=self.stop_at,
            parts=parts,
            explanation=verdict.reason or "correct",
            regions=to_regions(detections),
        )

    def _value(self, correct: bool, parts: dict[str, float]) -> float:
        return float(correct)


class IconsSoft(Icons):
    """1 if `icons` says correct, else 0.9 times the mean of the conditions.

    Each condition is met to a degree between 0 and 1, by its margin. Only a correct image is above 0.9, so the strict
    stop value 0.9 stops exactly when `icons` does.
    """

    metric = "icons-soft@1"

    def _value(self, correct: bool, parts: dict[str, float]) -> float:
        return 1.0 if correct else _NEARLY * min(1.0, sum(parts.values()) / len(parts))


class IconsEvaluator(Icons):
    """`icons` by another detector: other architecture, seed, augmentation, and icons that the reward never saw.

    It is for evaluation, never for optimisation: an image that only `icons` calls correct may exploit the reward's
    mistakes.
    """

    metric = "icons-judge@1"
    shipped: ClassVar[str] = "icons-judge"
