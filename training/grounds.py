"""The six grounds of the icon world: patches of 16 x 16 pixels, and how each ground lays them out.

Every patch is a code of its own, so that a ground's pixels and its image tokens say exactly the same. A scene's camera,
near or far, changes a ground's pattern from its first row on; no text names it. Objects are larger in near scenes
(`training.world`).
"""

from __future__ import annotations

from functools import cache

import numpy as np

GRID = 10  # image tokens a side
TOKEN = 16  # pixels of a token's side
GROUNDS = ("tiled", "striped", "dotted", "shaded", "meadow", "beach")
CAMERAS = ("near", "far")
HORIZONS = range(4, 7)
"""Rows in which the horizon of a meadow or a beach may be."""

_TILE = ((222, 223, 226), (204, 207, 214))
_STRIPE = ((247, 233, 202), (238, 216, 172))
_DOT = ((204, 237, 210), (170, 216, 182))
_SHADE = ((232, 222, 246), (178, 190, 236))
_SKY, _CLOUD, _GRASS, _TUFT = (206, 228, 250), (240, 246, 252), (176, 220, 148), (146, 200, 118)
_AIR, _BIRD, _SEA, _SAND = (218, 238, 246), (150, 172, 186), (152, 206, 224), (245, 228, 184)
_NAMES = (
    *("tile light", "tile dark", "stripe light", "stripe dark", "plain", "small dot", "large dot"),
    *(f"shade down {row}" for row in range(GRID)),
    *(f"shade up {row}" for row in range(GRID)),
    *("sky", "cloud", "hill", "grass", "tuft"),
    *("air", "bird", "sea", "shore", "sand"),
)
CODES = len(_NAMES)
"""Codes of grounds: the codebook begins with them."""


def sample_ground(random: np.random.Generator) -> tuple[str, str, int]:
    """Sample a ground, a camera and a horizon."""
    ground, camera = (choices[random.integers(len(choices))] for choices in (GROUNDS, CAMERAS))
    return ground, camera, int(random.choice(HORIZONS))


def ground_codes(ground: str, camera: str, horizon: int) -> np.ndarray:
    """Return a ground's image tokens, int64 (10, 10).

    Args:
        ground: One of `GROUNDS`.
        camera: One of `CAMERAS`.
        horizon: First row of the land or the sea, one of `HORIZONS`; the other grounds have none and ignore it.
    """
    row, column = np.indices((GRID, GRID))
    near = camera == "near"
    scale = 2 if near else 1
    if ground == "tiled":
        return _choose((row // scale + column // scale) % 2 == 0, "tile light", "tile dark")
    if ground == "striped":
        return _choose(column // scale % 2 == 0, "stripe light", "stripe dark")
    if ground == "dotted":
        return _choose((row % 2 == 0) & (column % 2 == 0), "large dot", "plain") if near else _fill("small dot")
    if ground == "shaded":
        return _NAMES.index("shade down 0" if near else "shade up 0") + row
    if ground == "meadow":
        sky = _choose((row == 0) & (column % 3 == 1) & near, "cloud", "sky")
        land = _choose((row + column) % 2 == 0, "tuft", "grass") if near else _fill("grass")
        return np.select([row < horizon, row == horizon], [sky, _fill("hill")], land)
    if ground == "beach":
        sky = _choose((row == 0) & (column % 4 == 2) & near, "bird", "air")
        return np.select(
            [row < horizon, row < horizon + 2, row == horizon + 2], [sky, _fill("sea"), _fill("shore")], _fill("sand")
        )
    raise ValueError(f"unknown ground {ground!r}: one of {', '.join(GROUNDS)}")


def ground_pixels(codes: np.ndarray) -> np.ndarray:
    """Return the pixels of ground tokens: int64 (h, w) -> float32 (16 h, 16 w, 3) in [0, 255]."""
    height, width = codes.shape
    return patches()[codes].swapaxes(1, 2).reshape(height * TOKEN, width * TOKEN, 3).astype(np.float32)


def ground_of(codes: np.ndarray) -> str | None:
    """Return the ground that most ground codes belong to; None if there is none.

    Args:
        codes: Image tokens of any shape; tokens of objects are ignored.
    """
    own = codes[codes < CODES]
    if not own.size:
        return None
    return GROUNDS[int(np.bincount(_ground_numbers()[own]).argmax())]


@cache
def patches() -> np.ndarray:
    """Return every ground's patch: float32 (codes, 16, 16, 3) in [0, 255]."""
    y, x = np.indices((TOKEN, TOKEN)) + 0.5
    middle = np.hypot(y - TOKEN / 2, x - TOKEN / 2)
    depth = y / TOKEN
    drawn = {
        "tile light": _flat(_TILE[0]),
        "tile dark": _flat(_TILE[1]),
        "stripe light": _flat(_STRIPE[0]),
        "stripe dark": _flat(_STRIPE[1]),
        "plain": _flat(_DOT[0]),
        "small dot": _mix(_DOT[0], _DOT[1], middle < 3.5),
        "large dot": _mix(_DOT[0], _DOT[1], middle < 6.5),
        "sky": _flat(_SKY),
        "cloud": _mix(_SKY, _CLOUD, (np.hypot((y - 9) * 1.6, x - 8) < 7)),
        "hill": _mix(_SKY, _GRASS, y > 7 + 3 * np.cos(2 * np.pi * x / TOKEN)),
        "grass": _flat(_GRASS),
        "tuft": _mix(_GRASS, _TUFT, np.abs(x - 8) < (y - 5) / 2),
        "air": _flat(_AIR),
        "bird": _mix(_AIR, _BIRD, np.abs(y - 6 - np.abs(x - 8) / 2) < 1),
        "sea": _flat(_SEA),
        "shore": _mix(_SEA, _SAND, y > 8 + 2.5 * np.sin(2 * np.pi * x / TOKEN)),
        "sand": _flat(_SAND),
    }
    for row in range(GRID):
        drawn[f"shade down {row}"] = _mix(_SHADE[0], _SHADE[1], (row + depth) / GRID)
        drawn[f"shade up {row}"] = _mix(_SHADE[1], _SHADE[0], (row + depth) / GRID)
    return np.stack([drawn[name] for name in _NAMES])


@cache
def _ground_numbers() -> np.ndarray:
    """Return the number of each code's ground, int64 (codes,)."""
    found = np.zeros(CODES, np.int64)
    for number, ground in enumerate(GROUNDS):
        for camera in CAMERAS:
            found[ground_codes(ground, camera, HORIZONS[0])] = number
    return found


def _fill(name: str) -> np.ndarray:
    return np.full((GRID, GRID), _NAMES.index(name))


def _choose(where: np.ndarray, this: str, other: str) -> np.ndarray:
    return np.where(where, _NAMES.index(this), _NAMES.index(other))


def _flat(color: tuple[int, int, int]) -> np.ndarray:
    return np.full((TOKEN, TOKEN, 3), color, np.float32)


def _mix(ground: tuple[int, int, int], front: tuple[int, int, int], share: np.ndarray) -> np.ndarray:
    """Return one colour over another, by the share (16, 16) of the second, in [0, 1]."""
    share = share.astype(np.float32)[..., None]
    return (1 - share) * np.array(ground, np.float32) + share * np.array(front, np.float32)
