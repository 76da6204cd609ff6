"""The icon library: SVG icons of the 80 GenEval names, rasterised, tinted and cut to size.

Icons come as npm packages (`npm install` in the build folder, see the Makefile); `geneval_icons.csv` names them.
`load_icons` returns RGBA arrays for every (class, variant, colour, size), all rendered once and kept on disk.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NATURAL = "natural"  # the icon as its set draws it, no tint
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 36, 36),
    "orange": (246, 134, 14),
    "yellow": (250, 212, 30),
    "green": (46, 158, 62),
    "blue": (40, 92, 214),
    "purple": (130, 58, 182),
    "pink": (246, 122, 176),
    "brown": (122, 76, 40),
    "black": (38, 38, 40),
    "white": (246, 246, 246),
}
_OVERSAMPLE = 4  # icons are rendered larger, tinted, then shrunk: smooth edges


@dataclass(frozen=True)
class Icon:
    """One drawing of one class: where it comes from and its SVG text."""

    name: str
    source: str
    svg: str


def read_icons(csv_path: Path, packages: Path, sets: Sequence[str]) -> dict[str, list[Icon]]:
    """Every icon of every class, in the order of ``sets``, then of the CSV.

    Args:
        csv_path: columns class, iconify_set, icon.
        packages: the folder that holds ``@iconify-json/<set>/icons.json``.
        sets: iconify sets to use; others are left out.
    """
    library = {s: json.loads((packages / "@iconify-json" / s / "icons.json").read_text()) for s in sets}
    found: dict[str, list[tuple[int, Icon]]] = {}
    with csv_path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["iconify_set"] not in library:
                found.setdefault(row["class"], [])
                continue
            data = library[row["iconify_set"]]
            body = data["icons"][row["icon"]]
            width = body.get("width", data.get("width", 16))
            height = body.get("height", data.get("height", 16))
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{body.get("left", 0)} {body.get("top", 0)} {width} {height}">{body["body"]}</svg>'
            )
            icon = Icon(row["class"], f"{row['iconify_set']}/{row['icon']}", svg.replace("currentColor", "#606468"))
            found.setdefault(row["class"], []).append((list(sets).index(row["iconify_set"]), icon))
    return {name: [icon for _, icon in sorted(items, key=lambda item: item[0])] for name, items in found.items()}


def choose_variants(icons: Sequence[Icon], count: int) -> list[Icon]:
    """The first icon of each set in turn, so that variants differ in style before they differ in pose."""
    by_set: dict[str, list[Icon]] = {}
    for icon in icons:
        by_set.setdefault(icon.source.split("/")[0], []).append(icon)
    chosen: list[Icon] = []
    while len(chosen) < min(count, len(icons)):
        for items in by_set.values():
            if items and len(chosen) < count:
                chosen.append(items.pop(0))
    return chosen


def rasterise(svg: str, size: int) -> np.ndarray:
    """SVG text -> (size, size, 4) uint8 RGBA, its drawing cropped to its bounds and centred."""
    import resvg_py  # an extra, needed for this alone

    side = 256
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox()
    image = image.crop(box) if box else image
    margin = max(1, round(size * 0.02))
    scale = (size - 2 * margin) / max(image.size)
    image = _resize_premultiplied(image, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return np.asarray(canvas)


def tint(rgba: np.ndarray, color: str) -> np.ndarray:
    """Repaint an icon in one of the ten colours, keeping its shading.

    Luminance, stretched to the icon's own range, runs from a darker shade over the colour to a lighter one.
    """
    if color == NATURAL:
        return rgba
    base = np.array(COLORS[color], np.float32)
    pixels = rgba[..., :3].astype(np.float32)
    opaque = rgba[..., 3] > 128
    luminance = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    values = luminance[opaque] if opaque.any() else luminance.ravel()
    low, high = np.percentile(values, [2, 98])
    level = np.clip((luminance - low) / max(high - low, 1.0), 0, 1) if high - low > 12 else np.full_like(luminance, 0.6)
    dark, light = (base * 0.5, base + (255 - base) * 0.30)
    if color == "white":
        dark, light = (np.full(3, 156.0, np.float32), np.full(3, 255.0, np.float32))
    if color == "black":
        dark, light = (np.full(3, 12.0, np.float32), np.full(3, 78.0, np.float32))
    level = level[..., None]
    painted = np.where(level < 0.6, dark + (base - dark) * level / 0.6, base + (light - base) * (level - 0.6) / 0.4)
    return np.concatenate([np.clip(painted, 0, 255).astype(np.uint8), rgba[..., 3:]], axis=-1)


def load_icons(
    chosen: Mapping[str, Sequence[Icon]], sizes: Mapping[str, int], cache: Path
) -> dict[tuple[str, int, str, str], np.ndarray]:
    """(class, variant, colour or "natural", size name) -> (size, size, 4) uint8 RGBA.

    Rendered once, then read from ``cache`` (an .npz file).
    """
    if cache.exists():
        with np.load(cache) as stored:
            return {tuple(_split_key(key)): stored[key] for key in stored.files}
    rendered: dict[tuple[str, int, str, str], np.ndarray] = {}
    for name, icons in chosen.items():
        for variant, icon in enumerate(icons):
            for size_name, size in sizes.items():
                big = rasterise(icon.svg, size * _OVERSAMPLE)
                for color in (NATURAL, *COLORS):
                    image = Image.fromarray(tint(big, color))
                    rendered[name, variant, color, size_name] = np.asarray(_resize_premultiplied(image, (size, size)))
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial.npz")
    np.savez(partial, **{"|".join(map(str, key)): value for key, value in rendered.items()})
    partial.rename(cache)
    return rendered


def compose(canvas: np.ndarray, rgba: np.ndarray, top: int, left: int) -> None:
    """Lay an RGBA icon onto an RGB canvas (H, W, 3) float32 in [0, 255], in place."""
    height, width = rgba.shape[:2]
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    region = canvas[top : top + height, left : left + width]
    region[...] = region * (1 - alpha) + rgba[..., :3].astype(np.float32) * alpha


def _split_key(key: str) -> tuple[str, int, str, str]:
    name, variant, color, size = key.split("|")
    return name, int(variant), color, size


def _resize_premultiplied(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize without dark fringes: colour is weighted by alpha."""
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
