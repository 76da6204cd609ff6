"""Drawing of images token by token, which families share: image tokens sampled under guidance, then decoded.

A family adds its prompts' cached prefixes, its head and its image decoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isqrt

import torch
from PIL import Image

from milr.decode.batching import fitting, work_in_batches
from milr.decode.engine import Counts, Engine
from milr.decode.loop import DecodeLoop, LoopRequest
from milr.decode.partial import fill_rest
from milr.decode.side_stream import Side
from milr.decode.tensors import split_rows, to_integers
from milr.models.base import Capabilities, ImageOutput, ImagePrompt, ImageRequest, TaskState
from milr.models.heads import ImageHead
from milr.models.leads import sample_leads
from milr.models.optional import BegunDrawing, OnRows
from milr.settings import SamplingParams, Settings, make_settings
from milr.types import ImageSample, Task

_PIXELS_AT_ONCE = 512 * 512  # the image decoder and the vision tower need far more memory per image than tokens do
_BYTES_PER_PIXEL = 4096  # of an image decoder: eight float32 tensors of 128 channels
_MOST_AT_ONCE = 16  # images that the image decoder gets at once on a device with memory for more


@dataclass(frozen=True)
class BegunImage:
    """An image whose first tokens, which need no decoder, are known."""

    request: ImageRequest
    lead: torch.Tensor
    """(n,) int64."""
    stream: torch.Generator
    """Random stream, advanced past the lead."""
    prompt: ImagePrompt


class TokenDrawing(ABC):
    """The part of a model that draws. A subclass sets the attributes and implements the abstract methods."""

    capabilities: Capabilities
    defaults: Mapping[str, object]
    device: torch.device
    engine: Engine
    on_rows: OnRows | None = None
    """See `milr.models.optional.Watchable`."""
    deterministic: bool
    side: Side
    """The place where the device computes pixels."""

    @abstractmethod
    def _read_image_prompts(self, requests: Sequence[ImageRequest]) -> list[ImagePrompt]:
        """Return each request's prompt with its cached prefixes, and store it in the request's state."""

    @abstractmethod
    def _image_head(self, guidance: torch.Tensor | float, *, rows: int = 2) -> ImageHead:
        """Return the head of image tokens: see `milr.models.heads.ImageHead`."""

    @abstractmethod
    def _decode_pixels(self, tokens: torch.Tensor) -> torch.Tensor:
        """Decode the tokens of whole images, (B, V) int64, to 8-bit RGB: (B, H, W, 3), on the model's device."""

    @property
    def _images_at_once(self) -> int:
        """Return the number of images that the image decoder gets at once; with fixed shapes, each goes alone."""
        if self.deterministic:
            return 1
        pixels = self.capabilities.image_size**2
        if self.device.type == "cuda" and (fits := fitting(_BYTES_PER_PIXEL * pixels, self.device)):
            return min(fits, _MOST_AT_ONCE)
        return max(1, _PIXELS_AT_ONCE // pixels)

    @property
    def counts(self) -> Counts:
        """Return the counts of decoding since the model was loaded."""
        return self.engine.counts

    def settings(self, method: str = "milr", **changes: object) -> Settings:
        """Return a method's settings: the model's defaults with these changes."""
        return make_settings(method, changes, self.defaults)

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """Return one state per task; prompts are prefilled when they are first needed."""
        return [TaskState(task) for task in tasks]

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        """Draw each requested image: sample image tokens under guidance, then decode them."""
        return self.begin_draw(requests, sampling).wait()

    @torch.inference_mode()
    def begin_draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> BegunDrawing:
        """Sample the tokens of each requested image, and begin to decode them to pixels.

        Until the images are waited for, their states must not be drawn from again.
        """
        sampled = self.sample_tokens(requests, sampling)
        whole = self.capabilities.image_tokens
        done, wait = self._begin_images(
            [request.state for request in requests], [fill_rest(tokens, whole) for tokens, _ in sampled]
        )

        def finish() -> list[ImageOutput]:
            return [
                ImageOutput(
                    ImageSample(tuple(tokens), image), None if request.prefix is not None or request.tokens else hidden
                )
                for request, (tokens, hidden), image in zip(requests, sampled, wait(), strict=True)
            ]

        return BegunDrawing(done, finish)

    @torch.inference_mode()
    def sample_tokens(
        self, requests: Sequence[ImageRequest], sampling: SamplingParams
    ) -> list[tuple[list[int], torch.Tensor]]:
        """Sample each image's tokens; return them and the hidden states (n, 2, d) that produced the first sampled ones.

        Position i of an image uses the i-th numbers of its stream, whether its token comes from latents, the decoder or
        the request: equal logits and an equal stream give equal tokens. A cached prompt is not prefilled again.
        """
        streams = [request.stream.clone_state() for request in requests]
        totals = [self._total(request) for request in requests]
        leads = sample_leads(requests, totals, streams, sampling, self._image_head(1.0, rows=1).vocabulary, self.device)
        begun = list(zip(requests, leads, streams, strict=True))
        known = [place for place, total in enumerate(totals) if len(leads[place]) == total]
        open_ = [place for place in range(len(requests)) if place not in set(known)]
        prompts = self._read_image_prompts([requests[place] for place in open_])
        decoded = self.engine.in_batches(
            [BegunImage(*begun[place], prompt) for place, prompt in zip(open_, prompts, strict=True)],
            lambda batch: self._draw(batch, sampling),
            rows=2,
            loops=True,
            tokens=lambda one: len(one.prompt.ids) + self._total(one.request),
            shape=lambda one: (len(one.prompt.ids), len(one.lead)),
        )
        found = dict(zip(open_, decoded, strict=True))
        nothing = torch.zeros(0, 2, self.capabilities.width, device=self.device)
        lengths = [len(leads[place]) for place in known]
        if known:
            ended = iter(to_integers(torch.cat([leads[place] for place in known])))
            found |= {place: (list(islice(ended, n)), nothing) for place, n in zip(known, lengths, strict=True)}
        return [found[place] for place in range(len(requests))]

    def _draw(self, batch: Sequence[BegunImage], sampling: SamplingParams) -> list[tuple[list[int], torch.Tensor]]:
        """Return image tokens, and the hidden states (n, 2, d) that produced the first of them."""
        totals = [self._total(one.request) for one in batch]
        leads = [one.lead for one in batch]
        keep = max(one.request.keep_hidden for one in batch)
        # each image's conditional row, then its unconditional one, which guidance 1 does not need
        moved = any(one.request.offsets is not None for one in batch)
        paired = 1 if sampling.guidance == 1 and not keep and not moved else 2
        prefixes = [prefix for one in batch for prefix in (one.prompt.conditional, one.prompt.unconditional)[:paired]]
        steps = max(total - len(lead) for total, lead in zip(totals, leads, strict=True))
        rows = self.engine.open(prefixes, max(map(len, leads)), steps)
        guidance = rows.buffers.take("guidance", (1,), torch.float32).fill_(sampling.guidance)
        head = self._image_head(guidance, rows=paired)
        if any(map(len, leads)):
            embedded = self._image_head(1.0, rows=1).embed(torch.cat(leads))
            read = split_rows(embedded, [len(lead) for lead in leads])
            rows.prefill([row for row in read for _ in range(paired)])
        loop = DecodeLoop(
            rows,
            head,
            LoopRequest(
                steps,
                leads,
                streams=[one.stream.clone_state() for one in batch],
                temperature=sampling.temperature,
                sampler=sampling.sampler,
                top_k=sampling.top_k,
                given=[one.request.tokens for one in batch],
                offsets=[one.request.offsets for one in batch],
                keep=min(keep, steps),
            ),
        )
        loop.run(self._watch(batch, loop) if self.on_rows else None)
        hidden = loop.read_hidden()  # (B, n, 2, d)
        if hidden is None:
            hidden = torch.zeros(len(batch), 0, 2, self.capabilities.width, device=self.device)
        return [
            (tokens[:total], own[: one.request.keep_hidden])
            for one, tokens, total, own in zip(batch, loop.read_tokens(), totals, hidden, strict=True)
        ]

    def _watch(self, batch: Sequence[BegunImage], loop: DecodeLoop) -> Callable[[int], None]:
        """Return the callback that passes every new row to a watcher."""
        width = isqrt(self.capabilities.image_tokens)

        def tell(steps: int) -> None:
            if self.on_rows is not None and steps % width == 0:
                self.on_rows([one.request for one in batch], lambda: loop.read_begun(steps))

        return tell

    def release_memory(self) -> None:
        """Give back the caches and recordings of earlier drawings (see `milr.models.optional.Releasing`)."""
        self.engine.buffers.drop()

    def show_tokens(self, tokens: Sequence[int]) -> Image.Image:
        """Decode the first tokens of an image; a flat rest follows them."""
        with torch.inference_mode():
            (image,) = to_images(self._decode_all([fill_rest(tokens, self.capabilities.image_tokens)]).cpu())
        return image

    def _total(self, request: ImageRequest) -> int:
        return request.until or self.capabilities.image_tokens

    def _begin_images(
        self, states: Sequence[TaskState], samples: Sequence[tuple[int, ...]]
    ) -> tuple[Callable[[], bool], Callable[[], list[Image.Image]]]:
        """Begin to decode image tokens to images; reuse the row's last image if the tokens are unchanged."""
        known = {state.image.tokens: state.image.image for state in states if state.image}
        new = list(dict.fromkeys(tokens for tokens in samples if tokens not in known))
        # no loop runs now, so memory may be released
        pending = self.side.begin(lambda: self._decode_all(new, self.release_memory)) if new else None

        def finish() -> list[Image.Image]:
            if pending is not None:
                known.update(zip(new, to_images(pending.wait()), strict=True))
            for state, tokens in zip(states, samples, strict=True):
                state.image = ImageSample(tokens, known[tokens])
            return [known[tokens] for tokens in samples]

        return (pending.done if pending else lambda: True), finish

    def _decode_all(
        self, samples: Sequence[Sequence[int]], free_memory: Callable[[], None] | None = None
    ) -> torch.Tensor:
        """Decode the tokens of whole images in batches that fit; (B, H, W, 3) uint8, on the device.

        In float32 each image goes alone: then no level depends on the other images. On a CPU it is as fast; on a GPU,
        where float32 is chosen for exact numbers, it was not measured.
        """
        alone = self.engine.decoder.like.dtype == torch.float32
        tokens = torch.tensor(samples).to(self.device)  # all at once: a copy may wait for what runs before it
        found, _ = work_in_batches(
            range(len(samples)),
            lambda part: self._decode_pixels(tokens[part[0] : part[-1] + 1]).unbind(),
            1 if alone else self._images_at_once,
            free_memory=free_memory,
        )
        return torch.stack(found)


def to_levels(pixels: torch.Tensor, *, rounded: bool = False) -> torch.Tensor:
    """Return pixels in [-1, 1] as 8-bit levels, uint8 of the same shape.

    Args:
        pixels: Others are cut off.
        rounded: Round levels, as torchvision does for LlamaGen; else truncate them, as DeepSeek's own code does
            (deepseek-ai/Janus, generation_inference.py).
    """
    levels = (pixels.float() + 1) / 2 * 255 + (0.5 if rounded else 0)
    return levels.clamp(0, 255).to(torch.uint8)


def to_images(levels: torch.Tensor) -> list[Image.Image]:
    """Return the images of (B, H, W, 3) uint8 levels on the CPU."""
    return [Image.fromarray(image) for image in levels.numpy()]
