"""Recommended settings of diffusers' text-to-image pipelines, as data: one entry a pipeline class.

Sources: the defaults of the pipelines' own signatures in diffusers 0.42 and the checkpoints' cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Arguments of a pipeline class, and the sizes that it can draw."""

    summary: str
    inference_steps: int
    """Denoising steps."""
    guidance: float
    prompt_limit: int | None
    """Tokens of a prompt that its longest text encoder reads."""
    branches: Literal[1, 2] = 2
    guidance_input: bool = False
    licence: str = ""
    patch: int = 1
    """Side of the patches that the pipeline packs before the transformer; the transformer's own is in its config."""
    image_size: int | None = None
    """Pixels a side, where the configs do not give it."""
    multiple: int = 1
    """Number of pixels of which the pipeline's own check asks multiples, whatever its networks could draw."""
    call: Mapping[str, object] = field(default_factory=dict[str, object])
    """Further arguments of a call."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    """Number types in which it draws correctly."""


_AS_TYPED = {"use_resolution_binning": False, "clean_caption": False}
"""Draw the requested size, and read the prompt as typed."""

RECIPES: Mapping[str, Recipe] = {
    "StableDiffusion3Pipeline": Recipe(
        "Stable Diffusion 3 and 3.5 Medium",
        inference_steps=28,
        guidance=7.0,
        prompt_limit=256,
        licence="Stability AI Community License, gated",
        call={"max_sequence_length": 256},
    ),
    "FluxPipeline": Recipe(
        "FLUX.1-dev",
        inference_steps=28,
        guidance=3.5,
        prompt_limit=512,
        branches=1,
        guidance_input=True,
        licence="FLUX.1 [dev] Non-Commercial License, gated",
        patch=2,
        image_size=1024,
        call={"max_sequence_length": 512},
    ),
    "PixArtAlphaPipeline": Recipe(
        "PixArt-alpha",
        inference_steps=20,
        guidance=4.5,
        prompt_limit=120,
        licence="CreativeML Open RAIL++-M",
        call={"max_sequence_length": 120, **_AS_TYPED},
    ),
    "SanaPipeline": Recipe(
        "SANA; its own instruction comes before the prompt",
        inference_steps=20,
        guidance=4.5,
        prompt_limit=300,
        licence="NSCL v2-custom, non-commercial, and Gemma's terms",
        multiple=32,
        call={"max_sequence_length": 300, **_AS_TYPED},
        dtypes=("float32", "bfloat16"),
    ),
}
"""Pipeline class -> recipe."""
OTHER = Recipe("a pipeline without a recipe: the defaults of its class", 0, 1.0, None)
"""The recipe of every other pipeline; 0 steps stand for the default of its class."""
