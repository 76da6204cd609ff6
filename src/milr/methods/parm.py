"""PARM: judge partial pictures, and finish only those with potential. Source: ZiyuGuo99/Image-Generation-CoT.

PARM asks a judge two things of an intermediate picture: is it clear enough to judge (clarity), and if so, can it become
what the prompt says (potential)? Its public code drives a masked-token model, whose every step predicts a whole blurred
picture; for a raster model nothing is published. What is ours here:

* the schedule: the reward looks when a quarter, a half and three quarters of the rows are drawn, with a flat rest
  (`milr.decode.partial`);
* clarity: a partial picture is clear at the first look at which the reward finds something, a value above 0;
* potential: its value there is at least the mean of all that this task showed, once clear, at the same look;
* a drawing without potential is left as it is, and its rest is saved. The public code finishes every drawing and
  saves nothing; PARM's paper speaks of leaving them.

A drawing that never gets clear is finished. The best finished picture is the answer, by the same reward. A drawing that
is left
counts as its share; each look counts as a call of the reward.
"""

from __future__ import annotations

from collections import defaultdict

from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings
from milr.types import rank

SCHEDULE = (0.25, 0.5, 0.75)


def parm(ctx: TaskContext[StepSettings]) -> Requests:
    """Begin drawings from one greedy text for as long as the budget of K + 1 holds a whole one; finish the promising.

    A reward of 0 or 1 finds nothing in a partial picture that is not right already: with it this is best of N.
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
        if promising or budget - ctx.drawings_spent < 1:  # no other can begin: leaving saves nothing
            yield from ctx.draw([tokens])
