"""Images with some of their cells exchanged, as a half-trained generator makes them, and what they still show.

An icon's label after damage:

* up to 18 % of its cells replaced: still there; 40 % and more, or half of one icon and half of another: not there;
  between the two: left out of the loss. Codes that are near the correct ones do not count as damage.
* cells of the same icon in another colour change its colour only: up to 18 % not at all, about half of them to "no
  single colour"; otherwise the colour is left out of the loss.
"""

from __future__ import annotations

import math

import numpy as np

from training.coders import Coder
from training.grounds import GRID
from training.layouts import EMPTY, IGNORE, MIXED, UNKNOWN, Layout, Placed, Sampler

PRESENT, GONE = 0.18, 0.40
"""Shares of replaced cells: up to the first an icon is there, from the second on it is not."""


def coded_images(
    sampler: Sampler, coder: Coder, random: np.random.Generator, number: int, damaged: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Make images with a coder, a share of them damaged.

    Returns:
        Images, uint8 (number, 160, 160, 3), and labels, float32 (number, MOST, 6).
    """
    layouts = [sampler.layout(random) for _ in range(number)]
    labels = np.stack([sampler.labels(layout) for layout in layouts])
    chosen = [index for index in range(number) if random.random() < damaged]
    variants = [sampler.vary(layouts[index], random) for index in chosen]
    tokens = coder.tokens([*layouts, *(variant for variant, _ in variants)])
    for index, (_, kinds), other in zip(chosen, variants, tokens[number:], strict=True):
        if random.random() < 0.3:
            _scatter_scraps(tokens[index], layouts[index], coder, random)
        for row, icon, kind in zip(labels[index], layouts[index].placed, kinds, strict=False):
            if random.random() < 0.7:
                _damage_icon(tokens[index][icon.area], other[icon.area], kind, sampler, icon, row, coder, random)
    return coder.images(tokens[:number]), labels


def _scatter_scraps(tokens: np.ndarray, layout: Layout, coder: Coder, random: np.random.Generator) -> None:
    """Replace some of the ground's cells, in place. Tokens are (10, 10)."""
    clean = tokens.copy()
    spots = random.integers(0, GRID, (int(random.integers(2, 9)), 2))
    tokens[tuple(spots.T)] = random.integers(0, coder.number, len(spots))
    for icon in layout.placed:
        tokens[icon.area] = clean[icon.area]


def _damage_icon(
    mine: np.ndarray,
    variant: np.ndarray,
    change: str,
    sampler: Sampler,
    icon: Placed,
    label: np.ndarray,
    coder: Coder,
    random: np.random.Generator,
) -> None:
    """Replace some of an icon's tokens (s, s) and set its label (6,) to what they still show, in place.

    Args:
        mine: The icon's tokens.
        variant: Tokens of something else in the same place.
        change: Says what is different there: "class", "color" or "ground".
        sampler: Knows the icon's cells.
        icon: The icon.
        label: Its row.
        coder: The tokens' coder.
        random: The source of chance.
    """
    cells = sampler.facts[icon.key].cells
    kind, source = _replacement(mine, variant, change, cells, coder, random)
    most = 0.6 if kind in ("class", "near") else 1.0
    low, high = [(0.03, PRESENT), (PRESENT, GONE), (GONE, most)][int(random.choice(3, p=[0.45, 0.15, 0.40]))]
    changing = np.argwhere(source != mine) if kind == "class" else np.argwhere((source != mine) & cells)
    count = min(len(changing), round(float(random.uniform(low, high)) * int(cells.sum())))
    if random.random() < 0.5:  # scattered, or from one side
        order = random.permutation(len(changing))
    else:
        angle = random.uniform(0, 2 * math.pi)
        order = np.argsort(changing @ np.array([math.sin(angle), math.cos(angle)]))
    chosen = tuple(changing[order[:count]].T)
    mine[chosen] = source[chosen]
    _relabel(label, kind, count / int(cells.sum()), whole=count == len(changing))


def _replacement(
    mine: np.ndarray, variant: np.ndarray, change: str, cells: np.ndarray, coder: Coder, random: np.random.Generator
) -> tuple[str, np.ndarray]:
    """Return a kind of damage and the tokens (s, s) that replace an icon's."""
    kind = str(random.choice(["random", "variant", "shuffle", "near"], p=[0.2, 0.5, 0.1, 0.2]))
    if kind == "random":
        return kind, random.integers(0, coder.number, mine.shape)
    if kind == "shuffle":
        shuffled = mine.copy()
        shuffled[cells] = random.permutation(shuffled[cells])
        return kind, shuffled
    if kind == "near" and coder.near is not None:
        return kind, coder.near[mine, random.integers(0, coder.near.shape[1], mine.shape)]
    return change, variant


def _relabel(label: np.ndarray, kind: str, share: float, whole: bool) -> None:
    """Set a label to what is left of an icon, in place.

    Args:
        label: Its row (6,).
        kind: The kind of damage.
        share: Replaced cells, as a share of the icon's.
        whole: True if nothing differs from the replacement any more.
    """
    if kind == "near":
        if share > GONE:
            label[0] = IGNORE
    elif kind == "color":
        if share > PRESENT:
            label[5] = MIXED if 0.35 < share < 0.65 and not whole else UNKNOWN
    elif share >= GONE:
        label[:] = EMPTY
    elif share > PRESENT:
        label[0] = IGNORE
