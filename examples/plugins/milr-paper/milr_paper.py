"""A model without weights: sheets of coloured paper, 8 x 8 tokens. Image latents only, so searches move them.

The state after n tokens is a fixed random mixture of the prompt's words and of the tokens so far; the head is a fixed
random matrix. A real model reads its weights in `__init__`, from a folder that its parameter `argument` names: type
`--model paper:FOLDER`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from milr import ImageSample, Reasoning, SamplingParams, Settings, Task, make_settings
from milr.decode.sampling import sample
from milr.models.base import Capabilities, ImageOutput, ImageRequest, TaskState, TextOutput, TextRequest

SIDE, CELL, WIDTH, COLORS = 8, 16, 12, ("white", "red", "orange", "yellow", "green", "blue", "purple", "black")


class Paper:
    """Coloured paper. Implements `milr.models.base.Model`."""

    name = "paper@1"
    folder = Path()
    capabilities = Capabilities(image_size=SIDE * CELL, image_tokens=SIDE**2, width=WIDTH, latents="image")
    defaults: Mapping[str, object] = {"image_ratio": 0.25, "learning_rate": 0.3, "guidance": 2.0}
    text_temperature = 0.0
    reads_free_prompts = True
    deterministic = True

    def __init__(self, device: str = "cpu") -> None:
        """Make the fixed matrices; everything is small enough for the CPU, so `device` is only kept."""
        self.device = device
        self._head = self._matrix("head", WIDTH, len(COLORS))
        self._tokens = self._matrix("tokens", len(COLORS), WIDTH)
        self._turn = torch.linalg.qr(self._matrix("turn", WIDTH, WIDTH)).Q

    def settings(self, method: str = "milr", **changes: object) -> Settings:
        """Return a method's settings: the model's defaults with these changes."""
        return make_settings(method, changes, self.defaults)

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """Return one state per task."""
        return [TaskState(task) for task in tasks]

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Repeat the prompt: token n is the n-th word's place in it, so that a given beginning stays."""
        found: list[TextOutput] = []
        for request in requests:
            words = request.state.task.prompt.split()
            tokens = (*request.prefix, *range(len(request.prefix), len(words)))
            text = "".join(self.spell(tokens)).strip()
            found.append(TextOutput(Reasoning(text, tokens), tokens, torch.zeros(len(tokens), WIDTH)))
        return found

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """Return what each token spells."""
        return [f" {token + 1}" for token in tokens]

    @torch.inference_mode()
    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        """Draw each requested image."""
        return [self._draw(request, sampling) for request in requests]

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """Refuse: there are no text latents."""
        raise NotImplementedError("capabilities.latents is 'image'")

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """(n, 2, d) float32 -> (n, V) float32, guided: u + w (c - u); differentiable."""
        conditional, unconditional = (latents @ self._head).unbind(1)
        return unconditional + guidance * (conditional - unconditional)

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Say nothing: neither yes nor no."""
        return [math.nan for _ in zip(images, questions, strict=True)]

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Say nothing."""
        return ["" for _ in zip(images, questions, strict=True)]

    def _draw(self, request: ImageRequest, sampling: SamplingParams) -> ImageOutput:
        words = request.state.task.prompt + (request.reasoning.text if request.reasoning else "")
        pair = torch.stack([self._matrix(f"words {words}", 1, WIDTH), self._matrix("words", 1, WIDTH)], 1)  # (1, 2, d)
        added = pair[:0] if request.offsets is None else request.offsets  # (n, 2, d)
        states, tokens, stream = [pair[:0]], list[int](), request.stream.clone_state()
        while len(tokens) < (request.until or SIDE**2):
            place = len(tokens)
            if request.prefix is not None and place < len(request.prefix):
                logits = request.prefix[place][None]
            else:
                moved = pair + added[place] if place < len(added) else pair
                logits = self.image_logits(moved, sampling.guidance)
            own = int(sample(logits, [stream], sampling.temperature, sampling.sampler, sampling.top_k))
            given = request.tokens[place] if place < len(request.tokens) else None
            tokens.append(own if given is None else given)
            states += [pair] if place < request.keep_hidden else []
            pair = torch.tanh(pair @ self._turn + self._tokens[tokens[-1]])
        image = Image.new("RGB", (SIDE, SIDE))
        for place, token in enumerate(tokens):
            image.paste(COLORS[token], (place % SIDE, place // SIDE, place % SIDE + 1, place // SIDE + 1))
        whole = image.resize((SIDE * CELL, SIDE * CELL), Image.Resampling.NEAREST)
        hidden = torch.cat(states) if request.prefix is None and not request.tokens else None
        return ImageOutput(ImageSample(tuple(tokens), whole), hidden)

    @staticmethod
    def _matrix(name: str, rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
