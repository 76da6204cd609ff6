"""Ours, after GridAR (CVPR 2026): drawings grow side by side, block of rows by block, and the bad ones are dropped.

After each block the reward looks at the partial pictures (with a flat rest, `milr.decode.partial`). The better half
goes on, each twice, with fresh random numbers: a population that is steered, where best of N only chooses at the end.
GridAR also rewrites the layout into the prompt; here each round has a sampled text of its own instead.
"""

from __future__ import annotations

from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings
from milr.types import rank

POPULATION = 4
"""Drawings that grow side by side: a round costs as many drawings, and gives as many whole pictures."""
SCHEDULE = (0.25, 0.5, 0.75)


def grid_prune(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw once from the greedy text, then in rounds for as long as the budget of K + 1 drawings holds a whole one.

    Each look at a partial picture counts as a call of the reward. A reward of 0 or 1 sees no difference between partial
    pictures: with it this is best of N.
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
