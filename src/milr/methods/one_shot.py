"""One image per task: the paper's two baselines."""

from __future__ import annotations

from milr.methods.context import Requests, TaskContext
from milr.settings import OneShotSettings


def one_shot(ctx: TaskContext[OneShotSettings]) -> Requests:
    """Draw from the prompt alone, without test-time compute."""
    yield from ctx.draw()


def text_reasoning(ctx: TaskContext[OneShotSettings]) -> Requests:
    """Draw after the model's greedy text: the paper's "Text Enhanced Reasoning", and step 0 of a search."""
    yield from ctx.reason()
    yield from ctx.draw()
