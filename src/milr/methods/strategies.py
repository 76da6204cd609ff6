"""A strategy is data: which latents there are, and which move at step k of K.

Source: MILR, Algorithm 2; `steer` is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Strategy:
    """Which latents an update moves."""

    summary: str
    moves: Callable[[int, int], tuple[str, ...]]
    """(step k from 1, steps K) -> of "text" and "image", those that move."""
    latents: tuple[str, ...] = ("text", "image")
    """Those that there are at all."""
    added: bool = False
    """Whether what moved the text latents is added to the decoder's own states, which know the words before; else the
    head reads the latents instead of the decoder's states, as in the paper."""


STRATEGIES: Mapping[str, Strategy] = {
    "joint": Strategy("text and image latents move at every step", lambda k, total: ("text", "image")),
    "alt": Strategy(
        "odd steps move text latents, even steps image latents", lambda k, total: ("text",) if k % 2 else ("image",)
    ),
    "t2v": Strategy(
        "text latents move in the first half, image latents after",
        lambda k, total: ("text",) if k <= total // 2 else ("image",),
    ),
    "steer": Strategy(
        "ours: text latents alone, added to the decoder's own states: words stay in step",
        lambda k, total: ("text",),
        latents=("text",),
        added=True,
    ),
}
