"""The text chunks of the PNG files that milr writes: prompt, seed, model, method, reasoning text, score."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from milr._version import __version__
from milr.errors import UsageError
from milr.rewards.images.files import MOST_BYTES, UnreadableImage, decode_image
from milr.runs.schema import Manifest
from milr.types import Reasoning, Score, Task, Unscored
from milr.untrusted import read_file

KEYS = ("prompt", "reasoning", "score", "reward", "step", "seed", "model", "method", "settings", "software")
"""The chunks' keys, in the order in which they are shown."""
_LONGEST = 1 << 16  # characters of a text that is kept
_HEADER = 33  # bytes of a PNG's signature and of its first chunk, IHDR


def describe_run(manifest: Manifest, image: int) -> dict[str, str]:
    """Return the texts that all images of a prompt's image share.

    Args:
        manifest: The run's.
        image: Number of the image among the prompt's images; its seed is the run's plus this number.
    """
    settings = manifest.settings
    # Limits of the whole run decide how much is drawn, not how an image is.
    own = {n: value for n, value in settings.flat.items() if value is not None and not n.startswith("total_")}
    return {
        "seed": str(settings.run.seed + image),
        "model": manifest.model,
        "method": settings.method,
        "settings": json.dumps(own),
        "software": f"milr {__version__}",
    }


def describe_image(task: Task, reasoning: Reasoning, score: Score | Unscored, step: int) -> dict[str, str]:
    """Return the texts of one image."""
    said = f"{score.value:.6g}" if isinstance(score, Score) else f"unscored: {score.reason}"
    return {
        "prompt": task.shown,
        "reasoning": reasoning.text,
        "score": said,
        "reward": score.reward,
        "step": str(step),
    }


def add_texts(png: bytes, texts: Mapping[str, str]) -> bytes:
    """Return a PNG file with these texts in UTF-8 chunks before its pixels; empty texts are left out.

    Args:
        png: A whole PNG file, as `milr.png.encode_png` makes it.
        texts: Key, one of `KEYS` -> text.
    """
    chunks = [_make_chunk(key, texts[key][:_LONGEST]) for key in KEYS if texts.get(key)]
    return b"".join((png[:_HEADER], *chunks, png[_HEADER:]))


def _make_chunk(key: str, text: str) -> bytes:
    """Return an uncompressed iTXt chunk: length, name, keyword, flags, text, checksum."""
    body = b"iTXt" + key.encode() + bytes(5) + text.encode("utf-8", "replace")
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def read_texts(file: Path) -> dict[str, str]:
    """Return the texts that milr wrote into a PNG file, in the order of `KEYS`.

    Raises:
        UsageError: There is no such file, it is no PNG, or it has none of these texts.
    """
    try:
        info = decode_image(read_file(file, MOST_BYTES), ["PNG"]).info
    except (OSError, ValueError, UnreadableImage) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it is no PNG image"
        raise UsageError(f"{file}: {reason}; give an image that milr wrote, for instance best.png of a task") from error
    texts = {key: str(info[key])[:_LONGEST] for key in KEYS if isinstance(info.get(key), str)}
    if "prompt" not in texts:
        raise UsageError(f"{file} does not say how it was made: only images that milr wrote since version 0.2 do")
    return texts
