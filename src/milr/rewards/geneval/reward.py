"""The rewards `geneval` and `geneval-hf`: GenEval's own scorer without mmdet, and an approximation of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from PIL import Image

from milr.errors import MilrError
from milr.models.devices import find_device
from milr.rewards.geneval.colors import ColorClassifier
from milr.rewards.geneval.detector import GenEvalDetector, Instance, decode
from milr.rewards.geneval.known_answers import check_arithmetic, check_colors, check_detector
from milr.rewards.geneval.rules import Detection, apply_rules, conditions_met, kept_objects, to_regions
from milr.rewards.geneval.weights import CLIP, DETECTOR, HUB_DETECTOR
from milr.tasks import check_task
from milr.types import Score, Task, Unscored
from milr.weights import Finding, Weights, name_with


class GenEval:
    """GenEval's scorer: 1 if it calls the image correct, else 0.

    A score's parts are the task's conditions (see `milr.rewards.geneval.rules.conditions_met`), its explanation lists
    the faults, and its regions are the objects above GenEval's threshold, with a colour if GenEval asks for one. CLIP
    is loaded when the first colour is needed. Loaded weights pass a self-test before anything is scored.
    """

    metric: ClassVar[str] = "geneval@1"
    """Version of the rules, increased with every change."""
    stop_at = 0.9
    doctor = "geneval"
    """The reward's line in `milr doctor`."""
    detector_weights = DETECTOR

    def __init__(self, *, device: str = "cpu", self_test: bool = True) -> None:
        """Load the detector.

        Args:
            device: Device of both networks.
            self_test: Refuse to score if the self-test fails. If false, scores are not reliable until `milr doctor
                geneval` has passed.

        Raises:
            UsageError: Weights are missing; the message has the commands that get them.
            MilrError: The self-test failed.
        """
        find_device(device)
        folder = self.detector_weights.find()
        self._clip_folder = CLIP.find()
        self.name = name_with(self.metric, *self.weights())
        self._device = device
        self._self_test = self_test
        self.detector = GenEvalDetector.from_folder(folder, device)
        self._colors: ColorClassifier | None = None
        if self_test:
            self._refuse(check_arithmetic(device))
            self._refuse(check_detector(self.detector))

    @classmethod
    def weights(cls) -> tuple[Weights, ...]:
        """Return all weights that it reads."""
        return (cls.detector_weights, CLIP)

    def self_test(self) -> Iterator[Finding]:
        """Yield the results of all checks, also if the self-test was off at the start."""
        yield from check_arithmetic(self._device)
        yield from check_detector(self.detector)
        yield from check_colors(self.load_colors())

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return [self._score(image, task) for image, task in zip(images, tasks, strict=True)]

    def _score(self, image: Image.Image, task: Task) -> Score | Unscored:
        try:
            check_task(task)
        except MilrError as error:
            return Unscored(reason=str(error), reward=self.name)
        try:
            rgb = decode(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return Unscored(reason=f"the image cannot be read: {error}", reward=self.name)
        detections = self._detect(rgb, task)
        verdict = apply_rules(detections, task)
        kept = kept_objects(detections, task)
        return Score(
            value=float(verdict.correct),
            reward=self.name,
            stop_at=self.stop_at,
            parts=conditions_met(detections, task),
            explanation=verdict.reason or "correct",
            regions=to_regions(kept),
        )

    def _detect(self, image: Image.Image, task: Task) -> dict[str, list[Detection]]:
        """Return all detections, with a colour for the objects that GenEval asks for one."""
        detections: dict[str, list[Detection]] = {}
        instances: dict[tuple[str, Detection], Instance] = {}
        for seen in self.detector.detect(image):
            detection: Detection = (*seen.box, seen.score, None)
            detections.setdefault(seen.name, []).append(detection)
            instances[seen.name, detection] = seen
        kept = kept_objects(detections, task)
        for item in task.include:
            objects = kept.get(item.name, [])[: item.count]
            if item.color is None or len(objects) < item.count:
                continue
            for detection in objects:
                place = detections[item.name].index(detection)
                (color,) = self.load_colors().classify(image, [instances[item.name, detection]])
                detections[item.name][place] = (*detection[:5], color)
        return detections

    def load_colors(self) -> ColorClassifier:
        """Return the colour classifier; its weights are read and tested at the first call."""
        if self._colors is None:
            colors = ColorClassifier.from_folder(self._clip_folder, self._device)
            if self._self_test:
                self._refuse(check_colors(colors))
            self._colors = colors
        return self._colors

    def _refuse(self, findings: Iterator[Finding]) -> None:
        for finding in findings:
            if finding.fine is False:
                raise MilrError(
                    f"{self.name} fails its self-test, so nothing is scored: {finding.subject}: {finding.said}; "
                    f"type: milr doctor {self.doctor}"
                )


class GenEvalHub(GenEval):
    """The same code with a detector of the same shape from another training run: an approximation.

    Its scores are not GenEval's, so the thresholds of 0.3 and 0.9 have another meaning.
    """

    metric = "geneval-hf-approximation@1"
    doctor = "geneval-hf"
    detector_weights = HUB_DETECTOR
