"""The scorers of T2I-CompBench: BLIP-VQA, CLIPScore and a source of spatial scores, loaded when they are needed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milr.rewards.compbench.blip_vqa import BlipVqa
    from milr.rewards.compbench.clip_score import ClipScore
    from milr.rewards.compbench.sources import SpatialSource


class Scorers:
    """BLIP, CLIP and a source of spatial scores, each loaded at its first use."""

    def __init__(self, unidet: Path | None = None, device: str = "cpu") -> None:
        """Check that the weights are there.

        Args:
            unidet: Results of UniDet from elsewhere; None uses OWLv2 instead.
            device: In torch's notation.

        Raises:
            UsageError: Weights are missing; the message has the commands that get them.
        """
        from milr.rewards.compbench import weights

        self._unidet = unidet
        self._device = device
        self.weights = (weights.BLIP, weights.CLIP, *(() if unidet else (weights.OWLV2, weights.LABELS)))
        """All weights that it reads."""
        for part in self.weights:
            part.find()
        self.blip_origin = weights.describe_blip(weights.BLIP.folder)
        """Origin of the weights of BLIP-VQA."""
        self.substitute = None if unidet else weights.SUBSTITUTE
        """The substitute for UniDet; None for UniDet itself."""

    @cached_property
    def blip(self) -> BlipVqa:
        """Return BLIP-VQA."""
        from milr.rewards.compbench.blip_vqa import BlipVqa
        from milr.rewards.compbench.weights import BLIP

        return BlipVqa.from_folder(BLIP.find(), self._device)

    @cached_property
    def clip(self) -> ClipScore:
        """Return CLIPScore."""
        from milr.rewards.compbench.clip_score import ClipScore
        from milr.rewards.compbench.weights import CLIP

        return ClipScore.from_folder(CLIP.find(), self._device)

    @cached_property
    def spatial(self) -> SpatialSource:
        """Return UniDet's results, or OWLv2."""
        from milr.rewards.compbench import sources, weights
        from milr.rewards.compbench.owlv2 import Owlv2Detector
        from milr.rewards.compbench.unidet import LABEL_FILE, read_labels

        if self._unidet is not None:
            return sources.read_unidet(self._unidet)
        labels = read_labels(weights.LABELS.find() / LABEL_FILE)
        detector = Owlv2Detector.from_folder(weights.OWLV2.find(), labels, self._device)
        return sources.DetectorSource(detector)
