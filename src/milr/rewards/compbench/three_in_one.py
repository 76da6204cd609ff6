"""T2I-CompBench's 3-in-1: the score of a complex prompt, from those of BLIP-VQA, UniDet and CLIPScore.

Source: `3_in_1_eval/3_in_1.py` of Karine-Huang/T2I-CompBench, commit 1b70949. The official script aligns three lists by
position and expects ten images per prompt; here each image is scored by its own prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from milr.rewards.compbench.prompts import Kind

Scorer = Literal["blip-vqa", "spatial", "clip"]
_ALL: tuple[Scorer, ...] = ("blip-vqa", "spatial", "clip")
SCORERS: Mapping[Kind, tuple[Scorer, ...]] = {
    "spatial": ("spatial", "blip-vqa"),
    "action": ("clip", "blip-vqa"),
    "spatialaction": _ALL,
}
"""The scorers whose plain mean is a prompt's score."""


def scorers_of(kind: Kind | None) -> tuple[Scorer, ...]:
    """Return the scorers that a complex prompt needs; a prompt in no official list needs all three, as officially."""
    return _ALL if kind is None else SCORERS[kind]


def combine(kind: Kind | None, values: Mapping[Scorer, float]) -> float:
    """Return the score of a complex prompt: the mean of its scorers' values."""
    needed = scorers_of(kind)
    return sum(values[name] for name in needed) / len(needed)
