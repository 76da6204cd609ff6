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
from collections.abc import Iterator, Sequence
from itertools import pairwise

from milr.config import SearchConfig
from milr.methods.runner import Row, Script, run_scripts
from milr.models.base import Model
from milr.rewards.base import Reward
from milr.types import Reasoning, StepRecord, Task

TEXTS = 8
"""Of a pool."""


def consensus(tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig) -> Iterator[StepRecord]:
    """Up to K + 1 drawings, each from the text of a pool that agrees most with it and was not drawn from yet."""
    return run_scripts(_draw_what_is_agreed_on, tasks, model, reward, config)


def _draw_what_is_agreed_on(row: Row) -> Script:
    drawn = 0
    while drawn <= row.config.steps:
        pool: list[Reasoning] = []
        for place in range(TEXTS):
            thought = yield from row.think(sampled=drawn + place > 0)
            pool.append(thought.reasoning)
        for place in rank_by_agreement([reasoning.text for reasoning in pool])[: row.config.steps + 1 - drawn]:
            row.reasoning = pool[place]
            yield from row.draw()
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
