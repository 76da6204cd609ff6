"""Sources of spatial scores: a detector that runs here, or UniDet's results from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from milr.errors import MilrError, UsageError
from milr.rewards.compbench.prompts import Analysis
from milr.rewards.compbench.spatial import (
    Seen,
    SpatialVerdict,
    complex_objects,
    find_relation,
    score_spatial,
    simple_objects,
)
from milr.rewards.compbench.unidet import read_answers, read_detections


class NoResult(MilrError):
    """The error for an image that the results do not contain."""


class SpatialSource(Protocol):
    """The protocol of a source of spatial scores."""

    def score(self, image: Image.Image, file: str, analysis: Analysis, *, is_complex: bool) -> SpatialVerdict:
        """Return the spatial score of one image.

        Args:
            image: RGB.
            file: Name of the image's file; empty if it has none.
            analysis: Analysis of its prompt.
            is_complex: If true, find the objects as in complex prompts.

        Raises:
            MilrError: There is no score.
        """
        ...


class Detector(Protocol):
    """The protocol of a detector with UniDet's names."""

    def detect(self, image: Image.Image) -> Sequence[Seen]:
        """Detect all objects, with boxes in UniDet's frame."""
        ...


class DetectorSource:
    """The spatial rule on a detector's output."""

    def __init__(self, detector: Detector) -> None:
        """Take the detector."""
        self.detector = detector

    def score(self, image: Image.Image, file: str, analysis: Analysis, *, is_complex: bool) -> SpatialVerdict:
        """Return the spatial score of one image."""
        return _score(self.detector.detect(image), analysis, is_complex=is_complex)


class UnidetDetections:
    """The spatial rule on UniDet's detections from elsewhere."""

    def __init__(self, detections: Mapping[str, Sequence[Seen]]) -> None:
        """Take the detections by name of the image file."""
        self.detections = detections

    def score(self, image: Image.Image, file: str, analysis: Analysis, *, is_complex: bool) -> SpatialVerdict:
        """Return the spatial score of one image."""
        if file not in self.detections:
            raise NoResult(f"UniDet's results say nothing of {file or 'an image without a file'!r}")
        return _score(self.detections[file], analysis, is_complex=is_complex)


class UnidetAnswers:
    """The scores that the official script wrote, in simple or complex mode, which the file does not tell."""

    def __init__(self, answers: Mapping[str, float]) -> None:
        """Take the scores by name of the image file."""
        self.answers = answers

    def score(self, image: Image.Image, file: str, analysis: Analysis, *, is_complex: bool) -> SpatialVerdict:
        """Return the spatial score of one image."""
        if file not in self.answers:
            raise NoResult(f"UniDet's scores say nothing of {file or 'an image without a file'!r}")
        return SpatialVerdict(self.answers[file], f"as UniDet's script scored {file}")


def read_unidet(path: Path) -> SpatialSource:
    """Read UniDet's results: a folder of the official script's result files, or a file of detections.

    Raises:
        UsageError: There is neither.
    """
    if path.is_dir():
        return UnidetAnswers(read_answers(path))
    if path.is_file():
        return UnidetDetections(read_detections(path))
    raise UsageError(
        f"no UniDet results at {str(path)!r}: give the folder OUT/labels/annotation_obj_detection_2d of the official "
        "script, or a file of detections, an image a line"
    )


def _score(seen: Sequence[Seen], analysis: Analysis, *, is_complex: bool) -> SpatialVerdict:
    if not analysis.words:
        raise NoResult(f"the words of {analysis.prompt!r} are not tagged ({analysis.source})")
    objects = complex_objects(analysis) if is_complex else simple_objects(analysis)
    return score_spatial(find_relation(analysis.prompt), objects, seen)
