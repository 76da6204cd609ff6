"""The part that models share which draw from the prompt alone: no text, no latents, no answers about images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from milr.models.absent import DrawsOnly
from milr.models.base import Capabilities, TaskState
from milr.settings import Settings, make_settings
from milr.types import Task


class PromptOnly(DrawsOnly):
    """Base class of such a model: it needs `draw`."""

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

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """Refuse: the model has no latents."""
        self._refuse("has no latents")
