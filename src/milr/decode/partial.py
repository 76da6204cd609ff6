"""Partial images: a flat rest completes their tokens, so that a reward can score them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def fill_rest(tokens: Sequence[int], total: int) -> tuple[int, ...]:
    """Complete the tokens of a partial image with its most common token (the first on a tie).

    A flat rest shows no objects, so everything that a reward finds is in the sampled rows. FR-TTS (arXiv 2512.00438)
    also completes partial images, by a model's guess.

    Args:
        tokens: The first image tokens in raster order, at least one.
        total: Number of tokens of a whole image.
    """
    common = Counter(tokens).most_common(1)[0][0]
    return (*tokens, *[common] * (total - len(tokens)))
