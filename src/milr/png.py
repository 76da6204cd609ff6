"""Images as PNG files in memory."""

from __future__ import annotations

from io import BytesIO

from PIL import Image


def encode_png(image: Image.Image, level: int = 6) -> bytes:
    """Return an image as PNG without texts.

    Args:
        image: In a mode that PNG has.
        level: 0 to 9, of zlib; higher ones are smaller and slower.
    """
    out = BytesIO()
    image.save(out, "PNG", compress_level=level)
    return out.getvalue()


def decode_png(png: bytes) -> Image.Image:
    """Return the image of a PNG that `encode_png` made."""
    return Image.open(BytesIO(png)).copy()  # the copy has no file
