"""Best of N: draw N = K + 1 images independently and keep the best one."""

from __future__ import annotations

from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings


def best_of_n(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw up to K + 1 images, all after one greedy text.

    The first n images are the same for every K, and equal those of a search with a zero gradient.
    """
    yield from ctx.reason()
    for _ in range(ctx.own.steps + 1):
        yield from ctx.draw()


def best_of_n_sampled(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw up to K + 1 images, each after its own text, sampled at temperature 1."""
    for _ in range(ctx.own.steps + 1):
        yield from ctx.reason(sampled=True)
        yield from ctx.draw()


def best_of_n_greedy_first(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw up to K + 1 images: the first after the greedy text, each later one after its own sampled text.

    The first image equals step 0 of a search, so the two differ only in what they do when it is wrong.
    """
    for step in range(ctx.own.steps + 1):
        yield from ctx.reason(sampled=step > 0)
        yield from ctx.draw()
