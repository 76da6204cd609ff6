"""A method: each image follows the longest of several sampled texts."""

from __future__ import annotations

from pydantic import Field

from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings


class LongestTextSettings(StepSettings):  # steps: K
    """Settings of `longest-text`."""

    texts: int = Field(default=3, ge=1)
    """Number of texts from which each image's is chosen."""


def longest_text(ctx: TaskContext[LongestTextSettings]) -> Requests:
    """Draw K + 1 images, each after the longest of several sampled texts."""
    for _ in range(ctx.own.steps + 1):
        longest = yield from ctx.reason(sampled=True)
        for _ in range(ctx.own.texts - 1):
            text = yield from ctx.reason(sampled=True)
            longest = max(longest, text, key=lambda one: len(one.tokens))
        ctx.reasoning = longest.reasoning
        yield from ctx.draw()
