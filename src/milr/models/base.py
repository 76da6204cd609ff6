"""The protocol of a model, and what passes between model and search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from PIL import Image

from milr.decode.kv_cache import CachedPrefix
from milr.types import ImageSample, Reasoning, Task


@dataclass(frozen=True)
class Capabilities:
    """What a model is and can, known before any search begins."""

    picture_size: int
    """Pixels a side."""
    image_tokens: int
    """Tokens a drawing."""
    width: int
    """d, of one latent."""
    latents: Literal["none", "text", "image", "both"]
    """Which hidden states a search may move."""
    passes: Literal[1, 2] = 2
    """1 where the image follows the reasoning in one context, 2 where the drawing has a prompt of its own."""


@dataclass(frozen=True)
class TextOutput:
    """A reasoning and the hidden states behind it."""

    reasoning: Reasoning
    written: tuple[int, ...]
    """The reasoning's tokens, and the end-of-sequence token where the text ended by itself."""
    hidden: torch.Tensor
    """(T, d) float32: row i produced written token i."""


@dataclass(frozen=True)
class ImageOutput:
    """A drawing and the hidden states behind its first tokens."""

    drawing: ImageSample
    hidden: torch.Tensor | None
    """(n, 2, d) float32: conditional and unconditional state behind each of the first n tokens; None where the first
    tokens came from latents or were given."""


@dataclass(frozen=True)
class TextPrompt:
    """A prompt that asks for a reasoning, as it was read."""

    ids: tuple[int, ...]
    kept: CachedPrefix


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt that asks for a drawing, as it was read."""

    ids: tuple[int, ...]
    conditional: CachedPrefix
    unconditional: CachedPrefix


@dataclass
class TaskState:
    """A task under way, with what its model has read and written of it: what is kept here is not done again.

    `Model.start` makes one; the memory is the row's and goes with it. The fields are the model's to fill.
    """

    task: Task
    asked: TextPrompt | None = None
    """The last prompt that asked for a reasoning."""
    thought: TextOutput | None = None
    """What was written behind it, where it was written greedily."""
    forced: int = 0
    """How many of its tokens were given, not written."""
    told: ImagePrompt | None = None
    """The last prompt that asked for a drawing."""
    drawn: ImageSample | None = None
    """The last drawing, with as many tokens as a whole one has: the same tokens show the same picture."""

    @property
    def bytes(self) -> int:
        """Of keys and values that are kept; parts that rows share are counted in each."""
        told = (self.told.conditional, self.told.unconditional) if self.told else ()
        kept = [one for one in (self.asked.kept if self.asked else None, *told) if one]
        return sum(part.nbytes for one in kept for part in one.parts)


@dataclass(frozen=True)
class ImageRequest:
    """One drawing to make."""

    row: TaskState
    reasoning: Reasoning | None
    """None draws from the prompt alone."""
    stream: torch.Generator
    """Where its random numbers begin; it is read from a copy."""
    prefix: torch.Tensor | None = None
    """(n, V) float32 logits of the first n tokens, read from latents; None lets the model begin."""
    tokens: Sequence[int | None] = ()
    """Tokens that are given, in raster order; None, and what is behind the last, is drawn. They go before `prefix`."""
    until: int | None = None
    """How many tokens to draw, given ones counted; the picture shows them above a flat rest. None draws all."""


class Model(Protocol):
    """A frozen unified model: it reasons in text and draws images. Batch in, batch out."""

    name: str
    folder: Path
    capabilities: Capabilities
    search_defaults: Mapping[str, object]
    """Fields of `SearchConfig` that depend on the model's size."""
    text_temperature: float
    """At which it was taught to write its reasoning; 0 takes the likeliest token."""
    reads_free_prompts: bool
    """False where prompts must follow the grammar of `milr.tasks`."""

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """A row a task: the model's memory of it, for as long as the row lives."""
        ...

    def reason(
        self,
        rows: Sequence[TaskState],
        prefixes: Sequence[Sequence[int]],
        *,
        offsets: Sequence[torch.Tensor] | None = None,
        streams: Sequence[torch.Generator] | None = None,
        temperature: float = 1.0,
        critiques: Sequence[str] | None = None,
    ) -> list[TextOutput]:
        """Write each row's reasoning behind its prefix of token ids (which may be empty).

        Args:
            rows: From `start`.
            prefixes: One a row.
            offsets: (n, d) float32 a row: added to the states behind the first n tokens before the head reads them. The
                states that come back are the decoder's own. n may be 0; None adds nothing anywhere.
            streams: One a row: sample from a copy of it at that temperature; None writes greedily.
            temperature: Above 0.
            critiques: One a row: what was wrong with an earlier picture of it, or nothing. A model whose prompts have
                a fixed form writes as if there were none.
        """
        ...

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """What each token of a reasoning spells; joined, they are its text, but for spaces at its ends."""
        ...

    def draw(
        self, requests: Sequence[ImageRequest], *, guidance: float, temperature: float, keep: int, sampler: str = "race"
    ) -> list[ImageOutput]:
        """Draw each request; the first ``keep`` tokens' hidden states come back where neither prefix nor tokens are.

        ``sampler`` is one of `milr.decode.sampling.SAMPLERS`.
        """
        ...

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """(n, d) float32 -> (n, V) float32, differentiable."""
        ...

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """(n, 2, d) float32 -> (n, V) float32, guided: u + w (c - u); differentiable."""
        ...

    def answer(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """p(yes) of a yes/no question about each picture."""
        ...

    def reply(self, pictures: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """A free answer about each picture, written greedily, of at most that many tokens."""
        ...
