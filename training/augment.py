"""Changes of a detector's images that leave every name and colour as it is."""

from __future__ import annotations

import numpy as np
from PIL import Image

from training.layouts import EMPTY, SIDE

_REACH = 4  # pixels of the farthest shift
_BLOT = 8  # pixels of a side: too small to hide an object
_SMALL = (62, 125)  # sides between which an image is made smaller, and then large again


def augment(
    images: np.ndarray, labels: np.ndarray, random: np.random.Generator, strength: dict[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Shift, blur and light images, lay noise and blots on them, and replace some by one colour or by noise.

    Args:
        images: uint8 (B, 160, 160, 3).
        labels: (B, MOST, 6).
        random: The source of chance.
        strength: Chances of ``shift``, ``resize``, ``blur``, ``noise``, ``blot`` and ``empty``, an image that shows
            nothing; the largest changes by ``gain`` and ``light``.

    Returns:
        Images float32 (B, 160, 160, 3) in [0, 255], and labels whose boxes moved along.
    """
    out, moved = images.astype(np.float32), labels.copy()
    gain, light = strength["gain"], strength["light"]
    for image, rows in zip(out, moved, strict=True):
        if random.random() < strength["empty"]:
            image[:] = _nothing(random)
            rows[:] = EMPTY
            continue
        _change(image, rows, random, strength)
        image *= random.uniform(1 - gain, 1 + gain, 3) * random.uniform(1 - gain, 1 + gain)
        image += random.uniform(-light, light)
    noisy = np.flatnonzero(random.random(len(out)) < strength["noise"])
    deviation = random.uniform(1, 8, (len(noisy), 1, 1, 1)).astype(np.float32)
    out[noisy] += random.standard_normal((len(noisy), SIDE, SIDE, 3), dtype=np.float32) * deviation
    return out.clip(0, 255), moved


def _nothing(random: np.random.Generator) -> np.ndarray:
    """Return pixels of one colour, often an extreme one, or of noise: an array that a (160, 160, 3) image can take."""
    kind = random.random()
    if kind < 0.35:
        return random.uniform(0, 255, 3)
    if kind < 0.7:  # black, white, red and the like
        return 255.0 * random.integers(0, 2, 3)
    return random.uniform(0, 255, (SIDE, SIDE, 3))


def _change(image: np.ndarray, rows: np.ndarray, random: np.random.Generator, strength: dict[str, float]) -> None:
    """Shift, blot and blur one image and move its labels (MOST, 6) along, in place."""
    if random.random() < strength["shift"]:
        right, down = (int(value) for value in random.integers(-_REACH, _REACH + 1, 2))
        padded = np.pad(image, ((_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode="edge")
        image[:] = padded[_REACH - down : _REACH - down + SIDE, _REACH - right : _REACH - right + SIDE]
        real = rows[:, 0] > EMPTY
        rows[real, 1:5] = np.clip(rows[real, 1:5] + (right, down, right, down), 0, SIDE)
    if random.random() < strength["blot"]:
        top, left = (int(value) for value in random.integers(0, SIDE - _BLOT, 2))
        image[top : top + _BLOT, left : left + _BLOT] = random.uniform(0, 255, 3)
    if random.random() < strength["resize"]:
        small = [int(value) for value in random.integers(*_SMALL, 2)]
        soft = Image.fromarray(image.astype(np.uint8)).resize(small, Image.Resampling.BILINEAR)
        image[:] = np.asarray(soft.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    elif random.random() < strength["blur"]:
        around = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        cross = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
        image[:] = 0.5 * image + 0.125 * cross
