"""GenEval's detector as mmdet 2.x runs it, on transformers' Mask2Former.

Preprocessing, the network, and the decoding of its output are three steps that tests compare with the originals.
Source: mmdet 2.28.2 (`configs/mask2former`, `maskformer_fusion_head`), mmcv 1.7 (`imrescale`), OpenCV's bilinear
resize.

Shapes: h, w the image's pixels; H, W those of the network's input; Q queries; 80 classes and "no object".
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from milr.decode.tensors import to_integers, to_numbers
from milr.errors import UsageError
from milr.rewards import pretrained
from milr.rewards.geneval.weights import UNUSED
from milr.rewards.images.convert import check_size
from milr.tasks import OBJECT_NAMES

Pixels: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Mask: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

LONG_SIDE, SHORT_SIDE = 1333, 800
"""The image is resized to fit into these sides."""
_STRIDE = 32
_PADDING = 128
_MEAN = (123.675, 116.28, 103.53)
_DEVIATION = (58.395, 57.12, 57.375)
_MOST = 100
"""Most pairs of query and class that become detections."""
LEAST_SCORE = 0.05
"""Least score of a returned detection: GenEval uses nothing below 0.3."""
_UNIT = 2048
"""The number one in the resize's fixed-point arithmetic."""


@dataclass(frozen=True)
class Instance:
    """One detection."""

    name: str
    """One of GenEval's 80 names."""
    score: float
    """Class probability times mask score, in [0, 1]."""
    box: tuple[float, float, float, float]
    """(x0, y0, x1, y1), whole numbers in the image's pixels, y down; x1 and y1 are one past the last pixel."""
    mask: Mask
    """(h, w), true on the object."""


@dataclass(frozen=True)
class Prepared:
    """An image in the form that the network takes."""

    pixels: torch.Tensor
    """(1, 3, H, W) float32, normalised; H and W are multiples of 32."""
    resized: tuple[int, int]
    """(height, width) of the image; the rest, right and below, is padding."""
    original: tuple[int, int]
    """(h, w)."""


def decode(image: Image.Image) -> Image.Image:
    """Decode a file as OpenCV does: RGB, rotated by its EXIF orientation, transparency dropped.

    Raises:
        ValueError: It has no pixels.
        OSError: It cannot be read.
    """
    check_size(image)
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        # sixteen bits of grey: keep the upper eight
        values = np.asarray(turned).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    return turned.convert("RGB")


def prepare(image: Image.Image) -> Prepared:
    """Resize to fit 1333 x 800, pad to multiples of 32 with grey 128, then normalise.

    Padding precedes normalisation, so the network's input is not zero there. There is no pixel mask.

    Args:
        image: RGB.
    """
    pixels = np.asarray(image, dtype=np.uint8)  # (h, w, 3)
    height, width = pixels.shape[:2]
    scale = min(LONG_SIDE / max(height, width), SHORT_SIDE / min(height, width))
    resized = max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
    small = resize(pixels, *resized)
    below, right = (-side % _STRIDE for side in resized)
    padded = np.pad(small, ((0, below), (0, right), (0, 0)), constant_values=_PADDING)  # (H, W, 3)
    values = (padded.astype(np.float32) - np.array(_MEAN, np.float32)) * (1 / np.array(_DEVIATION)).astype(np.float32)
    return Prepared(torch.from_numpy(values.transpose(2, 0, 1).copy())[None], resized, (height, width))  # (1, 3, H, W)


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize bytes as OpenCV's INTER_LINEAR does: bilinear, in fixed point, without antialiasing.

    Weights are multiples of 1/2048. Rows are summed first, four bits are dropped, then the columns' products lose
    sixteen, and the last two bits round.

    Args:
        pixels: (h, w, channels) bytes.
        height: Height of the result.
        width: Width of the result.

    Returns:
        (height, width, channels).
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    left, right, columns = _places(pixels.shape[1], width, stop_at_edges=True)
    top, bottom, rows = _places(pixels.shape[0], height, stop_at_edges=False)
    summed = pixels[:, left].astype(np.int32) * columns[0][:, None]  # (h, width, channels)
    summed += pixels[:, right].astype(np.int32) * columns[1][:, None]
    summed >>= 4
    upper = summed[top] * rows[0][:, None, None] >> 16
    lower = summed[bottom] * rows[1][:, None, None] >> 16
    return ((upper + lower + 2) >> 2).clip(0, 255).astype(np.uint8)


_Integers: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


def _places(old: int, new: int, stop_at_edges: bool) -> tuple[_Integers, _Integers, tuple[_Integers, _Integers]]:
    """Return for each new position the two old ones around it, and their weights, which add up to 2048.

    For a column beyond the edge OpenCV gives the whole weight to the edge; for a row it repeats the edge and keeps both
    weights, which rounds differently.
    """
    exact = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(exact).astype(np.int32)
    share = exact - first.astype(np.float32)
    if stop_at_edges:
        share = np.where((first < 0) | (first >= old - 1), np.float32(0), share)
    weights = [np.rint(part * np.float32(_UNIT)).astype(np.int32) for part in (np.float32(1) - share, share)]
    return first.clip(0, old - 1), (first + 1).clip(0, old - 1), (weights[0], weights[1])


def read_output(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, prepared: Prepared, least_score: float = LEAST_SCORE
) -> list[Instance]:
    """Decode the network's raw output to detections, the most probable class first.

    The 100 most probable pairs of query and class are detections; a query may have several classes. The mask's logits
    are resized to the input's size, cropped to the image, and resized to its own size, bilinear both times. The mask is
    where they are above 0, its score is the mean of their sigmoids there, and the box is the mask's. There is no
    threshold and no overlap removal.

    Args:
        class_logits: (Q, 81), "no object" last.
        mask_logits: (Q, H / 4, W / 4).
        prepared: The network's input.
        least_score: Detections below it are left out, and their masks are not resized.
    """
    names = len(OBJECT_NAMES)
    probabilities = class_logits.softmax(-1)[:, :names].flatten()  # (Q 80,)
    likely = probabilities.topk(min(_MOST, len(probabilities)))
    found: list[Instance] = []
    masks: dict[int, tuple[Mask, float, tuple[float, float, float, float]]] = {}
    for place, probability in zip(to_integers(likely.indices), to_numbers(likely.values), strict=True):
        if probability < least_score:
            continue
        query, name = divmod(place, names)
        if query not in masks:
            masks[query] = _read_mask(mask_logits[query], prepared)
        mask, mask_score, box = masks[query]
        if probability * mask_score >= least_score:
            found.append(Instance(OBJECT_NAMES[name], probability * mask_score, box, mask))
    return found


def _read_mask(logits: torch.Tensor, prepared: Prepared) -> tuple[Mask, float, tuple[float, float, float, float]]:
    """Return the mask at the image's size, its score and its box, from logits (H / 4, W / 4)."""
    height, width = prepared.resized
    large = F.interpolate(logits[None, None], prepared.pixels.shape[-2:], mode="bilinear", align_corners=False)
    logits = F.interpolate(large[..., :height, :width], prepared.original, mode="bilinear", align_corners=False)[0, 0]
    inside = logits > 0
    score = float((logits.sigmoid() * inside).sum() / (inside.sum() + 1e-6))
    mask: Mask = inside.cpu().numpy()
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return mask, score, (0.0, 0.0, 0.0, 0.0)
    return mask, score, (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


class GenEvalDetector:
    """A detector of GenEval's 80 classes, one image at a time, in float32."""

    def __init__(self, network: Any, device: str = "cpu") -> None:
        """Take a `Mask2FormerForUniversalSegmentation`, for use only."""
        self.network = network.float().eval().requires_grad_(False).to(device)
        self.device = device

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu") -> GenEvalDetector:
        """Read a transformers folder.

        Raises:
            UsageError: It has no Mask2Former of 80 classes, or not all of its weights.
        """
        return cls(load_network(folder), device)

    @torch.inference_mode()
    def detect(self, image: Image.Image, least_score: float = LEAST_SCORE) -> list[Instance]:
        """Detect the objects of an RGB image, the most probable class first, in its own pixels."""
        prepared = prepare(image)
        class_logits, mask_logits = self.run(prepared.pixels)
        return read_output(class_logits, mask_logits, prepared, least_score)

    @torch.inference_mode()
    def run(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the network alone: (1, 3, H, W) -> class logits (Q, 81) and mask logits (Q, H / 4, W / 4)."""
        output = self.network(pixel_values=pixels.to(self.device))
        return output.class_queries_logits[0], output.masks_queries_logits[0]


def load_network(folder: Path) -> Any:
    """Load the Mask2Former of a transformers folder.

    Raises:
        UsageError: It has no Mask2Former of 80 classes, or not all of its weights.
    """
    need_scipy()
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

    way_out = "get GenEval's detector as milr doctor geneval says"
    network = pretrained.load_network(Mask2FormerForUniversalSegmentation, folder, way_out, unused=UNUSED)
    if network.config.num_labels != len(OBJECT_NAMES):
        raise UsageError(
            f"{str(folder)!r} knows {network.config.num_labels} classes, but GenEval has {len(OBJECT_NAMES)}"
        )
    return network


def need_scipy() -> None:
    """Raise an error if scipy, which transformers' Mask2Former needs, is missing."""
    if find_spec("scipy") is None:
        raise UsageError('GenEval\'s detector needs scipy: type pip install "milr[geneval]"')


def make_pattern(width: int, height: int) -> Image.Image:
    """Make an image by a formula: waves of several lengths in each channel, the same on every machine."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    channels = [(x * (3 + k) + y * (7 - 2 * k) + (x * y) // (11 + k)) % 256 for k in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
