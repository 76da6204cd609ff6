"""Where the spatial scores come from: a detector that runs here, or results that UniDet gave elsewhere."""

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
    """An image of which the results say nothing."""


class SpatialSource(Protocol):
    """Gives the spatial score of an image."""

    def score(self, image: Image.Image, file: str, analysis: Analysis, *, is_complex: bool) -> SpatialVerdict:
        """Return the spatial score of one image.

        Args:
            image: RGB.
            file: The name of the image's file; empty where it has none.
            analysis: Of its prompt.
            is_complex: Find the objects as in complex prompts.

        Raises:
            MilrError: It cannot be told.
        """
        ...


class Detector(Protocol):
    """Sees objects under UniDet's names."""

    def detect(self, image: Image.Image) -> Sequence[Seen]:
        """All it sees, boxes in UniDet's frame."""
        ...


class DetectorSource:
    """The rule over a detector's findings."""

    def __init__(self, detector: Detector) -> None:
        """Ask that detector."""
        self.detector = detector

    def score(self, image: Image.Image, file: str, analysis: Analysis, *, is_complex: bool) -> SpatialVerdict:
        """Return the spatial score of one image."""
        return _score(self.detector.detect(image), analysis, is_complex=is_complex)


class UnidetDetections:
    """The rule over what UniDet saw elsewhere."""

    def __init__(self, detections: Mapping[str, Sequence[Seen]]) -> None:
        """Read them by image's file name."""
        self.detections = detections

    def score(self, image: Image.Image, file: str, analysis: Analysis, *, is_complex: bool) -> SpatialVerdict:
        """Return the spatial score of one image."""
        if file not in self.detections:
            raise NoResult(f"UniDet's results say nothing of {file or 'an image without a file'!r}")
        return _score(self.detections[file], analysis, is_complex=is_complex)


class UnidetAnswers:
    """The scores that the official script wrote; whether in simple or complex mode, it alone knows."""

    def __init__(self, answers: Mapping[str, float]) -> None:
        """Read them by image's file name."""
        self.answers = answers

    def score(self, image: Image.Image, file: str, analysis: Analysis, *, is_complex: bool) -> SpatialVerdict:
        """Return the spatial score of one image."""
        if file not in self.answers:
            raise NoResult(f"UniDet's scores say nothing of {file or 'an image without a file'!r}")
        return SpatialVerdict(self.answers[file], f"as UniDet's script scored {file}")


def read_unidet(path: Path) -> SpatialSource:
    """What UniDet gave elsewhere: a folder of the official script's result files, or a file of detections.

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
