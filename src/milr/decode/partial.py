"""Drawings that are not finished: what stands in the rest, so that a picture can be looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def fill_rest(tokens: Sequence[int], total: int) -> tuple[int, ...]:
    """The tokens of a drawing cut short, with its most common one (the first of equals) in all places after them.

    A rest that is flat ground says nothing of its own to a reward: what it finds, the drawn rows show. FR-TTS (arXiv
    2512.00438) fills the rest too, by a model's guess.

    Args:
        tokens: The first image tokens in raster order, at least one.
        total: How many a whole drawing has.
    """
    common = Counter(tokens).most_common(1)[0][0]
    return (*tokens, *[common] * (total - len(tokens)))
