"""Conversion of images of any mode and size for rewards and VLM judges."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image, ImageOps

from milr.png import encode_png

MOST_SIDE = 4096
"""Longest side in pixels of an image for a VLM judge, so that no request has a hundred megabytes."""


def check_size(image: Image.Image) -> None:
    """Refuse an image without pixels.

    Raises:
        ValueError: It has none.
    """
    if not image.width or not image.height:
        raise ValueError(f"an image of {image.width} x {image.height} pixels shows nothing")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB, rotated by its EXIF orientation; transparency becomes white.

    Raises:
        ValueError: The image has no pixels, or a mode that cannot be read.
    """
    check_size(image)
    turned = ImageOps.exif_transpose(image)
    if turned.has_transparency_data:
        over = turned.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    if turned.mode in ("I", "F") or turned.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(turned, dtype=np.float64))
        values = values / 257 if turned.mode != "F" and values.max() > 255 else values
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    return turned.convert("RGB")


def to_png(image: Image.Image) -> bytes:
    """Return the image as an RGB PNG, shrunk if a side is longer than `MOST_SIDE` pixels.

    Raises:
        ValueError: As `to_rgb`.
    """
    rgb = to_rgb(image)
    if max(rgb.size) > MOST_SIDE:
        scale = MOST_SIDE / max(rgb.size)
        smaller = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
        rgb = rgb.resize(smaller, Image.Resampling.LANCZOS)
    return encode_png(rgb)


def image_hash(image: Image.Image) -> str:
    """Return the SHA-256 of size and RGB pixels: equal images have equal hashes, from any file."""
    rgb = to_rgb(image)
    return hashlib.sha256(f"{rgb.width}x{rgb.height}|".encode() + rgb.tobytes()).hexdigest()
