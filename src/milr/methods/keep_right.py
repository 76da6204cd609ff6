"""Ours: keep correct objects, draw the rest again.

An image of several objects is correct only if all of them are; drawing all of it again loses the correct objects. This
method gives the image tokens under objects that meet their conditions to the next drawing, and the model draws all
other tokens around them, after the same text. If a drawing is no better than the one before, the next one has its own
sampled text and keeps nothing. k objects that succeed independently with probability p need about 1 / p^k whole
drawings, but only a few times 1 / p of these.

The reward must locate objects by the regions of its scores, as `icons`, `icons-soft`, `geneval`, `geneval-hf`,
`grounding-dino` and mixes of them do. With any other reward nothing is kept, and this is best of N over sampled texts.
"""

from __future__ import annotations

import math

from milr.methods.context import Requests, ScoredImage, TaskContext
from milr.models.base import Capabilities
from milr.rewards.geneval.rules import right_objects, to_detections
from milr.settings import StepSettings
from milr.types import Score, Task, rank


def keep_right(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw up to K + 1 images, the first from the greedy text; each keeps the correct parts of its text's best image.

    A drawing counts as whole except for the given tokens at its beginning, which are prefilled, not decoded.
    """
    best: ScoredImage | None = None
    given: list[int | None] = []
    for number in range(ctx.own.steps + 1):
        if best is None:
            yield from ctx.reason(sampled=number > 0)
        (image,) = yield from ctx.draw([given])
        if best is None or rank(image.score) > rank(best.score):
            best, given = image, find_right_tokens(image, ctx.task, ctx.model.capabilities)
        else:
            given = []
        if not given:
            best = None


def find_right_tokens(image: ScoredImage, task: Task, capabilities: Capabilities) -> list[int | None]:
    """Return an image's tokens under its correct objects, None elsewhere; an empty list if no object is correct.

    A cell is kept if most of its width and of its height is inside an object's box.
    """
    if not isinstance(image.score, Score):
        return []
    side = math.isqrt(capabilities.image_tokens)
    cell = capabilities.image_size / side
    kept: list[int | None] = [None] * capabilities.image_tokens
    for x0, y0, x1, y1, *_ in right_objects(to_detections(image.score.regions), task):
        for line in range(max(round(y0 / cell), 0), min(round(y1 / cell), side)):
            for column in range(max(round(x0 / cell), 0), min(round(x1 / cell), side)):
                kept[line * side + column] = image.sample.tokens[line * side + column]
    return kept if any(token is not None for token in kept) else []
