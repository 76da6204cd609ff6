"""PARM: score partial images, and finish only those with potential. Source: ZiyuGuo99/Image-Generation-CoT.

PARM's reward model answers two questions about an unfinished image: is it clear enough to be scored (clarity), and if
so, can it become what the prompt asks for (potential)? Its public code is for a masked-token model, in which every step
predicts a whole blurred image. For models that draw token by token nothing is published. These parts are ours:

* Schedule: the reward scores when a quarter, a half and three quarters of the rows are drawn, with a flat rest
  (`milr.decode.partial`).
* Clarity: a partial image is clear at the first of these scores that is above 0.
* Potential: that score is at least the mean of all first clear scores of this task at the same place.
* A drawing without potential is abandoned, which saves the rest of its cost. The public code finishes every drawing;
  PARM's paper speaks of leaving them.

A drawing that never gets clear is finished. The best finished image is the answer, by the same reward. An abandoned
drawing counts as its share; each partial score counts as a call of the reward.
"""

from __future__ import annotations

from collections import defaultdict

from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings
from milr.types import rank

SCHEDULE = (0.25, 0.5, 0.75)


def parm(ctx: TaskContext[StepSettings]) -> Requests:
    """Begin drawings from one greedy text for as long as the budget of K + 1 holds a whole one; finish the promising.

    With a reward of 0 or 1 this is best of N: a partial image has a score above 0 only once it is correct.
    """
    budget = ctx.own.steps + 1
    shown: dict[float, list[float]] = defaultdict(list)  # share drawn -> values of drawings first clear there
    yield from ctx.reason()
    while budget - ctx.drawings_spent >= 1:
        tokens: tuple[int, ...] = ()
        promising = True
        for share in SCHEDULE:
            (image,) = yield from ctx.draw([tokens], until=ctx.tokens_in(share))
            tokens, value = image.sample.tokens, rank(image.score)
            if value > 0:
                shown[share].append(value)
                promising = value >= sum(shown[share]) / len(shown[share])
                break
        if promising or budget - ctx.drawings_spent < 1:  # no further drawing could begin, so nothing is saved
            yield from ctx.draw([tokens])
