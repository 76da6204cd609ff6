"""Ours: write several texts before drawing, and draw from the text that agrees most with the others.

A text costs a fraction of an image, and an image cannot be correct if its text is wrong. So texts are written in pools.
The first text of the first pool is greedy, all others are sampled at temperature 1. One image is drawn from each text
of a pool, first from the text that agrees most with the others, until an image is correct or the budget is spent. The
agreement of two texts is the F1 of their words and pairs of words, as multisets. Choosing the text that agrees most is
minimum Bayes risk decoding (Kumar and Byrne, 2004; Eikema and Aziz, arXiv 2108.04718), and self-consistency (Wang et
al., arXiv 2203.11171) for answers that are rarely identical. The choice needs neither the reward nor knowledge of the
model's language.

Drawings are counted as for the other methods; the additional texts are counted in `tokens_spent`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings
from milr.types import Reasoning

TEXTS = 8
"""Texts in a pool."""


def consensus(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw up to K + 1 images, each from the unused text of the pool that agrees most with the pool."""
    drawn = 0
    while drawn <= ctx.own.steps:
        pool: list[Reasoning] = []
        for place in range(TEXTS):
            text = yield from ctx.reason(sampled=drawn + place > 0)
            pool.append(text.reasoning)
        for place in rank_by_agreement([reasoning.text for reasoning in pool])[: ctx.own.steps + 1 - drawn]:
            ctx.reasoning = pool[place]
            yield from ctx.draw()
            drawn += 1


def rank_by_agreement(texts: Sequence[str]) -> list[int]:
    """Return the indices of the texts by decreasing agreement with all others; ties keep their order."""
    pieces = [_count_pieces(text) for text in texts]
    agreement = [
        sum(_overlap(own, other) for place, other in enumerate(pieces) if place != at) for at, own in enumerate(pieces)
    ]
    return sorted(range(len(texts)), key=lambda place: -agreement[place])


def _count_pieces(text: str) -> Counter[tuple[str, ...]]:
    """Count a text's words and its pairs of neighbouring words."""
    words = re.findall(r"\w+", text.lower())
    return Counter([*((word,) for word in words), *pairwise(words)])


def _overlap(one: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> float:
    """Return the F1 of two multisets; 1 if both are empty."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0
