"""Strategies, gradient ablations and noise modes of the method `milr`, as data.

Source: MILR, Algorithm 2 and Table 3, and the authors' code for `no-text`; `steer` and `steer-both` are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Strategy:
    """A strategy: the latents that exist, the latents that move at step k of K, and recommended settings."""

    summary: str
    moves: Callable[[int, int], tuple[str, ...]]
    """(step k from 1, steps K) -> the latents that move at that step, of "text" and "image"."""
    latents: tuple[str, ...] = ("text", "image")
    """The latents that exist at all."""
    offsets: tuple[str, ...] = ()
    """The latents of which z - z0 is added to the decoder's current hidden states; others replace the states by z, as
    in the paper."""
    reasons: bool = True
    """If false, no text is written, and images follow the prompt alone."""
    defaults: Mapping[str, float] = field(default_factory=dict[str, float])
    """Recommended settings. They override a model's defaults; the user's settings override them."""


STRATEGIES: Mapping[str, Strategy] = {
    "joint": Strategy("text and image latents move at every step", lambda k, total: ("text", "image")),
    "alt": Strategy(
        "odd steps move text latents, even steps image latents", lambda k, total: ("text",) if k % 2 else ("image",)
    ),
    "t2v": Strategy(
        "text latents move in the first half of the steps, image latents in the second",
        lambda k, total: ("text",) if k <= total // 2 else ("image",),
    ),
    "no-text": Strategy(
        'image latents only, after the bare prompt, with no reasoning: "w/o Text" as the authors ran it',
        lambda k, total: ("image",),
        latents=("image",),
        reasons=False,
    ),
    "steer": Strategy(
        "ours: text latents only, added to the decoder's own hidden states",
        lambda k, total: ("text",),
        latents=("text",),
        offsets=("text",),
        defaults={"text_ratio": 1.0, "learning_rate": 0.015},
    ),
    "steer-both": Strategy(
        "ours: text and image latents, both added to the decoder's own hidden states",
        lambda k, total: ("text", "image"),
        offsets=("text", "image"),
        defaults={"text_ratio": 1.0, "image_ratio": 1.0, "learning_rate": 0.015},
    ),
}


@dataclass(frozen=True)
class GradientRule:
    """A rule for the policy gradient in an update."""

    summary: str
    weight: float
    """Factor of the gradient."""
    random_direction: bool = False
    """If true, keep the length of the real step, but take a random direction."""


GRADIENTS: Mapping[str, GradientRule] = {
    "reward": GradientRule("the policy gradient, weighted by the advantage", 1.0),
    "zero": GradientRule("no gradient: the zero-gradient control", 0.0),
    "random": GradientRule("a random direction, with the length of the real step", 1.0, random_direction=True),
    "negated": GradientRule("the negated policy gradient", -1.0),
}


@dataclass(frozen=True)
class NoiseMode:
    """A rule for the random streams of a step's images."""

    summary: str
    fresh: bool
    """If true, each step has its own streams; if false, each step repeats those of step 0."""


NOISES: Mapping[str, NoiseMode] = {
    "fresh": NoiseMode("new random streams at each step", fresh=True),
    "fixed": NoiseMode("the random streams of step 0 at each step", fresh=False),
}
