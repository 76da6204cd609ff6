"""Self-tests of `geneval` before it scores: its arithmetic on this machine, then its weights on known images."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from milr.rewards.geneval.detector import (
    GenEvalDetector,
    Instance,
    make_pattern,
    need_scipy,
    prepare,
    read_output,
    resize,
)
from milr.tasks import OBJECT_NAMES
from milr.weights import Finding

if TYPE_CHECKING:
    from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig

    from milr.rewards.geneval.colors import ColorClassifier

_PHOTOGRAPHS = Path(__file__).parents[2] / "assets" / "geneval"
_SHOWN = {"astronaut.jpg": "person", "cat.jpg": "cat"}
_SURE = 0.5
_TOLERANCE = 0.01
# values of this package's own functions; tests/make_opencv_arrays.py and tests/test_geneval_convert.py compare them
# with OpenCV and mmdet's network
_RESIZED = "ee805fbe87f95dc1"
_CLASS_LOGITS = (
    *(-0.5576, -0.3937, 1.4101, 1.9638, 0.3741, -1.6002, -1.3537, 0.8059),
    *(0.4245, -0.4547, -2.5365, -1.6066, -0.3331, -0.9562, 0.2662, -2.8559),
)
_MASK_LOGITS = (
    *(-1.7888, -0.7886, -0.8274, -0.8375, -1.1125, -0.4124, -0.529, -0.768),
    *(0.0554, 0.0319, -0.9278, -0.9534, -1.2003, -0.4482, -0.5444, -0.9378),
)
_SWATCHES = {"red": (214, 28, 28), "green": (24, 150, 44), "blue": (28, 60, 210)}


def check_arithmetic(device: str) -> Iterator[Finding]:
    """Check everything that needs no weights: the resize, a small network on this device, decoding its output."""
    digest = sha256(resize(np.asarray(make_pattern(61, 47)), 80, 104).tobytes()).hexdigest()[:16]
    yield _compare("resize", digest == _RESIZED, f"{digest}, {_RESIZED} expected")
    class_logits, mask_logits = run_formula(device)
    seen = [*_sample(class_logits), *_sample(mask_logits)]
    expected = (*_CLASS_LOGITS, *_MASK_LOGITS)
    worst = max(abs(a - b) for a, b in zip(seen, expected, strict=True))
    said = f"a network made by a formula is {worst:.1e} off its stored numbers on {device}, {_TOLERANCE} at most"
    yield _compare("network", worst <= _TOLERANCE, said)
    boxes = [(one.name, round(one.score, 4), one.box) for one in _read_squares()]
    wanted = [("person", 0.9997, (0.0, 0.0, 16.0, 32.0)), ("cat", 0.9997, (16.0, 16.0, 32.0, 32.0))]
    yield _compare("reading of masks", boxes == wanted, f"{boxes}")


def read_photographs() -> Iterator[tuple[str, str, Image.Image]]:
    """Yield the photographs in the package: file, GenEval's name of the object, RGB image."""
    for file, name in _SHOWN.items():
        with Image.open(_PHOTOGRAPHS / file) as photograph:
            yield file, name, photograph.convert("RGB")


def check_detector(detector: GenEvalDetector) -> Iterator[Finding]:
    """Check the detector's weights: a photograph of a woman and one of a cat must be recognised."""
    for file, name, photograph in read_photographs():
        found = detector.detect(photograph)
        best = max(found, key=lambda seen: seen.score, default=None)
        said = "nothing" if best is None else f"{best.name} {best.score:.3f}"
        fine = best is not None and best.name == name and best.score > _SURE
        yield _compare(f"detector on {file}", fine, f"sees {said}, a {name} above {_SURE} is expected")


def check_colors(colors: ColorClassifier) -> Iterator[Finding]:
    """Check the colour classifier's weights: plain squares must get their colours."""
    mask = np.ones((64, 64), dtype=np.bool_)
    square = Instance("car", 1.0, (0.0, 0.0, 64.0, 64.0), mask)
    for color, rgb in _SWATCHES.items():
        (said,) = colors.classify(Image.new("RGB", (64, 64), rgb), [square])
        yield _compare(f"colour of a {color} square", said == color, f"CLIP says {said}")


def run_formula(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return class and mask logits of a tiny Mask2Former; its weights and its input come from formulas."""
    need_scipy()
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

    network: Any = Mask2FormerForUniversalSegmentation(tiny_config())
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            weight.copy_(_formula(name, tuple(weight.shape)))
    pattern = prepare(make_pattern(96, 64)).pixels[..., 128:192, 128:224]  # (1, 3, 64, 96)
    return GenEvalDetector(network, device).run(pattern)


def tiny_config() -> Mask2FormerConfig:
    """Return the config of a Mask2Former of 139,359 weights with every part of the large one."""
    from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig
    from transformers.models.swin.configuration_swin import SwinConfig

    backbone: dict[str, Any] = {
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    settings: dict[str, Any] = {
        "backbone_config": SwinConfig(**backbone),
        "feature_size": 32,
        "mask_feature_size": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 32,
        "dim_feedforward": 32,
        "encoder_layers": 1,
        "decoder_layers": 4,
        "num_attention_heads": 2,
        "num_queries": 10,
        "num_labels": len(OBJECT_NAMES),
    }
    return Mask2FormerConfig(**settings)


def _formula(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a wave over a weight's positions, with a phase from its name. Gains of norms are around 1."""
    size = int(np.prod(shape))
    wave = np.sin(zlib.crc32(name.encode()) % 6283 / 1000 + 0.7310585 * np.arange(size))
    if len(shape) > 1:
        wave *= 1.5 / np.sqrt(size / shape[0])
    else:
        wave = 1 + wave / 10 if name.endswith("weight") else wave / 10
    return torch.from_numpy(wave.astype(np.float32)).reshape(shape)


def _sample(logits: torch.Tensor) -> list[float]:
    """Return sixteen numbers, spread over a tensor."""
    flat = logits.float().cpu().flatten()
    return [float(value) for value in flat[:: len(flat) // 16][:16]]


def _read_squares() -> list[Instance]:
    """Decode two hand-made masks in an image of 32 x 32 pixels: the left half, the lower right quarter."""
    mask_logits = torch.full((2, 200, 200), -8.0)
    mask_logits[0, :, :100] = 8.0
    mask_logits[1, 100:, 100:] = 8.0
    class_logits = torch.full((2, len(OBJECT_NAMES) + 1), -20.0)
    class_logits[0, OBJECT_NAMES.index("person")] = 20.0
    class_logits[1, OBJECT_NAMES.index("cat")] = 20.0
    return read_output(class_logits, mask_logits, prepare(Image.new("RGB", (32, 32))))


def _compare(subject: str, fine: bool, said: str) -> Finding:
    return Finding(f"self-test: {subject}", fine, said)
