"""Scenes of the icon world: objects anywhere on the token grid, on a ground; their texts, pixels and image tokens.

The model sees words and tokens alone; this module only makes its training data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.grounds import GRID, TOKEN, ground_codes, ground_pixels
from training.icons import NATURAL, compose

Library = dict[tuple[str, int, str, str], np.ndarray]
"""Icons by class, variant, colour and size: (side, side, 4) uint8 RGBA."""
Bank = dict[tuple[str, int, str, str], np.ndarray]
"""Image tokens of every icon, int64 (s, s); `AIR` where a patch is empty."""

SIZES = {"small": 3, "large": 4}  # tokens of a side
STYLES = ("classic", "flat")
"""A scene's style chooses the variant of all its icons."""
PLACES = tuple(
    f"{row} {column}".strip() or "middle" for row in ("top", "", "bottom") for column in ("left", "", "right")
)
"""Words for the nine regions that an object's centre may be in, in reading order."""
MOST_OBJECTS = 5
AIR = -1  # the token of an icon's empty patches: the ground's own token stays there
_NEAR, _FAR = 4, 6
"""A centre before the first is left (or at the top), one after the second is right (or at the bottom)."""


@dataclass(frozen=True)
class Item:
    """One object of a scene, its top left corner in tokens."""

    name: str
    color: str | None
    top: int
    left: int
    size: str
    variant: int = 0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return top, left, bottom, right in tokens; bottom and right are excluded."""
        side = SIZES[self.size]
        return self.top, self.left, self.top + side, self.left + side

    @property
    def place(self) -> str:
        """Return the word for the region of the object's centre."""
        half = SIZES[self.size] / 2
        return region(self.top + half, self.left + half)


def region(y: float, x: float) -> str:
    """Return the word for the region of a point, in tokens."""
    row, column = ((value >= _NEAR) + (value > _FAR) for value in (y, x))
    return PLACES[3 * row + column]


@dataclass(frozen=True)
class Scene:
    """Objects on a ground, in the order in which a text names them."""

    items: tuple[Item, ...]
    ground: str
    camera: str
    """near or far; no text names it."""
    horizon: int
    """The row in which the ground's horizon is, if it has one; no text names it."""
    style: str


@dataclass(frozen=True)
class Mentions:
    """The parts of a scene that a text names; objects and their colours are always named."""

    placed: tuple[bool, ...]
    """Of each item, whether its place is named."""
    sized: tuple[bool, ...]
    """Of each item, whether its size is named."""
    style: bool
    ground: bool


def mention_all(scene: Scene) -> Mentions:
    """Return mentions of everything that a text can name."""
    every = (True,) * len(scene.items)
    return Mentions(every, every, style=True, ground=True)


def name_item(item: Item, placed: bool, sized: bool) -> str:
    """Return a text's words for one object."""
    parts = (item.place if placed else None, item.size if sized else None, item.color, item.name)
    return " ".join(part for part in parts if part)


def write_text(scene: Scene, mentions: Mentions) -> str:
    """Return the text that names these parts of a scene: its objects, then its style and ground."""
    named = [name_item(*one) for one in zip(scene.items, mentions.placed, mentions.sized, strict=True)]
    named += [f"{scene.style} style"] * mentions.style + [f"{scene.ground} ground"] * mentions.ground
    return ", ".join(named)


def describe(scene: Scene) -> str:
    """Return what an image shows: place, size, colour and name of its objects in reading order, style and ground."""
    items = sorted(scene.items, key=lambda item: (PLACES.index(item.place), item.top, item.left))
    ordered = Scene(tuple(items), scene.ground, scene.camera, scene.horizon, scene.style)
    return write_text(ordered, mention_all(ordered))


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Return True if two boxes (top, left, bottom, right) share a token."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def object_cells(scene: Scene) -> np.ndarray:
    """Return the cells of objects: bool (10, 10)."""
    cells = np.zeros((GRID, GRID), bool)
    for item in scene.items:
        top, left, bottom, right = item.box
        cells[top:bottom, left:right] = True
    return cells


def icon_key(item: Item) -> tuple[str, int, str, str]:
    """Return an item's key in a library of icons or a bank of tokens."""
    return item.name, item.variant, item.color or NATURAL, item.size


def render(scene: Scene, library: Library) -> np.ndarray:
    """Render a scene: (160, 160, 3) float32 in [0, 255]. It is training's ground truth, never used in drawing."""
    canvas = ground_pixels(ground_codes(scene.ground, scene.camera, scene.horizon))
    for item in scene.items:
        compose(canvas, library[icon_key(item)], item.top * TOKEN, item.left * TOKEN)
    return canvas


def token_grid(scene: Scene, bank: Bank) -> np.ndarray:
    """Return a scene's image tokens (10, 10) int64, pasted from each icon's own: the same wherever it stands."""
    grid = ground_codes(scene.ground, scene.camera, scene.horizon)
    for item in scene.items:
        top, left, bottom, right = item.box
        paste(grid[top:bottom, left:right], bank[icon_key(item)])
    return grid


def paste(cells: np.ndarray, icon: np.ndarray) -> None:
    """Lay an icon's tokens (s, s) over cells (s, s), in place; the ground stays where the icon is empty."""
    np.copyto(cells, icon, where=icon != AIR)
