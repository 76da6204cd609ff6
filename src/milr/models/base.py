"""The protocol of a model, and what passes between methods and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from PIL import Image

from milr.decode.kv_cache import CachedPrefix
from milr.settings import SamplingParams, Settings
from milr.types import ImageSample, Reasoning, Task


@dataclass(frozen=True)
class Capabilities:
    """What a model is and can do, known before its weights are loaded."""

    image_size: int
    """Pixels per side."""
    image_tokens: int
    """Tokens per image."""
    width: int
    """d, the width of one latent."""
    latents: Literal["none", "text", "image", "both"]
    """Which hidden states a method may move."""
    passes: Literal[1, 2] = 2
    """1 if the image follows the reasoning in one context, 2 if the image has a prompt of its own."""
    image_language: Literal["natural", "icons"] = "natural"
    """What the model's images show: scenes of any kind, or icons on a ground, which the reward `icons` reads."""
    reads_images: bool = True
    """Whether it answers questions about images, which the reward `self` asks."""


@dataclass(frozen=True)
class TextOutput:
    """A reasoning text and the hidden states that produced it: the answer to a `TextRequest`."""

    reasoning: Reasoning
    tokens: tuple[int, ...]
    """The reasoning's tokens, and the end-of-sequence token if the text ended by itself."""
    hidden: torch.Tensor
    """(T, d) float32: row i produced token i."""


@dataclass(frozen=True)
class ImageOutput:
    """An image and the hidden states that produced its first tokens: the answer to an `ImageRequest`."""

    sample: ImageSample
    hidden: torch.Tensor | None
    """(n, 2, d) float32: conditional and unconditional state of each of the first n tokens; None if the first tokens
    came from latents or were given."""


@dataclass(frozen=True)
class TextPrompt:
    """A prompt for a reasoning text, and its cached keys and values."""

    ids: tuple[int, ...]
    prefix: CachedPrefix


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt for an image, and its cached keys and values with and without the condition."""

    ids: tuple[int, ...]
    conditional: CachedPrefix
    unconditional: CachedPrefix


@dataclass
class TaskState:
    """What a model keeps of one task between calls, so that nothing is computed twice.

    `Model.start` makes one; the fields are the model's to fill.
    """

    task: Task
    text_prompt: TextPrompt | None = None
    """The last prompt for a reasoning text."""
    text: TextOutput | None = None
    """The text that followed it, if it was written greedily."""
    given: int = 0
    """How many of that text's tokens were given, not written."""
    image_prompt: ImagePrompt | None = None
    """The last prompt for an image."""
    image: ImageSample | None = None
    """The last image, with all its tokens: the same tokens decode to the same image."""

    @property
    def bytes(self) -> int:
        """Bytes of cached keys and values; parts that tasks share are counted in each."""
        image = (self.image_prompt.conditional, self.image_prompt.unconditional) if self.image_prompt else ()
        cached = [one for one in (self.text_prompt.prefix if self.text_prompt else None, *image) if one]
        return sum(part.nbytes for one in cached for part in one.parts)


@dataclass(frozen=True)
class TextRequest:
    """One reasoning text to write."""

    state: TaskState
    prefix: Sequence[int] = ()
    """Token ids that the text begins with."""
    offsets: torch.Tensor | None = None
    """(n, d) float32, added to the hidden states of the first n tokens before the text head reads them. The hidden
    states of the answer are the decoder's own. n may be 0."""
    stream: torch.Generator | None = None
    """Sample from a copy of this random stream, at the model's text temperature or 1; None writes greedily."""
    critique: str = ""
    """What was wrong with an earlier image of the task. A model whose prompts have a fixed form ignores it."""


@dataclass(frozen=True)
class ImageRequest:
    """One image to draw."""

    state: TaskState
    reasoning: Reasoning | None
    """None draws from the prompt alone."""
    stream: torch.Generator
    """Where its random numbers begin; it is read from a copy."""
    prefix: torch.Tensor | None = None
    """(n, V) float32 logits of the first n tokens, read from latents; None lets the model begin."""
    tokens: Sequence[int | None] = ()
    """Tokens that are given, in raster order; None, and what follows the last, is sampled. They go before `prefix`."""
    until: int | None = None
    """How many tokens to sample, given ones counted; the image shows them above a flat rest. None samples all."""
    keep_hidden: int = 0
    """How many hidden states of the first tokens to return, if neither prefix nor tokens are given."""


class Model(Protocol):
    """A frozen unified model: it reasons in text and draws images. Batch in, batch out."""

    name: str
    folder: Path
    capabilities: Capabilities
    defaults: Mapping[str, object]
    """Settings, by name, whose best values depend on the model."""
    text_temperature: float
    """Temperature at which it was trained to write its reasoning; 0 takes the likeliest token."""
    reads_free_prompts: bool
    """False if prompts must follow the grammar of `milr.tasks`."""
    deterministic: bool
    """If true, what a task gets never depends on its neighbours in a batch, in half precision too."""

    def settings(self, method: str = "milr", **changes: object) -> Settings:
        """Return a method's settings: the model's defaults with these changes.

        Raises:
            UsageError: No such method or setting, or a value that is not allowed.
        """
        ...

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """Return one state per task; prompts are read when they are first needed."""
        ...

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Write each requested reasoning text after its prefix; greedy and sampled requests may be mixed."""
        ...

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """Return what each token of a reasoning spells; joined, they are its text, except for spaces at its ends."""
        ...

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        """Draw each requested image."""
        ...

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """(n, d) float32 -> (n, V) float32, differentiable."""
        ...

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """(n, 2, d) float32 -> (n, V) float32, guided: u + w (c - u); differentiable."""
        ...

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Return p(yes) of a yes/no question about each image; NaN where the model would say neither yes nor no."""
        ...

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Return a free answer about each image, written greedily, of at most that many tokens."""
        ...
