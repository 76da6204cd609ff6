"""The settings of a search: frozen, unknown keys refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

StrategyName = Literal["joint", "alt", "t2v", "steer"]
Credit = Literal["reward", "zero", "random", "negated"]
Noise = Literal["fresh", "fixed"]
Sampler = Literal["race", "inverse"]


class SearchConfig(BaseModel):
    """Settings of `milr.search`; the defaults are the paper's for Janus-Pro (see docs/method.md).

    A model may bring its own defaults for what depends on its size: ``SearchConfig(**model.search_defaults)``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: StrategyName = "joint"
    steps: int = Field(default=20, ge=0)
    """K, the updates after the first picture."""
    text_ratio: float = Field(default=0.2, ge=0, le=1)
    """Lambda_t: the share of text positions that are latents; 0 does not move text."""
    image_ratio: float = Field(default=0.02, ge=0, le=1)
    """Lambda_v: the share of image positions that are latents; 0 does not move the image."""
    learning_rate: float = Field(default=0.03, ge=0)
    """Adam's."""
    l2: float = Field(default=0.0, ge=0)
    """Weight of ||z - z0||^2 in the loss."""
    stop_at: float | None = Field(default=None, ge=0, le=1)
    """Stop when the reward is strictly above; None takes each score's own, its paper's."""
    credit: Credit = "reward"
    """What weighs the gradient: the reward, nothing, a random direction of the same size, or the negated reward."""
    noise: Noise = "fresh"
    """Random streams of the drawings: new ones each step, or step 0's again."""
    drawings_per_step: int = Field(default=1, ge=1)
    """M: each drawing's reward minus their mean is its credit; where all are equal, R - 1."""
    guidance: float = Field(default=5.0, ge=0)
    """w of logits = u + w (c - u)."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the image tokens."""
    sampler: Sampler = "race"
    """How an image token is drawn: as `torch.multinomial` draws it, or from one number (faster on a CPU)."""
    seed: int = 0
    max_rows: int = Field(default=16, ge=1)
    """Tasks that are searched at once; a finished one gives its place to the next."""
