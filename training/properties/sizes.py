"""How many prompts, texts and questions each row of the property table has at scale 1."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """The size of a measurement."""

    number: int
    asked: int = 0
    """The number that issue 27 asks for, or that its target's precision needs; 0 if there is none."""
    unit: str = "prompts"
    why: str = ""
    """The reason why the number is smaller than asked, or too small for the target's precision."""


SIZES = {
    "one shot, GenEval": Size(553, 553),
    "one shot, icons-hard": Size(150, 150),
    "plain, GenEval": Size(277, 553, why="the plain prompt is a comparison: every second prompt of each tag"),
    "plain, icons-hard": Size(150, 150),
    "pools, GenEval": Size(150, 553, why="best-of-21 of all 553 would draw 5,000 images more, a third of the hour"),
    "pools, icons-hard": Size(150, 150),
    "sampled, icons-hard": Size(150, 150),
    "named": Size(320, unit="texts"),
    "contradicting": Size(160, unit="pairs of texts"),
    "first tokens": Size(400, 400, "texts"),
    "first tokens, 2 %": Size(200, 400, "texts", "the 2 % are reported without a target"),
    "fresh prompts a chunk": Size(160),
    "own texts": Size(200, unit="prompts with 4 texts each"),
    "made texts": Size(800, unit="texts"),
    "looking, scenes": Size(400, unit="images with 2 questions each"),
    "looking, drawings": Size(320, unit="images with 2 questions each"),
    "combinations": Size(
        400, 1500, "drawings a side", "a difference within 0.05 that is sure within 0.025 would take 3,000 drawings"
    ),
    "codes": Size(96, unit="scenes"),
    "sweep, GenEval": Size(40, unit="prompts at each of 21 points"),
    "sweep, icons-hard": Size(40, unit="prompts at each of 21 points"),
    "sweep check, GenEval": Size(250, unit="prompts at each of 2 points"),
    "sweep check, icons-hard": Size(150, unit="prompts at each of 2 points"),
    "surroundings, GenEval": Size(100, unit="prompts with each ground and style"),
    "surroundings, icons-hard": Size(100, unit="prompts with each ground and style"),
}

MOST_CHUNKS = 8
"""Chunks of fresh prompts that are drawn from, until there are enough texts for the first tokens."""


def scaled(name: str, scale: float, least: int = 4) -> int:
    """Return a size at a scale, never less than a few; benchmarks' prompts are never more than there are."""
    return max(least, round(SIZES[name].number * scale))


def explain(scale: float) -> list[str]:
    """Return a line for each size that is smaller than wanted."""
    return [
        f"{name}: {scaled(name, scale)} {size.unit} of the {size.asked} wanted"
        + (f" ({size.why})" if size.number < size.asked else f" (scale {scale:g})")
        for name, size in SIZES.items()
        if scaled(name, scale) < size.asked
    ]
