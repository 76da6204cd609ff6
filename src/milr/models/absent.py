"""Gaps of a model: settings that nothing of it would read, and calls that its capabilities exclude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from PIL import Image

from milr.errors import UsageError
from milr.models.base import Capabilities, TextOutput, TextRequest


class DrawsOnly:
    """Base class of a model that writes no text and reads no images: it refuses the calls that ask for either.

    Methods never make them, since the capabilities exclude them.
    """

    name: str

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Refuse: the model writes no text."""
        self._refuse("writes no text")

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """Refuse: the model writes no text."""
        self._refuse("writes no text")

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """Refuse: the model writes no text."""
        self._refuse("writes no text")

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Refuse: the model reads no images."""
        self._refuse("reads no images")

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Refuse: the model reads no images."""
        self._refuse("reads no images")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(f"{self.name} {what}: milr info --model NAME says what a model can do; take another for this")


def check_latents(given: Mapping[str, object], able: Capabilities) -> None:
    """Refuse ratios of absent latents, guidance without a branch for it, and sampling parameters of no tokens.

    Args:
        given: The user's settings, by name; defaults are not refused.
        able: The model's capabilities.

    Raises:
        UsageError: A given ratio is above zero, and the model has no such latents; the guidance is not 1, and the model
            has one branch; or it has no image tokens, and their temperature or sampler is given.
    """
    for name in ("text", "image"):
        ratio = given.get(f"{name}_ratio")
        if ratio and not able.has_latents(name):
            raise UsageError(
                f"{name}_ratio {ratio}: this model has no {name} latents (but: {able.latents}); leave "
                f"{name}_ratio out or set it to 0"
            )
    guidance = given.get("guidance", 1)
    if guidance != 1 and not able.takes_guidance:
        raise UsageError(
            f"guidance {guidance}: this model has no branch without the prompt, so 1 is its only guidance; leave it out"
        )
    for name in ("temperature", "top_k", "sampler"):
        if name in given and not able.image_tokens:
            raise UsageError(f"{name} {given[name]}: this model samples no image tokens; leave it out")
