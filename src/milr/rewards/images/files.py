"""Image files and folders of them: hidden files, broken files, numbers with and without zeros."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image, UnidentifiedImageError

from milr.errors import MilrError, UsageError
from milr.untrusted import one_line, read_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are decoded, by Pillow's names. Others start programs (EPS) or have little-tested readers."""
MOST_PIXELS = 2**26
"""Most pixels of a decoded image: 8192 x 8192; half of it for WebP, whose reader holds an image three times."""
MOST_BYTES = 2**28
"""Most bytes of an image file: that of such an image, uncompressed."""
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


class UnreadableImage(MilrError):
    """The error for a file that is not an image; the message gives the reason, without the file's folder."""


def list_visible(folder: Path) -> list[Path]:
    """Return the files of a folder, sorted by name with numbers by value, without hidden files.

    Raises:
        UsageError: It is not a folder, or cannot be read.
    """
    try:
        found = [path for path in folder.iterdir() if not is_hidden(path)]
    except OSError as error:
        raise UsageError(f"cannot read the folder {str(folder)!r} ({error.strerror}): give one with images") from None
    return sorted(found, key=lambda path: _order(path.name))


def _order(name: str) -> list[tuple[bool, int, str]]:
    words = re.findall(r"[0-9]+|[^0-9]", name)
    return [(not word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words]


def is_hidden(path: Path) -> bool:
    """Return true if file managers hide a file: a leading dot, or a system's own file."""
    return path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES


def list_images(path: Path) -> list[Path]:
    """Return the images of a path: the file itself, or a folder's images by their endings (`SUFFIXES`).

    A link that leads nowhere and a pipe are among them: `read_image` refuses them, so that they are counted.

    Raises:
        UsageError: There is nothing, or no image in the folder.
    """
    try:
        there, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError):  # longer than a name may be; a NUL
        there = is_folder = False
    if not there:
        raise UsageError(f"no image {str(path)!r}: give files that exist")
    if not is_folder:
        return [path]
    found = [one for one in list_visible(path) if one.suffix.lower() in SUFFIXES and not one.is_dir()]
    if not found and (path / "run.json").is_file():
        raise UsageError(f"{str(path)!r} is a run's folder: type milr evaluate {path} --evaluator NAME")
    if not found:
        raise UsageError(f"no images in {str(path)!r}: give files, or a folder with {', '.join(SUFFIXES)} in it")
    return found


def read_image(path: Path) -> Image.Image:
    """Return the image in a file, with all its pixels decoded; its attribute `filename` is the path.

    Raises:
        UnreadableImage: The file is missing, in none of `FORMATS`, cut off, or far too large.
    """
    try:
        content = read_file(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise UnreadableImage(f"the image cannot be read: {path.name}: {said}") from error
    image = decode_image(content)
    cast("Any", image).filename = str(path)  # as Pillow does: results from elsewhere name their images by file
    return image


def decode_image(content: bytes, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Return the image in a file's bytes, with all its pixels decoded.

    Args:
        content: Bytes from any source: only the readers of `formats` are used, and an image of more than `MOST_PIXELS`
            is not decoded.
        formats: Allowed formats.

    Raises:
        UnreadableImage: It is in none of these formats, cut off, or far too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(io.BytesIO(content), formats=list(formats)) as image:
                most = MOST_PIXELS // 2 if image.format == "WEBP" else MOST_PIXELS
                if image.width * image.height > most:
                    raise ValueError(f"it has {image.width} x {image.height} pixels, more than {most:,}")
                image.load()
                return image
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"the image cannot be read: it is no {', '.join(formats)}") from error
    except Exception as error:  # Pillow's readers raise errors of many kinds on broken files
        raise UnreadableImage(f"the image cannot be read: {one_line(str(error) or type(error).__name__)}") from error
