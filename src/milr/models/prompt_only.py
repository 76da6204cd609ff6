"""The part that models share which draw from the prompt alone: no text, no latents, no answers about images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from PIL import Image

from milr.models.base import Capabilities, TaskState, TextOutput, TextRequest
from milr.settings import Settings, make_settings
from milr.types import Task


class PromptOnly:
    """Base class of such a model: it needs `draw`. Requests that the capabilities exclude never come."""

    best: Mapping[str, str] = {"method": "best-of-n"}
    """The method of those who name none."""
    reads_free_prompts = True
    text_temperature = 0.0
    deterministic = True
    capabilities: Capabilities
    defaults: Mapping[str, object]

    def settings(self, method: str = "best-of-n", **changes: object) -> Settings:
        """Return a method's settings: the model's defaults with these changes."""
        return make_settings(method, changes, self.defaults)

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """Return one state per task; nothing is computed."""
        return [TaskState(task) for task in tasks]

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Raise an error: it writes no text."""
        self._refuse("writes_text is False")

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """Raise an error: it writes no text."""
        self._refuse("writes_text is False")

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """Raise an error: it has no latents."""
        self._refuse("latents is 'none'")

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """Raise an error: it has no latents."""
        self._refuse("latents is 'none'")

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Raise an error: it reads no images."""
        self._refuse("reads_images is False")

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Raise an error: it reads no images."""
        self._refuse("reads_images is False")

    def _refuse(self, why: str) -> NoReturn:
        raise NotImplementedError(f"of this model's capabilities, {why}")
