"""The context of a method: one task, as the method sees it. The method yields requests and receives answers.

A method is a generator function of a `TaskContext`, written for one task. The runner serves the requests of all tasks
in batches, so batching, stopping, counting and recording are the same for every method.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import torch

from milr.decode.sampling import open_stream
from milr.errors import MilrError
from milr.methods.latents import Update
from milr.models.base import ImageRequest, Model, TaskState, TextOutput, TextRequest
from milr.rewards.base import Reward, is_better
from milr.settings import MethodSettings, Settings
from milr.spending import Meter
from milr.types import Finished, ImageSample, KnownStep, LatentTrace, Reasoning, Score, StepRecord, Task, Unscored

Own = TypeVar("Own", bound=MethodSettings)


@dataclass(frozen=True)
class ScoredImage:
    """An image, partial or whole, and its score."""

    sample: ImageSample
    score: Score | Unscored
    hidden: torch.Tensor | None = None
    """(n, 2, d) float32, as in `ImageOutput`."""


@dataclass(frozen=True)
class ImageBatch:
    """The images that a method requests at once. Whole images make a step, with a record."""

    images: tuple[ImageRequest, ...]
    notes: tuple[str, ...] = ()
    """Notes for the user in the step's record."""

    @property
    def whole(self) -> bool:
        """False if the images are partial."""
        return all(one.until is None for one in self.images)


Request: TypeAlias = TextRequest | ImageBatch | Update
Need: TypeAlias = Literal["text", "image tokens", "latents"]
"""A model's ability that a method needs: to write a text, to start and continue images token by token, or latents that
its settings move."""
Requests: TypeAlias = Generator[Request, Any, None]
"""A running method: a generator that ends after a batch of whole images."""


@dataclass(frozen=True)
class Method:
    """A method: a generator function and the settings model that it reads.

    A method from outside is an object of this class, or the generator function alone, with its parameter annotated as
    ``ctx: TaskContext[ItsSettings]``; its settings are a subclass of `milr.settings.MethodSettings`. It declares
    nothing else: task, model and settings come by the context. It must end after whole images.
    `milr.testing.contracts.check_method` checks it with fakes.
    """

    name: str
    solve: Callable[[TaskContext[Any]], Requests]
    settings: type[MethodSettings]
    needs: frozenset[Need] = frozenset()
    """Abilities that a model must have, see `milr.methods.needs`; a model without it is refused before it is loaded."""


class MethodError(MilrError):
    """An error of a method that breaks its contract."""


class TaskContext(Generic[Own]):
    """One task in progress, as its method sees it."""

    def __init__(
        self, task: Task, index: int, key: str, state: TaskState, model: Model, settings: Settings, method: Method
    ) -> None:
        """Start the method; it runs until its first request.

        Args:
            task: The task, with its prompt.
            index: The task's place among the tasks given to the runner.
            key: Key of its random streams.
            state: The model's cached state of the task.
            model: The model.
            settings: Settings of the run; `settings.own` has the class that the method declares.
            method: The method.
        """
        self.task, self.index, self.key, self.state, self.model = task, index, key, state, model
        self.method = method.name
        self.own: Own = settings.own  # pyright: ignore[reportAttributeAccessIssue]
        self.sampling, self.run = settings.sampling, settings.run
        self.reasoning: Reasoning | None = None
        """The newest text, which the next images follow; None draws from the prompt alone."""
        self.trace: LatentTrace | None = None
        """Changes of the latents, for the record of the newest images."""
        self.best: tuple[ScoredImage, int] | None = None
        """The best whole image by `milr.rewards.base.is_better`, the first of equals, and its step."""
        self.known: Sequence[KnownStep] = ()
        """The task's first steps, if they were made before: see `milr.methods.queue.Assignment`."""
        self._meter = Meter()
        self.served = 0
        """Batches of images since it was given its place."""
        self.step = self.tokens_spent = self.reward_calls = 0
        self.cost = 0.0
        self.started = time.monotonic()
        self._total = model.capabilities.image_tokens or 1  # an image without tokens is drawn whole
        self._texts = self._images = self._decoded = 0  # texts sampled, images requested, image tokens decoded
        self._requests = method.solve(self)
        self.request: Request | None = None
        self.answer(None)

    @property
    def drawings_spent(self) -> float:
        """Return the drawings so far: image tokens decoded, divided by the tokens of a whole image."""
        return self._decoded / self._total

    @property
    def seconds(self) -> float:
        """Return the seconds since the task began."""
        return time.monotonic() - self.started

    @property
    def spent_here(self) -> dict[str, float]:
        """Return what the task has spent in this process."""
        return self._meter.subtract(self.spent)

    @property
    def spent(self) -> dict[str, float]:
        """Return what the task has spent so far, by the names of `milr.settings.LIMITS`."""
        return {
            "drawings": self.drawings_spent,
            "seconds": self.seconds,
            "reward_calls": self.reward_calls,
            "cost": self.cost,
        }

    def reason(
        self,
        prefix: Sequence[int] = (),
        *,
        sampled: bool = False,
        critique: str = "",
        offsets: torch.Tensor | None = None,
        stream: torch.Generator | None = None,
    ) -> Generator[TextRequest, TextOutput, TextOutput]:
        """Write a new text, which the following images follow.

        Args:
            prefix: Token ids at its beginning.
            sampled: Sample it; else it is greedy, unless the model was trained to sample its texts.
            critique: Faults of an earlier image.
            offsets: As in `TextRequest`.
            stream: Random stream of a sampled text; None takes the task's next one.

        Returns:
            An empty text, without a request, if the model writes none.
        """
        if not self.model.capabilities.writes_text:
            return TextOutput(Reasoning("", ()), (), torch.zeros(0, self.model.capabilities.width))
        sampled = sampled or self.model.text_temperature > 0
        numbers = (stream or self._next_text_stream()) if sampled else None
        text = yield TextRequest(self.state, tuple(prefix), offsets, numbers, critique)
        self.reasoning = text.reasoning
        self.tokens_spent += len(text.tokens) - min(len(prefix), len(text.tokens))
        return text

    def draw(
        self,
        given: Sequence[Sequence[int | None]] = ((),),
        until: int | None = None,
        *,
        streams: Sequence[torch.Generator] | None = None,
        prefix: torch.Tensor | None = None,
        keep_hidden: int = 0,
        offsets: torch.Tensor | None = None,
        notes: Sequence[str] = (),
    ) -> Generator[ImageBatch, list[ScoredImage], list[ScoredImage]]:
        """Draw images after the newest text and score them. The answer is shorter if a limit leaves less room.

        Args:
            given: For each image its given tokens, in raster order; None, and all tokens after the last, are sampled.
            until: Number of tokens after which the images stay partial; partial images have no record.
            streams: One per image; None takes the task's next ones, so that image n has the numbers of step n of a
                search, and methods that draw alike draw the same images.
            prefix: As in `ImageRequest`, for all images.
            keep_hidden: As in `ImageRequest`.
            offsets: As in `ImageRequest`, for all images.
            notes: For the record.
        """
        streams = streams or [self._next_image_stream() for _ in given]
        requests = [
            ImageRequest(self.state, self.reasoning, stream, prefix, tokens, until, keep_hidden, offsets)
            for tokens, stream in zip(given, streams, strict=True)
        ]
        images = yield ImageBatch(tuple(requests), tuple(notes))
        return images

    def tokens_in(self, share: float) -> int:
        """Return the number of image tokens in that share of the raster's rows: at least one row, never all."""
        side = math.isqrt(self._total)
        return side * min(max(round(share * side), 1), side - 1)

    def open_stream(self, drawing: int, step: int, purpose: str = "image") -> torch.Generator:
        """Open a random stream of this task, keyed by content: see `milr.decode.sampling.open_stream`."""
        return open_stream(self.run.seed, self.key, drawing, step, purpose)

    def answer(self, answer: object) -> None:
        """Send the method its answer; `request` is then its next request, or None at its end."""
        try:
            self.request = self._requests.send(answer)
        except StopIteration:
            self.request = None

    def recall(self, requests: Sequence[ImageRequest]) -> Sequence[ScoredImage | None]:
        """Return the images that these requests gave before, as far as they are known: one per request, or None."""
        is_known = isinstance(self.request, ImageBatch) and self.request.whole and self.step < len(self.known)
        if not is_known or len(self.known[self.step].images) != len(requests):
            return [None] * len(requests)
        known = self.known[self.step]
        return [ScoredImage(*one) for one in zip(known.images, known.scores, strict=True)]

    def close(self) -> None:
        """End the method."""
        self._requests.close()

    def count(self, batch: ImageBatch, images: Sequence[ScoredImage], reward: Reward) -> None:
        """Count new images and keep the best whole one: given tokens are not sampled, leading ones not decoded.

        Args:
            batch: The request.
            images: The images.
            reward: The reward that scored them; it may decide between equals.
        """
        for request, image in zip(batch.images, images, strict=False):  # a limit may have cut the batch short
            self._decoded += self._count_decoded(request)
            self.tokens_spent += len(image.sample.tokens) - sum(token is not None for token in request.tokens)
            self.cost += image.score.cost
            if batch.whole and (self.best is None or self._is_better(reward, image, self.best[0])):
                self.best = (image, self.step)
        self.reward_calls += len(images)

    def _is_better(self, reward: Reward, new: ScoredImage, best: ScoredImage) -> bool:
        return is_better(reward, self.task, (new.sample.image, new.score), (best.sample.image, best.score))

    def room(self, drawings: float) -> int:
        """Return how many of the next images fit into this many drawings."""
        asked = self.request.images if isinstance(self.request, ImageBatch) else ()
        tokens = max((self._count_decoded(one) for one in asked), default=self._total)
        return int((drawings * self._total - self._decoded + 1e-6) / max(tokens, 1))

    def record(
        self, batch: ImageBatch, images: Sequence[ScoredImage], finished: Finished | None, notes: Sequence[str] = ()
    ) -> StepRecord:
        """Return the record of a step and begin the next step; a record without images only says why the task ended."""
        assert self.best is not None, "a record follows a whole image"
        best, best_step = self.best
        if self.step < len(self.known):  # it takes no time now, and took some then
            self.started = time.monotonic() - self.known[self.step].seconds
            self._meter.note_earlier(self.spent)
        self.step += 1
        return StepRecord(
            task=self.task,
            index=self.index,
            step=self.step - 1,
            reasoning=batch.images[0].reasoning or Reasoning("", ()),
            images=tuple(image.sample for image in images),
            scores=tuple(image.score for image in images),
            best=best.sample,
            best_score=best.score,
            best_step=best_step,
            drawings_spent=self.drawings_spent,
            tokens_spent=self.tokens_spent,
            reward_calls=self.reward_calls,
            seconds=self.seconds,
            cost=self.cost,
            finished=finished,
            trace=self.trace if images else None,
            notes=(*(self.state.notes if self.step == 1 else ()), *batch.notes, *notes),
        )

    def _count_decoded(self, request: ImageRequest) -> int:
        leading = next((i for i, token in enumerate(request.tokens) if token is None), len(request.tokens))
        return (request.until or self._total) - leading

    def _next_image_stream(self) -> torch.Generator:
        self._images += 1
        return self.open_stream(0, self._images - 1)

    def _next_text_stream(self) -> torch.Generator:
        self._texts += 1
        return self.open_stream(0, self._texts - 1, "text")
