"""Layouts of icons, sampled without a prompt, for the detectors: their pixels and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milr.rewards.icons.detector import CELL
from milr.tasks import COLORS, OBJECT_NAMES
from training import icons
from training.grounds import GRID, TOKEN, ground_codes, ground_pixels, sample_ground
from training.icons import NATURAL, compose
from training.scenes import SIZES, Library, Scene, icon_key, overlap

SIDE = GRID * TOKEN
"""Pixels of an image's side."""
MAP = SIDE // CELL
"""Cells of a side of the detectors' maps."""
MOST = 6
"""Rows of an image's labels."""
IGNORE, EMPTY = -1, -2
"""Classes of label rows: left out of the loss; a row without an object."""
MIXED, UNKNOWN = len(COLORS), -1
"""Colours of label rows: no single colour; left out of the loss."""
_OFTEN = [0.03, 0.25, 0.26, 0.19, 0.16, 0.11]
"""Chances of no icon, one, two, three, four and five."""
_LARGE = (0.0, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Chance that an icon is large, by the number of icons."""


@dataclass(frozen=True)
class Placed:
    """One icon of an image: its key in the library and its top left corner in tokens."""

    key: tuple[str, int, str, str]
    top: int
    left: int

    @property
    def side(self) -> int:
        """Return the tokens of a side."""
        return SIZES[self.key[3]]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return top, left, bottom, right in tokens; bottom and right are excluded."""
        return self.top, self.left, self.top + self.side, self.left + self.side

    @property
    def area(self) -> tuple[slice, slice]:
        """Return the icon's cells as an index of a token grid."""
        return np.s_[self.top : self.top + self.side, self.left : self.left + self.side]


@dataclass(frozen=True)
class Layout:
    """Icons on a ground."""

    placed: tuple[Placed, ...]
    ground: str
    camera: str
    horizon: int

    def codes(self) -> np.ndarray:
        """Return the ground's image tokens, int64 (10, 10)."""
        return ground_codes(self.ground, self.camera, self.horizon)


def to_layout(scene: Scene) -> Layout:
    """Convert a scene to a layout."""
    placed = tuple(Placed(icon_key(item), item.top, item.left) for item in scene.items)
    return Layout(placed, scene.ground, scene.camera, scene.horizon)


@dataclass(frozen=True)
class Facts:
    """True statements about one icon of a library."""

    box: tuple[int, int, int, int]
    """Tight box of its opaque pixels: x0, y0, x1, y1."""
    color: int
    """Index of its colour, `MIXED` or `UNKNOWN`."""
    cells: np.ndarray
    """Bool (side, side): cells that the icon touches."""


def icon_facts(library: Library) -> dict[tuple[str, int, str, str], Facts]:
    """Return box, colour and cells of every icon."""
    facts: dict[tuple[str, int, str, str], Facts] = {}
    for key, rgba in library.items():
        opaque = rgba[..., 3] >= 128
        rows, columns = np.flatnonzero(opaque.any(1)), np.flatnonzero(opaque.any(0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        side = len(rgba) // TOKEN
        cells = rgba[..., 3].reshape(side, TOKEN, side, TOKEN).mean((1, 3)) > 0.1 * 255
        color = main_color(rgba) if key[2] == NATURAL else COLORS.index(key[2])
        facts[key] = Facts(box, color, cells)
    return facts


def main_color(rgba: np.ndarray) -> int:
    """Return the colour of most opaque pixels; `MIXED` if there is none, `UNKNOWN` if it is arguable.

    A pixel's colour is the nearest of the ten ramps from shade to light that `icons.tint` paints with, and none if all
    are too far.
    """
    pixels = rgba[rgba[..., 3] > 128][:, :3].astype(np.float32)
    distances: list[np.ndarray] = []
    for name in COLORS:
        base = np.array(icons.COLORS[name], np.float32)
        dark, light = base * 0.5, base + (255 - base) * 0.30
        if name == "white":
            dark, light = np.full(3, 235.0), np.full(3, 255.0)
        if name == "black":
            dark, light = np.full(3, 0.0), np.full(3, 60.0)
        ramp = np.concatenate([np.linspace(dark, base, 6), np.linspace(base, light, 6)]).astype(np.float32)
        distances.append(np.linalg.norm(pixels[:, None] - ramp[None], axis=-1).min(1))
    nearest = np.stack(distances)  # (10, pixels)
    strict, loose = (
        np.bincount(nearest.argmin(0)[nearest.min(0) < reach], minlength=len(COLORS)) / len(pixels)
        for reach in (45, 65)
    )
    if strict.max() >= 0.6:
        return int(strict.argmax())
    return MIXED if loose.max() < 0.5 else UNKNOWN


class Sampler:
    """Samples layouts; draws and labels them."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.facts = icon_facts(library)
        self.variants = {name: 1 + max(key[1] for key in library if key[0] == name) for name in OBJECT_NAMES}

    def layout(self, random: np.random.Generator) -> Layout:
        """Sample up to five icons that may touch but do not overlap, often of one class, in one or several colours."""
        number = int(random.choice(len(_OFTEN), p=_OFTEN))
        alike = random.random() < 0.35  # all of one class, as a prompt with a count asks for
        placed: list[Placed] = []
        for _ in range(number):
            size = "large" if random.random() < _LARGE[number] else "small"
            corner = self._room(random, placed, SIZES[size])
            if corner is None:
                continue
            name = str(random.choice(OBJECT_NAMES))
            variant = int(random.integers(self.variants[name]))
            color = NATURAL if random.random() < 0.4 else COLORS[random.integers(len(COLORS))]
            if placed and (alike or random.random() < 0.2):
                name, variant, last, _ = placed[-1].key
                color = last if random.random() < 0.7 else color
            placed.append(Placed((name, variant, color, size), *corner))
        return Layout(tuple(placed), *sample_ground(random))

    @staticmethod
    def _room(random: np.random.Generator, placed: Sequence[Placed], side: int) -> tuple[int, int] | None:
        for _ in range(30):
            top, left = (int(value) for value in random.integers(0, GRID - side + 1, 2))
            if not any(overlap((top, left, top + side, left + side), other.box) for other in placed):
                return top, left
        return None

    def draw(self, layout: Layout) -> np.ndarray:
        """Return a layout's pixels, uint8 (160, 160, 3)."""
        canvas = ground_pixels(layout.codes())
        for icon in layout.placed:
            compose(canvas, self.library[icon.key], icon.top * TOKEN, icon.left * TOKEN)
        return canvas.round().astype(np.uint8)

    def labels(self, layout: Layout) -> np.ndarray:
        """Return a layout's labels, (MOST, 6) float32: class, x0, y0, x1, y1, colour."""
        rows = np.full((MOST, 6), EMPTY, np.float32)
        for row, icon in zip(rows, layout.placed, strict=False):
            facts = self.facts[icon.key]
            x, y = icon.left * TOKEN, icon.top * TOKEN
            x0, y0, x1, y1 = facts.box
            row[:] = (OBJECT_NAMES.index(icon.key[0]), x0 + x, y0 + y, x1 + x, y1 + y, facts.color)
        return rows

    def vary(self, layout: Layout, random: np.random.Generator) -> tuple[Layout, list[str]]:
        """Sample something else for each icon's place: another class, another colour, or the ground alone.

        Returns:
            The other layout, and of each of this layout's icons "class", "color" or "ground".
        """
        others: list[Placed] = []
        kinds: list[str] = []
        for icon in layout.placed:
            name, variant, color, size = icon.key
            kind = str(random.choice(["class", "color", "ground"], p=[0.45, 0.35, 0.2]))
            kinds.append(kind)
            if kind == "ground":
                continue
            if kind == "class":
                name = str(random.choice([other for other in OBJECT_NAMES if other != name]))
                variant = int(random.integers(self.variants[name]))
                color = color if random.random() < 0.5 else str(random.choice([NATURAL, *COLORS]))
            else:
                color = str(random.choice([other for other in COLORS if other != color]))
            others.append(Placed((name, variant, color, size), icon.top, icon.left))
        return Layout(tuple(others), layout.ground, layout.camera, layout.horizon), kinds
