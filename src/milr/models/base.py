"""The protocol of a model, and the data that methods and models exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from PIL import Image

from milr.decode.kv_cache import CachedPrefix
from milr.settings import SamplingParams, Settings
from milr.types import ImageSample, Reasoning, Task


@dataclass(frozen=True)
class Capabilities:
    """A model's properties and abilities, known before its weights are loaded."""

    image_size: int
    """Pixels of an image's width; of its height too, unless `image_height` says otherwise."""
    image_tokens: int
    """Tokens per image that the model chooses: forced ones, such as ends of lines, are neither counted nor kept nor
    given. 0 if an image is not made of tokens, so that none can be begun, given or left unfinished."""
    width: int
    """d, the width of one latent; 0 if there are no latents."""
    latents: Literal["none", "text", "image", "both"]
    """The hidden states that a method may move."""
    passes: Literal[1, 2] = 2
    """1 if the image follows the reasoning in one context, 2 if the image has a prompt of its own."""
    image_language: Literal["natural", "icons"] = "natural"
    """Content of the model's images: any scenes, or icons on a ground, which the reward `icons` reads."""
    reads_images: bool = True
    """True if it answers questions about images, as the reward `self` needs."""
    writes_text: bool = True
    """False if it draws from the prompt alone: it is never asked for a reasoning text."""
    image_height: int | None = None
    """Pixels of an image's height; None if the image is a square."""
    noise_shape: tuple[int, ...] = ()
    """Shape of the random numbers that an image starts from; () if it is sampled token by token, or elsewhere."""
    image_cost: float = 0.0
    """Estimated US dollars that an image costs at a service; 0 if it is drawn here, free, or of unknown price."""
    branches: Literal[1, 2] = 2
    """Rows that guidance needs for an image: 2 with an unconditional one, 1 if the model has none."""
    guidance_input: bool = False
    """True if a model of one branch reads the weight of guidance as an input, as FLUX.1-dev does. One that does not
    allows a guidance of 1 only."""
    prompt_limit: int | None = None
    """Length of the longest prompt that is read whole; None if the context alone limits it."""
    prompt_unit: Literal["tokens", "characters"] = "tokens"
    """Unit of `prompt_limit`."""
    image_bytes: int = 0
    """Bytes of memory of one image in progress, beside the weights, in half precision; computed, an estimate. 0 if it
    is drawn elsewhere."""
    repeatable: bool = True
    """False if an equal request may give another image, as at services without seeds."""
    family: str = ""
    """The family's name, as `milr info` lists it."""
    licence: str = ""
    """Note on the licence of the weights; "" if unknown."""
    verification: str = ""
    """The test of its agreement with the authors' code; "" if it was not: the model is *unverified*."""

    def __post_init__(self) -> None:
        """Refuse capabilities that contradict each other."""
        if self.latents in ("image", "both") and not self.image_tokens:
            raise ValueError("image latents need image tokens: give image_tokens, or other latents")
        if self.latents in ("text", "both") and not self.writes_text:
            raise ValueError("text latents need a model that writes text: set writes_text, or other latents")

    @property
    def dimensions(self) -> tuple[int, int]:
        """Return an image's width and height in pixels."""
        return self.image_size, self.image_height or self.image_size

    def has_latents(self, modality: str) -> bool:
        """Return true if the model has latents of that modality, "text" or "image"."""
        return self.latents in (modality, "both")

    @property
    def takes_guidance(self) -> bool:
        """Return true if the weight of guidance may be another than 1."""
        return self.branches == 2 or self.guidance_input


@dataclass(frozen=True)
class ModelSize:
    """A model's memory, as numbers of weights and activations, from its config alone."""

    parameters: Mapping[str, int]
    """Part of the network -> number of its weights."""
    prompt_tokens: int = 0
    """Tokens assumed for a prompt and its template."""
    reasoning_tokens: int = 0
    """Most tokens of a reasoning text."""
    numbers_per_token: int = 0
    """Keys and values of one token in all layers; 0 without a KV cache."""
    numbers_per_image: int = 0
    """Largest intermediate results of one image in progress, for models without a KV cache."""
    int8_weights: int = 0
    """Weights that dtype "int8" stores in one byte each; 0 if the model has no int8."""
    read_per_token: int = 0
    """Weights that a decode step reads for one image token; 0 if images are not decoded token by token."""

    def image_bytes(self, able: Capabilities, item: int) -> int:
        """Return the bytes of one image in progress: its cached tokens, or its activations, and its latents.

        Args:
            able: The model's capabilities; `Capabilities.image_bytes` is not read.
            item: Bytes of a number of the network.
        """
        # rows in progress, the image's prompt, and the prompt that asks for the text; prompts stay between steps
        tokens = able.branches * self.context(able) + self.prompt_tokens + self.reasoning_tokens
        tokens += self.prompt_tokens if self.reasoning_tokens else 0
        return item * (tokens * self.numbers_per_token + self.numbers_per_image) + self.latent_bytes(able)

    def context(self, able: Capabilities) -> int:
        """Return the longest context in tokens: prompt, reasoning and image in one."""
        return self.prompt_tokens + self.reasoning_tokens + able.image_tokens

    def latent_bytes(self, able: Capabilities) -> int:
        """Return the bytes of one task's latents, if all text and image positions were latents."""
        text = self.reasoning_tokens if able.has_latents("text") else 0
        image = able.branches * able.image_tokens if able.has_latents("image") else 0
        return _LATENT_COPIES * _FLOAT32_BYTES * able.width * (text + image)


_LATENT_COPIES = 5  # of each latent: current, initial, gradient, and Adam's two moments
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Description:
    """Everything that is known about a model before its weights are loaded."""

    capabilities: Capabilities
    defaults: Mapping[str, object]
    """Settings whose best values depend on the model, by name."""
    profile: str
    """Name of its prompt profile or recipe."""
    summary: str
    """The profile in a few words."""
    size: ModelSize | None
    """None if it computes elsewhere."""
    reads_free_prompts: bool = True
    """False if prompts must follow the grammar of `milr.tasks`."""
    best: Mapping[str, str] = field(default_factory=dict[str, str])
    """The best measured method, and its strategy if it has one; {} means the paper's, or the first that works."""


@dataclass(frozen=True)
class TextOutput:
    """A reasoning text and the hidden states that produced it: the answer to a `TextRequest`."""

    reasoning: Reasoning
    tokens: tuple[int, ...]
    """The reasoning's tokens; the last one is the end-of-sequence token if the model ended the text."""
    hidden: torch.Tensor
    """(T, d) float32: row i produced token i."""


@dataclass(frozen=True)
class ImageOutput:
    """An image and the hidden states that produced its first tokens: the answer to an `ImageRequest`."""

    sample: ImageSample
    hidden: torch.Tensor | None
    """(n, branches, d) float32: conditional and unconditional state of each of the first n tokens that the model chose
    itself; None if the first tokens came from latents or were given. Positions without a choice are left out."""
    fault: str = ""
    """Reason why nothing was drawn, in one line: the image is blank then, and is never scored."""
    final: bool = False
    """True if nothing can be drawn any more, after a refused key for instance. The search ends with its best image."""
    cost: float = 0.0
    """US dollars that it cost at a service."""


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
    """The model's cached state of one task, so that nothing is computed twice.

    `Model.start` makes it; only the model fills the fields, and the runner reads `notes`.
    """

    task: Task
    text_prompt: TextPrompt | None = None
    """The last prompt for a reasoning text."""
    text: TextOutput | None = None
    """The text after that prompt, if it was written greedily."""
    given: int = 0
    """Number of that text's tokens that were given, not decoded."""
    image_prompt: ImagePrompt | None = None
    """The last prompt for an image."""
    image: ImageSample | None = None
    """The last image with all its tokens, to be reused if the tokens are unchanged."""
    notes: tuple[str, ...] = ()
    """Notes for the user in the record of the task's first step: that its prompt is cut, for instance."""

    @property
    def bytes(self) -> int:
        """Return the bytes of cached keys and values; parts that tasks share are counted in each task."""
        image = (self.image_prompt.conditional, self.image_prompt.unconditional) if self.image_prompt else ()
        cached = [one for one in (self.text_prompt.prefix if self.text_prompt else None, *image) if one]
        return sum(part.nbytes for one in cached for part in one.parts)


@dataclass(frozen=True)
class TextRequest:
    """A request for one reasoning text."""

    state: TaskState
    prefix: Sequence[int] = ()
    """Token ids at the beginning of the text."""
    offsets: torch.Tensor | None = None
    """(n, d) float32, added to the hidden states of the first n tokens before the text head reads them. The hidden
    states of the answer are the decoder's own. n may be 0."""
    stream: torch.Generator | None = None
    """Sample from a copy of this random stream, at the model's text temperature or 1; None writes greedily."""
    critique: str = ""
    """Faults of an earlier image of the task. A model whose prompts have a fixed form ignores it."""


@dataclass(frozen=True)
class ImageRequest:
    """A request for one image."""

    state: TaskState
    reasoning: Reasoning | None
    """The text that the image follows; None draws from the prompt alone."""
    stream: torch.Generator
    """Random stream of its tokens, or of its start noise. The model advances a copy. A second random process, such as a
    diffusion decoder's, takes its numbers from `milr.decode.sampling.derive_stream` of this stream."""
    prefix: torch.Tensor | None = None
    """(n, V) float32 logits of the first n tokens, computed from latents; None computes all logits in the decoder."""
    tokens: Sequence[int | None] = ()
    """Given tokens, in raster order; None, and all tokens after the last, are sampled. They override `prefix`."""
    until: int | None = None
    """Number of tokens to sample, given ones included; the image shows a flat rest after them. None samples all."""
    keep_hidden: int = 0
    """Number of first tokens whose hidden states are returned, if neither prefix nor tokens are given."""
    offsets: torch.Tensor | None = None
    """(n, branches, d) float32, added to the hidden states of the first n tokens before the image head reads them. The
    hidden states of the answer are the decoder's own. n may be 0. It is not given together with `prefix`."""


class Model(Protocol):
    """The protocol of a frozen unified model: it writes reasoning texts and draws images. Batch in, batch out.

    A model from outside is a class, or a function that makes one. `milr.load_model` calls it with those of
    these that its parameters name: ``argument`` (what follows the name's colon, as in ``mine:FOLDER``, or None),
    ``device``, ``dtype`` (None leaves the choice to the model), ``profile``, ``deterministic``, ``graphs``. Every other
    parameter needs a default value.

    The class, before it makes anything, must declare ``capabilities``: `Capabilities`, from which rewards, latents and
    costs are checked before any weights are read. It may declare ``reads_free_prompts`` (default True). Where these
    depend on the argument, it has a static method ``describe(argument, *, offline) -> Description`` in their place,
    which reads small files alone.

    A model with latents "image" is never asked for `text_logits`, one with "text" never for `image_logits` of latents,
    and one with "none" for neither. One without `Capabilities.reads_images` is never asked `answer` or `reply`, one
    without `Capabilities.writes_text` never `reason` or `spell`, and one without image tokens gets no prefix, no given
    tokens and no `until`. `milr.testing.contracts.check_model` checks all of this.
    """

    name: str
    folder: Path
    capabilities: Capabilities
    defaults: Mapping[str, object]
    """Settings whose best values depend on the model, by name."""
    text_temperature: float
    """Temperature at which the model was trained to write its reasoning; 0 means greedy."""
    reads_free_prompts: bool
    """False if prompts must follow the grammar of `milr.tasks`."""
    deterministic: bool
    """If true, a task's results never depend on its neighbours in a batch, in half precision too."""

    def settings(self, method: str = "milr", **changes: object) -> Settings:
        """Return a method's settings: the model's defaults with these changes.

        Raises:
            UsageError: No such method or setting, or a value that is not allowed.
        """
        ...

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """Return one state per task; prompts are prefilled when they are first needed."""
        ...

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Write each requested reasoning text after its prefix; greedy and sampled requests may be mixed."""
        ...

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """Return the characters of each token of a reasoning; joined, they are its text but for outer spaces."""
        ...

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        """Draw each requested image."""
        ...

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """Map (n, d) float32 to (n, V) float32 logits; differentiable."""
        ...

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """Map (n, branches, d) float32 to (n, V) float32 guided logits u + w (c - u); differentiable."""
        ...

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Return p(yes) of a yes/no question about each image; NaN if the model would answer neither yes nor no."""
        ...

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Return a free answer about each image, decoded greedily, of at most that many tokens."""
        ...
