"""One round of images: what the tasks of a group request, drawn, decoded to pixels and scored together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from milr.decode.batching import ran_out
from milr.methods.context import ImageBatch, MethodError, ScoredImage, TaskContext
from milr.models.base import ImageOutput, ImageRequest, Model
from milr.models.optional import BegunDrawing, Releasing, begin_draw
from milr.rewards.base import Reward, Scores, begin_scoring
from milr.settings import SamplingParams
from milr.types import Score, Task, Unscored


class ImageRound:
    """Images in work: their tokens are sampled, then they are decoded to pixels, then scored.

    The device may still decode them, and the reward may still wait on a network, while other tasks are served. Images
    that a task recalls from its record are neither drawn nor scored again.
    """

    def __init__(self, group: Sequence[TaskContext[Any]], model: Model, reward: Reward) -> None:
        """Sample the image tokens.

        Args:
            group: Tasks whose methods request images: as many as their limits allow are drawn, at least one each.
            model: Draws.
            reward: Scores.

        Raises:
            MethodError: A method ended after a text.
        """
        self._model, self._reward = model, reward
        self._requests = [_cut(ctx) for ctx in group]
        recalled = [ctx.recall(requests) for ctx, requests in zip(group, self._requests, strict=True)]
        self._images = [
            (request, ctx, image)
            for ctx, requests, images in zip(group, self._requests, recalled, strict=True)
            for request, image in zip(requests, images, strict=True)
        ]
        drawn = [(one, ctx.sampling) for one, ctx, image in self._images if image is None or one.keep_hidden]
        self._drawing = _begin_to_draw(model, drawn)
        self._outputs: list[ImageOutput | ScoredImage] = []
        self._scores: Scores | None = None

    def begin_scoring(self, *, wait: bool) -> None:
        """Hand the images to the reward if they are decoded, or after waiting for them; do nothing the second time."""
        if self._scores is not None or not (wait or self._drawing.done()):
            return
        drawn = iter(self._drawing.wait())
        self._outputs = [next(drawn) if image is None or one.keep_hidden else image for one, _, image in self._images]
        fresh = [
            (out.sample.image, ctx.task)
            for out, (_, ctx, image) in zip(self._outputs, self._images, strict=True)
            if image is None and not (isinstance(out, ImageOutput) and out.fault)
        ]
        self._scores = self._score(*zip(*fresh, strict=True)) if fresh else _score_nothing

    def _score(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        """Begin to score; if the reward lacks memory, once more with that which the model keeps between drawings."""
        try:
            return begin_scoring(self._reward, images, tasks)
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error) or not isinstance(self._model, Releasing):
                raise
        # outside the handler: the error's traceback would keep the tensors of the failed attempt
        self._model.release_memory()
        return begin_scoring(self._reward, images, tasks)

    def finish(self) -> list[list[ScoredImage]]:
        """Wait for the scores and return each task's images, in the order of the group."""
        self.begin_scoring(wait=True)
        assert self._scores is not None
        scores = iter(self._scores())
        scored = iter(
            [
                ScoredImage(out.sample, image.score, out.hidden) if image else self._take_score(out, scores)
                for out, (_, _, image) in zip(self._outputs, self._images, strict=True)
            ]
        )
        return [[next(scored) for _ in requests] for requests in self._requests]

    def _take_score(self, out: ImageOutput | ScoredImage, scores: Iterator[Score | Unscored]) -> ScoredImage:
        """Return an image with the next score and its own cost; one that was not drawn is unscored, for its reason."""
        if isinstance(out, ScoredImage):
            return out
        score = Unscored(out.fault, self._reward.name, out.final) if out.fault else next(scores)
        return ScoredImage(out.sample, replace(score, cost=score.cost + out.cost), out.hidden)


def _begin_to_draw(model: Model, asked: Sequence[tuple[ImageRequest, SamplingParams]]) -> BegunDrawing:
    """Begin to draw images; images with the same sampling parameters share a batch."""
    begun: list[tuple[list[int], BegunDrawing]] = []
    for sampling in dict.fromkeys(own for _, own in asked):
        places = [place for place, (_, own) in enumerate(asked) if own == sampling]
        begun.append((places, begin_draw(model, [asked[place][0] for place in places], sampling)))

    def wait() -> list[ImageOutput]:
        found: dict[int, ImageOutput] = {}
        for places, one in begun:
            found |= zip(places, one.wait(), strict=True)
        return [found[place] for place in range(len(asked))]

    return BegunDrawing(lambda: all(one.done() for _, one in begun), wait)


def _cut(ctx: TaskContext[Any]) -> Sequence[ImageRequest]:
    """Return the images that a task requests, as many as its limits allow, at least one."""
    batch, run = ctx.request, ctx.run
    if not isinstance(batch, ImageBatch):
        raise MethodError(f"a method must end after whole images: {ctx.task.prompt!r} ended after a text")
    room = [len(batch.images)]
    if run.max_reward_calls is not None:
        room.append(run.max_reward_calls - ctx.reward_calls)
    if run.max_drawings is not None:
        room.append(ctx.room(run.max_drawings))
    return batch.images[: max(1, min(room))]


def _score_nothing() -> list[Score | Unscored]:
    return []
