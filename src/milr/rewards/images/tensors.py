"""Images in the form that networks take."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from milr.rewards.images.convert import check_size

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in [0, 1]."""


def to_tensor(
    image: Image.Image,
    mean: tuple[float, float, float] = CLIP_MEAN,
    deviation: tuple[float, float, float] = CLIP_DEVIATION,
) -> torch.Tensor:
    """Convert an RGB image of its final size to (1, 3, H, W) float32, normalised by mean and deviation."""
    center, scale = np.asarray(mean, dtype=np.float32), np.asarray(deviation, dtype=np.float32)
    values = (np.asarray(image, dtype=np.float32) / 255 - center) / scale  # (H, W, 3)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


def read_rgb(image: Image.Image) -> Image.Image:
    """Read an image as the official scripts do: RGB, transparency dropped, not rotated.

    Raises:
        ValueError: It has no pixels, or an unknown mode.
    """
    check_size(image)
    return image.convert("RGB")
