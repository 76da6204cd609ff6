"""A tiny icon world for the tests of training: random icons and tokens, a tokenizer, feeders and a model."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerBase

from milr.tasks import OBJECT_NAMES
from training.codebook import TINTS
from training.feeder import Feeder
from training.grounds import CODES, GRID
from training.model import build_config
from training.prompt_lists import read_forbidden, read_held_out
from training.scenes import SIZES, STYLES, Bank, Item, Library, Scene
from training.stage import Settings, read_settings
from training.tokens import train_tokenizer
from training.world import World

CODEBOOK = CODES + 5 * len(TINTS)
WIDTH = 32
LOOKING: dict[str, Any] = {
    "looking_batch": 4,
    "looking_at": "images",
    "seeing_batch": 4,
    "questions": 2,
    "relations": 3.0,
    "described": 0.0,
    "decoded_images": 8,
    "decoded_chunk": 4,
    "decode_every": 3,
    "damaged": 0.0,
}
"""Settings of conversations."""


def make_world(seed: int = 0, **settings: Any) -> World:
    """Return a world as training opens it."""
    return World(np.random.default_rng(seed), read_held_out(), read_forbidden(), **settings)


def make_scene(*items: Item, ground: str = "meadow", horizon: int = 5) -> Scene:
    """Return a scene of these items."""
    return Scene(items, ground, "near", horizon, STYLES[items[0].variant] if items else STYLES[0])


def make_feeder(seed: int = 1, **settings: Any) -> Feeder:
    """Return a feeder with a world of its own; its decoder gives every pixel the value of the grid's first token."""
    return Feeder(make_world(seed, **settings), make_tokenizer(), make_bank(), make_library(), draw_first_code)


def draw_first_code(grids: torch.Tensor) -> torch.Tensor:
    """Return images (B, 3, 160, 160) of tokens (B, 10, 10)."""
    side = GRID * 16
    return grids[:, 0, 0].float()[:, None, None, None].expand(-1, 3, side, side)


@cache
def make_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of few words."""
    return train_tokenizer(make_world(), 800, 300)


@cache
def make_bank() -> Bank:
    """Return random tokens of every icon."""
    random = np.random.default_rng(0)
    bank = {key: random.integers(CODES, CODEBOOK, (side, side)) for key, side in _icons()}
    bank["dog", 0, TINTS[0], "small"][0, 0] = CODEBOOK - 1
    return bank


@cache
def make_library() -> Library:
    """Return icons that are black squares."""
    return {key: np.full((16 * side, 16 * side, 4), (0, 0, 0, 255), np.uint8) for key, side in _icons()}


def _icons() -> list[tuple[tuple[str, int, str, str], int]]:
    return [
        ((name, variant, tint, size), side)
        for name in OBJECT_NAMES
        for variant in range(len(STYLES))
        for tint in TINTS
        for size, side in SIZES.items()
    ]


def shrink(settings: Settings) -> Settings:
    """Make a model of these settings tiny, in place."""
    settings["model"] |= {"width": WIDTH, "layers": 2, "heads": 2, "feed_forward": 48}
    settings["model"] |= {"vision_width": 16, "vision_layers": 1, "vision_heads": 4}
    settings["vq"] |= {"codebook": CODEBOOK, "latent_channels": 32, "channel_multiplier": [1] * 5}
    return settings


def make_model() -> JanusForConditionalGeneration:
    """Return a tiny model in float32 with random weights, always the same ones."""
    return copy.deepcopy(_model())


@cache
def _model() -> JanusForConditionalGeneration:
    torch.manual_seed(0)
    return JanusForConditionalGeneration(build_config(shrink(read_settings()), make_tokenizer())).eval()


def make_drawing_settings(thinned: bool, batch: int = 3, **settings: Any) -> dict[str, Any]:
    """Return settings of drawings of one kind; a thinned one keeps all cells of objects and few of grounds."""
    kind = {"share": 1.0, "batch": batch, "objects_kept": 1.0, "ground_kept": 0.1 if thinned else 1.0, "blurred": 0.0}
    return {"drawings": [kind], "text_dropout": 0.0, "condition_dropout": 0.0, "reduced": 0.0} | settings
