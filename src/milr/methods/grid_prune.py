"""Ours, after GridAR (CVPR 2026): drawings grow side by side, block of rows by block, and the bad ones are dropped.

After each block the reward looks at the partial pictures (with a flat rest, `milr.decode.partial`). The better half
goes on, each twice, with fresh random numbers: a population that is steered, where best of N only chooses at the end.
GridAR also rewrites the layout into the prompt; here each round has a sampled text of its own instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from milr.config import SearchConfig
from milr.methods.runner import Row, Script, run_scripts
from milr.models.base import Model
from milr.rewards.base import Reward
from milr.types import StepRecord, Task, rank

POPULATION = 4
"""Drawings that grow side by side: a round costs as many drawings, and gives as many whole pictures."""
SCHEDULE = (0.25, 0.5, 0.75)


def grid_prune(tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig) -> Iterator[StepRecord]:
    """One drawing from the greedy text, then rounds for as long as the budget of K + 1 drawings holds a whole one.

    Each look at a partial picture counts as a call of the reward. A reward of 0 or 1 sees no difference between partial
    pictures: with it this is best of N.
    """
    return run_scripts(_grow_the_better_half, tasks, model, reward, config)


def _grow_the_better_half(row: Row) -> Script:
    yield from row.think()
    yield from row.draw()
    while row.left >= 1:
        yield from row.think(sampled=True)
        grown: list[tuple[int, ...]] = [()] * min(POPULATION, int(row.left))
        for share in SCHEDULE:
            looks = yield from row.draw(grown, until=row.rows(share))
            better = sorted(looks, key=lambda look: -rank(look.score))[: (len(looks) + 1) // 2]
            grown = [better[place % len(better)].drawing.tokens for place in range(len(looks))]
        yield from row.draw(grown)
