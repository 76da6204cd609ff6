"""Ours: keep what is right, draw the rest again.

A picture of several objects is right when all of them are; drawn anew as a whole, what was right is lost with what was
wrong. Here the image tokens under the objects that meet their conditions are given to the next drawing, and the model
draws all others around them, after the same text. A drawing that is no better ends that: the next one has a text of its
own, sampled, and keeps nothing. k objects that succeed independently with chance p take about 1 / p^k whole drawings,
but few times 1 / p of these.

The reward has to say where things are: GenEval's do (`icons`, `icons-soft`, `geneval`, `geneval-hf`: the evidence
"detections"). With a reward that does not, nothing is kept and this is best of N over sampled texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from milr.config import SearchConfig
from milr.methods.runner import Look, Row, Script, run_scripts
from milr.models.base import Capabilities, Model
from milr.rewards.base import Reward
from milr.rewards.geneval.rules import right_objects
from milr.types import Score, StepRecord, Task, rank


def keep_right(tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig) -> Iterator[StepRecord]:
    """Up to K + 1 drawings, the first from the greedy text; each keeps what is right in the best one of its text.

    A drawing counts as whole but for the given tokens at its beginning, which are read, not decoded.
    """
    return run_scripts(_draw_around, tasks, model, reward, config)


def _draw_around(row: Row) -> Script:
    best: Look | None = None
    kept: list[int | None] = []
    for number in range(row.config.steps + 1):
        if best is None:
            yield from row.think(sampled=number > 0)
        (look,) = yield from row.draw([kept])
        if best is None or rank(look.score) > rank(best.score):
            best, kept = look, find_right_tokens(look, row.task, row.model.capabilities)
        else:
            kept = []
        if not kept:
            best = None


def find_right_tokens(look: Look, task: Task, capabilities: Capabilities) -> list[int | None]:
    """A drawing's tokens under its right objects, None elsewhere; empty where the reward calls nothing right.

    A cell is kept where most of its width and of its height lies in an object's box.
    """
    if not isinstance(look.score, Score) or "detections" not in look.score.evidence:
        return []
    seen = cast("Mapping[str, Sequence[Sequence[Any]]]", look.score.evidence["detections"])
    detections = {name: [tuple(one) for one in found] for name, found in seen.items()}
    side = math.isqrt(capabilities.image_tokens)
    cell = capabilities.picture_size / side
    kept: list[int | None] = [None] * capabilities.image_tokens
    for x0, y0, x1, y1, *_ in right_objects(cast("Any", detections), task):
        for line in range(max(round(y0 / cell), 0), min(round(y1 / cell), side)):
            for column in range(max(round(x0 / cell), 0), min(round(x1 / cell), side)):
                kept[line * side + column] = look.drawing.tokens[line * side + column]
    return kept if any(token is not None for token in kept) else []
