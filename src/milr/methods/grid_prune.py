"""Ours, after GridAR (CVPR 2026): grow several drawings in parallel, block of rows by block, and drop the worse half.

After each block the reward scores the partial images (completed by a flat rest, `milr.decode.partial`). The better half
continues, each twice with fresh random numbers. GridAR also rewrites the layout into the prompt; here each round has
its own sampled text instead.
"""

from __future__ import annotations

from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings
from milr.types import rank

POPULATION = 4
"""Drawings that grow in parallel. A round costs this many drawings and yields this many whole images."""
SCHEDULE = (0.25, 0.5, 0.75)


def grid_prune(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw once from the greedy text, then in rounds while the budget of K + 1 drawings has room for one.

    Each score of a partial image counts as a call of the reward. A reward of 0 or 1 sees no difference between partial
    images; with it this method is best of N.
    """
    budget = ctx.own.steps + 1
    yield from ctx.reason()
    yield from ctx.draw()
    while budget - ctx.drawings_spent >= 1:
        yield from ctx.reason(sampled=True)
        grown: list[tuple[int, ...]] = [()] * min(POPULATION, int(budget - ctx.drawings_spent))
        for share in SCHEDULE:
            images = yield from ctx.draw(grown, until=ctx.tokens_in(share))
            better = sorted(images, key=lambda image: -rank(image.score))[: (len(images) + 1) // 2]
            grown = [better[place % len(better)].sample.tokens for place in range(len(images))]
        yield from ctx.draw(grown)
