"""Ours: think several times before drawing, and draw what most thoughts agree on.

A text costs a fraction of a picture, and a picture cannot be right where its text is wrong. So texts are written in
pools: the first of the first pool is the greedy one, all others are sampled at temperature 1. Those of a pool are drawn
from in the order of their agreement with the rest of it, each once, until a picture is right or the budget is spent.
The agreement of two texts is the F1 of their words and pairs of words, as multisets: choosing the text that agrees most
is minimum Bayes risk decoding (Kumar and Byrne, 2004; Eikema and Aziz, arXiv 2108.04718), and self-consistency (Wang et
al., arXiv 2203.11171) for answers that are never quite the same. No reward is asked and nothing of the model's language
is known.

Drawings are spent as by its rivals; the texts, which are spent beside them, are in `tokens_spent`.
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
"""Of a pool."""


def consensus(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw up to K + 1 images, each from the text of a pool that agrees most with it and was not drawn from yet."""
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
    """Places of texts, the one that agrees most with all others first; of equals the first."""
    pieces = [_count_pieces(text) for text in texts]
    agreement = [
        sum(_overlap(own, other) for place, other in enumerate(pieces) if place != at) for at, own in enumerate(pieces)
    ]
    return sorted(range(len(texts)), key=lambda place: -agreement[place])


def _count_pieces(text: str) -> Counter[tuple[str, ...]]:
    """A text's words, and its pairs of neighbouring words."""
    words = re.findall(r"\w+", text.lower())
    return Counter([*((word,) for word in words), *pairwise(words)])


def _overlap(one: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> float:
    """F1 of two multisets; two empty ones agree."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0
