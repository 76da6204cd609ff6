"""Icon detectors: small convolutional networks that find the 80 objects in an image, with boxes and colours.

They are trained on icons on the icon world's grounds, 160 x 160 pixels, and on nothing else. Each cell of the 20 x 20
map predicts whether an object's centre is in it, its class, its box and its colour. `training/detector.py` makes the
weights. The shipped ones are in `milr/assets/icons-detector` and `milr/assets/icons-judge`: two architectures, so that
an image that fools one does not necessarily fool the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import nn

from milr.errors import UsageError
from milr.rewards.geneval.rules import Detection
from milr.rewards.images.convert import image_hash, to_rgb
from milr.rewards.lru_cache import LruCache
from milr.tasks import COLORS, OBJECT_NAMES
from milr.weights import identify_weights

CELL = 8
"""Pixels per side of a cell of the map."""
BOX_UNIT = 48.0
"""Sizes are predicted as the logarithm of pixels divided by this."""
_HEADS = (1, len(OBJECT_NAMES), 4, len(COLORS) + 1)
_FAINT = -6.0  # centres with lower logits are skipped
_NAMES_A_PLACE = 3
_CACHED = 1024  # images in the cache; more than a benchmark has in progress
_ASSETS = Path(__file__).parents[2] / "assets"
SHIPPED = ("icons-detector", "icons-judge")
"""Detectors that come with the package."""


class DetectorConfig(BaseModel):
    """The contents of `config.json`: the network's shape and the calibration of its scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = 160
    """Pixels of a side of the images that it was trained on."""
    architecture: Literal["pyramid", "patches"] = "pyramid"
    """Trunk of the network: strided convolutions, or patches that are then mixed."""
    widths: tuple[int, ...] = (24, 64, 128)
    """Channels: of a pyramid at strides 2, 4 and 8; of patches one width."""
    blocks: int = 5
    """Blocks at stride 8: residual convolutions of a pyramid, mixing blocks of patches."""
    score_slope: float = 1.0
    score_offset: float = 0.0
    """score = sigmoid(slope * logit(objectness * class probability) + offset); at 0.3 correct and wrong are equally
    likely."""
    least_score: float = 0.05
    """Least score of a returned detection."""
    most_overlap: float = 0.4
    """Largest IoU of two detections; above it the weaker one is dropped, in any class, because icons do not overlap."""


class _Conv(nn.Module):
    """3 x 3 convolution, batch norm, optional residual, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = self.norm(self.conv(x))
        return F.relu(x + y if self.residual else y)


class _Mix(nn.Module):
    """A depthwise convolution over places with a residual, then one over channels (ConvMixer, arXiv 2201.09792)."""

    def __init__(self, width: int, reach: int = 5) -> None:
        super().__init__()
        self.places = nn.Conv2d(width, width, reach, 1, reach // 2, groups=width, bias=False)
        self.channels = nn.Conv2d(width, width, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, width, h, w) to the same shape."""
        x = x + self.norms[0](F.relu(self.places(x)))
        return x + self.norms[1](F.relu(self.channels(x)))


def _make_pyramid(config: DetectorConfig) -> tuple[list[nn.Module], int]:
    fine, middle, wide = config.widths
    return [
        nn.PixelUnshuffle(2),
        _Conv(12, fine),
        _Conv(fine, middle, stride=2),
        _Conv(middle, middle, residual=True),
        _Conv(middle, wide, stride=2),
        *(_Conv(wide, wide, residual=True) for _ in range(config.blocks)),
    ], wide


def _make_patches(config: DetectorConfig) -> tuple[list[nn.Module], int]:
    (width,) = config.widths
    # patches overlap by half, because icons may be shifted against the cells
    stem = [nn.Conv2d(3, width, 2 * CELL, CELL, CELL // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return [*stem, *(_Mix(width) for _ in range(config.blocks))], width


_ARCHITECTURES = {"pyramid": _make_pyramid, "patches": _make_patches}
"""Architecture -> the modules of its trunk and its number of output channels."""


class DetectorNetwork(nn.Module):
    """The network: pixels to the raw map of the four heads."""

    def __init__(self, config: DetectorConfig) -> None:
        """Initialise random weights of the config's shape."""
        super().__init__()
        modules, width = _ARCHITECTURES[config.architecture](config)
        self.trunk = nn.Sequential(*modules)
        self.heads = nn.Conv2d(width, sum(_HEADS), 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return one raw map per head.

        Args:
            pixels: (B, 3, H, W) in [-1, 1].

        Returns:
            Logits of an object's centre (B, h, w), with h = H / 8; class logits (B, h, w, 80); boxes (B, h, w, 4):
            the centre's offset from the cell's centre in cells, x and y, then the logarithm of width and height over
            `BOX_UNIT` pixels; colour logits (B, h, w, 11), the last one for "no single colour".
        """
        maps = self.heads(self.trunk(pixels)).float().permute(0, 2, 3, 1)
        centre, names, boxes, colors = maps.split(_HEADS, dim=-1)
        return centre[..., 0], names, boxes, colors


class IconDetector:
    """A detector of icons in images. It processes each image alone, so no result depends on another image."""

    def __init__(self, network: DetectorNetwork, config: DetectorConfig, version: str = "unsaved") -> None:
        """Take a trained network; ``version`` identifies its weights in a reward's name."""
        self.network = network.eval().requires_grad_(False)
        self.config = config
        self.version = version
        self._cache: LruCache[str, dict[str, list[Detection]]] = LruCache(_CACHED)  # by image

    @classmethod
    def from_folder(cls, folder: str | Path = "icons-detector") -> IconDetector:
        """Read `config.json` and `model.safetensors`.

        Args:
            folder: The folder; "icons-detector" and "icons-judge" are shipped with the package.

        Raises:
            UsageError: There is nothing, or not a detector of this kind.
        """
        folder = _ASSETS / folder if folder in SHIPPED else Path(folder)
        weights, settings = folder / "model.safetensors", folder / "config.json"
        for file in (weights, settings):
            if not file.is_file():
                raise UsageError(f"no icon detector in {str(folder)!r}: {file.name} is missing")
        try:
            config = DetectorConfig.model_validate_json(settings.read_text())
            network = DetectorNetwork(config)
            network.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
        except (ValidationError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{str(folder)!r} holds no icon detector that this version reads: {reason}") from error
        return cls(network, config, identify_weights(folder))

    def save(self, folder: Path) -> None:
        """Save both files: convolutions in bf16, the rest in float32."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v for k, v in self.network.state_dict().items() if not k.endswith("num_batches_tracked")}
        kept = {k: (v.bfloat16() if v.ndim > 1 else v.float()).contiguous() for k, v in state.items()}
        counters = {k: v for k, v in self.network.state_dict().items() if k not in state}
        save_file({**kept, **counters}, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.config.model_dump(), indent=2) + "\n")

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image]) -> list[dict[str, list[Detection]]]:
        """Detect the objects of each image: every class with its detections, the most confident first.

        Args:
            images: Of any mode and size; resized to the size of training without keeping their shape.

        Returns:
            Class name -> [(x0, y0, x1, y1, score, colour), ...] with boxes in the given image's pixels.
        """
        rgbs = [to_rgb(image) for image in images]
        keys = [image_hash(rgb) for rgb in rgbs]
        found = self._cache.get_all(keys, lambda places: [self._detect(rgbs[place]) for place in places])
        return [{name: list(seen) for name, seen in one.items()} for one in found]

    def _detect(self, rgb: Image.Image) -> dict[str, list[Detection]]:
        side = self.config.image_size
        small = rgb if rgb.size == (side, side) else rgb.resize((side, side), Image.Resampling.BICUBIC)
        pixels = torch.tensor(np.array(small)).permute(2, 0, 1)[None] / 127.5 - 1.0
        device = self.network.heads.weight.device
        maps = [head[0].cpu() for head in self.network(pixels.to(device))]
        seen: dict[str, list[Detection]] = {}
        scale = (rgb.width / side, rgb.height / side)
        for box, names, color in self._peaks(*maps):
            x0, y0, x1, y1 = box
            placed = (x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1])
            for name, raw in names:
                score = self._score(raw)
                if score >= self.config.least_score:
                    seen.setdefault(name, []).append((*placed, score, color))
        return {name: sorted(found, key=lambda d: (-d[4], d[:4])) for name, found in seen.items()}

    def _peaks(
        self, centre: torch.Tensor, names: torch.Tensor, boxes: torch.Tensor, colors: torch.Tensor
    ) -> list[tuple[tuple[float, float, float, float], list[tuple[str, float]], str | None]]:
        """Return each peak's box, colour, and three likeliest names with the logit of objectness times probability."""
        highest = F.max_pool2d(centre[None, None], 3, 1, 1)[0, 0]
        cells = [(int(r), int(c)) for r, c in torch.nonzero((centre == highest) & (centre > _FAINT))]
        cells.sort(key=lambda cell: (-float(centre[cell]), cell))
        found: list[tuple[tuple[float, float, float, float], list[tuple[str, float]], str | None]] = []
        for cell in cells:
            box = _to_box(*cell, [float(v) for v in boxes[cell]], self.config.image_size)
            if any(_iou(box, other) > self.config.most_overlap for other, _, _ in found):
                continue
            log_object = float(F.logsigmoid(centre[cell]))
            likely = names[cell].log_softmax(-1).topk(_NAMES_A_PLACE)
            ranked = [
                (OBJECT_NAMES[int(k)], _logit_of_log(log_object + float(p)))
                for k, p in zip(likely.indices, likely.values, strict=True)
            ]
            color = int(colors[cell].argmax())
            found.append((box, ranked, COLORS[color] if color < len(COLORS) else None))
        return found

    def _score(self, raw: float) -> float:
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, self.config.score_slope * raw + self.config.score_offset))))


def _to_box(row: int, column: int, raw: Sequence[float], side: int) -> tuple[float, float, float, float]:
    """Convert a cell's raw box to (x0, y0, x1, y1) in pixels of the small image, cropped at its edges."""
    x, y = (column + 0.5 + raw[0]) * CELL, (row + 0.5 + raw[1]) * CELL
    width, height = (BOX_UNIT * math.exp(max(-4.0, min(2.0, value))) for value in raw[2:])
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    x0, y0, x1, y1 = (round(max(0.0, min(float(side), value)), 2) for value in corners)
    return x0, y0, x1, y1


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def _logit_of_log(log_probability: float) -> float:
    """Compute log(p / (1 - p)) from log p, exact for p near 1."""
    log_probability = min(log_probability, -1e-9)
    return log_probability - math.log(-math.expm1(log_probability))
