"""The settings models: method settings, sampling parameters, run settings. They are frozen and refuse unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from milr.settings.choices import OneOf
from milr.settings.strategies import GRADIENTS, NOISES, STRATEGIES
from milr.types import Finished


@dataclass(frozen=True)
class SamplerName:
    """A way to sample an image token; `milr.decode.sampling` implements it."""

    summary: str


SAMPLERS: Mapping[str, SamplerName] = {
    "race": SamplerName("the exponential race: samples what torch.multinomial samples, V random numbers per token"),
    "inverse": SamplerName("the inverse of the distribution function, one random number per token (faster on a CPU)"),
}


LIMITS: Mapping[str, Finished] = {
    "drawings": "out of drawings",
    "seconds": "out of time",
    "reward_calls": "out of reward calls",
    "cost": "out of money",
}
"""Unit of a limit -> reason why tasks end when the limit is reached. `RunSettings` has `max_` and `total_` of each."""
OLD_NAMES: Mapping[str, str] = {"credit": "gradient", "max_rows": "batch_size"}
"""Names of settings in files of milr 0.1 -> their names now."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class SamplingParams(_Frozen):
    """Sampling parameters of the image tokens. Every method reads these."""

    guidance: float = Field(default=5.0, ge=0)
    """Weight w of classifier-free guidance: logits = u + w (c - u)."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the image tokens."""
    top_k: int = Field(default=0, ge=0)
    """Image tokens to choose from at each position: the most probable ones; 0 allows all."""
    sampler: Annotated[str, OneOf("sampler", SAMPLERS)] = "inverse"
    """Method of sampling an image token."""


class RunSettings(_Frozen):
    """Settings of the runner, the same for every method. A limit of None is no limit.

    `max_*` holds for each task, which ends with its best image so far. Drawings and reward calls are checked before a
    batch, so they are never exceeded; seconds and cost are checked after it. `total_*` holds for all tasks together and
    is checked after each batch, so a run may exceed it by the batches in progress. A limit never prevents a task's
    first image.
    """

    seed: int = 0
    """Seed of all random streams."""
    stop_at: float | None = Field(default=None, ge=0, le=1)
    """Stop a task when its reward is above this value; default: the reward's own stop value."""
    batch_size: int = Field(default=16, ge=1)
    """Tasks in progress at once. A finished task gives its place to the next."""
    max_drawings: float | None = Field(default=None, gt=0)
    """Most drawings of each task. A partial drawing counts as its share of the image tokens."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Most seconds of each task, from the start of its first batch."""
    max_reward_calls: int | None = Field(default=None, ge=1)
    """Most images of each task that the reward scores."""
    max_cost: float | None = Field(default=None, gt=0)
    """Most US dollars that each task may cost at paid VLM judges."""
    total_drawings: float | None = Field(default=None, gt=0)
    """Most drawings of all tasks together. When a total is reached, tasks that have not begun are left out."""
    total_seconds: float | None = Field(default=None, gt=0)
    """Most seconds of the whole run."""
    total_reward_calls: int | None = Field(default=None, ge=1)
    """Most images that the reward scores in the whole run."""
    total_cost: float | None = Field(default=None, gt=0)
    """Most US dollars of the whole run at paid VLM judges."""

    def limits(self, scope: Literal["max", "total"]) -> dict[str, float]:
        """Return the limits that are set, by unit, in the order of `LIMITS`."""
        named = {kind: getattr(self, f"{scope}_{kind}") for kind in LIMITS}
        return {kind: limit for kind, limit in named.items() if limit is not None}


class MethodSettings(_Frozen):
    """Base class of a method's settings: subclass it, one field per setting."""

    @property
    def most_drawings(self) -> int:
        """Return the most drawings that the method makes for a task, for cost estimates."""
        return 1


class OneShotSettings(MethodSettings):
    """Settings of `one-shot` and `text-reasoning`: none."""


class StepSettings(MethodSettings):
    """Settings of the methods that spend a budget of K + 1 drawings."""

    steps: int = Field(default=20, ge=0)
    """K: a task makes at most K + 1 drawings (times drawings_per_step, where the method reads it)."""

    @property
    def most_drawings(self) -> int:
        """Return K + 1."""
        return self.steps + 1


class MilrSettings(StepSettings):
    """Settings of `milr`, the paper's search over latents; the defaults are the paper's for Janus-Pro.

    Source: MILR, poster and code (docs/method.md).
    """

    strategy: Annotated[str, OneOf("strategy", STRATEGIES)] = "joint"
    """Schedule that says which latents move at which step."""
    text_ratio: float = Field(default=0.2, ge=0, le=1)
    """The share of text positions that are latents (lambda_t in the paper); 0 moves no text."""
    image_ratio: float = Field(default=0.02, ge=0, le=1)
    """The share of image positions that are latents (lambda_v in the paper); 0 moves no image tokens."""
    learning_rate: float = Field(default=0.03, ge=0)
    """Learning rate of Adam."""
    l2: float = Field(default=0.0, ge=0)
    """Weight of ||z - z0||^2 in the loss."""
    gradient: Annotated[str, OneOf("gradient", GRADIENTS)] = "reward"
    """The gradient, or an ablation of it."""
    noise: Annotated[str, OneOf("noise", NOISES)] = "fresh"
    """Random streams of the images at each step."""
    drawings_per_step: int = Field(default=1, ge=1)
    """M: images that share one update. An image's advantage is its reward minus their mean; R - 1 if all are equal."""

    @property
    def most_drawings(self) -> int:
        """Return (K + 1) M."""
        return (self.steps + 1) * self.drawings_per_step


METHOD_SETTINGS: Mapping[str, type[MethodSettings]] = {
    "one-shot": OneShotSettings,
    "text-reasoning": OneShotSettings,
    "best-of-n": StepSettings,
    "best-of-n-sampled": StepSettings,
    "best-of-n-greedy-first": StepSettings,
    "parm": StepSettings,
    "reflection": StepSettings,
    "milr": MilrSettings,
    "consensus": StepSettings,
    "keep-right": StepSettings,
    "grid-prune": StepSettings,
}
"""Built-in method -> the settings that it reads."""
