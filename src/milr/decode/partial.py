"""Partial images: a flat rest completes their tokens, so that a reward can score them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def fill_rest(tokens: Sequence[int], total: int) -> tuple[int, ...]:
    """Return the tokens of a partial image, with the most common one (the first of equals) in all places after them.

    A flat rest shows no objects: what a reward finds, the sampled rows show. FR-TTS (arXiv 2512.00438) fills the rest
    too, by a model's guess.

    Args:
        tokens: The first image tokens in raster order, at least one.
        total: Number of tokens of a whole image.
    """
    common = Counter(tokens).most_common(1)[0][0]
    return (*tokens, *[common] * (total - len(tokens)))
