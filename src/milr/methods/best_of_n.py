"""Best of N: draw again and again, keep the best. N is K + 1, the drawings of a search of K steps."""

from __future__ import annotations

from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings


def best_of_n(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw up to K + 1 images, all from one greedy text.

    The first n images are the same whatever K is, and the same as those of a search without latents.
    """
    yield from ctx.reason()
    for _ in range(ctx.own.steps + 1):
        yield from ctx.draw()


def best_of_n_sampled(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw up to K + 1 images, each from a text of its own, sampled at temperature 1."""
    for _ in range(ctx.own.steps + 1):
        yield from ctx.reason(sampled=True)
        yield from ctx.draw()
