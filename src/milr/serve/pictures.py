"""Images of a search: where they are, and in which form they are sent."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from milr.png import encode_png
from milr.runs.layout import STRIP, list_tasks, name_image
from milr.runs.reader import load_image
from milr.serve.errors import ApiError

FORMS: Mapping[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Forms that an image is sent in -> their media types."""
_GIF_STEP, _GIF_END = 700, 2500  # milliseconds


def find_picture(folder: Path, task: int, image: int, name: str) -> Path:
    """Return the file of a task's folder, finished or not, that is named by numbers alone.

    Raises:
        ApiError: There is none.
    """
    start, end = f"{task:04d}-", f"-{image}" if image else ""
    for found in [*list_tasks(folder), *sorted((folder / "tasks").glob("*.part"))]:
        stem = found.name.removesuffix(".part")
        if stem.startswith(start) and stem[len(start) + 16 :] == end and (found / name).is_file():
            return found / name
    raise ApiError(404, "not_found", "there is no such image")


def read_step(folder: Path, task: int, image: int, step: int, number: int) -> Path:
    """Return the file of one image of a step."""
    return find_picture(folder, task, image, name_image(step, number))


def find_strip(folder: Path, task: int, image: int) -> Path:
    """Return the file with all images of a finished task side by side."""
    return find_picture(folder, task, image, STRIP)


def encode(file: Path, form: str, quality: int = 100) -> bytes:
    """Return an image in a form; of PNG the file as it is.

    Args:
        file: A PNG of a run.
        form: One of `FORMS`.
        quality: From 0 to 100, of JPEG and WebP.
    """
    if form == "png":
        return file.read_bytes()
    out = io.BytesIO()
    load_image(file).save(out, form.upper(), quality=max(1, quality))
    return out.getvalue()


def make_growing(image: Image.Image, share: float) -> str:
    """Return an unfinished image as a data URL; its missing part is transparent.

    Args:
        image: With a flat rest.
        share: Of its rows that are drawn, from the top.
    """
    drawn = image.convert("RGBA")
    top = min(image.height, round(image.height * share))
    drawn.paste((0, 0, 0, 0), (0, top, image.width, image.height))
    return f"data:image/png;base64,{base64.b64encode(encode_png(drawn, level=1)).decode()}"


def make_gif(files: Sequence[Path]) -> bytes:
    """Return images one after the other, the last one for longer."""
    frames = [load_image(file).convert("P", palette=Image.Palette.ADAPTIVE) for file in files]
    out = io.BytesIO()
    times = [_GIF_STEP] * (len(frames) - 1) + [_GIF_END]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return out.getvalue()
