"""The codebook: how much of it is used, and how well its codes and its encoder keep a scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from milr.models.janus import Janus
from training.grounds import CODES
from training.properties.studio import Studio
from training.scenes import AIR, Bank, Library, render, token_grid
from training.world import World

_AT_ONCE = 16


def count_codes(grids: Sequence[np.ndarray], codes: int) -> dict[str, float]:
    """Return how many codes are used, and the perplexity of their shares.

    Args:
        grids: Tokens of any shape; `AIR` is ignored.
        codes: Size of the codebook.
    """
    shown = np.concatenate([grid.ravel() for grid in grids])
    counts = np.bincount(shown[shown != AIR], minlength=codes)
    p = counts[counts > 0] / counts.sum()
    return {
        "codes used": int((counts > 0).sum()),
        "of": codes,
        "share used": round(float((counts > 0).mean()), 4),
        "perplexity": round(float(np.exp(-(p * np.log(p)).sum())), 1),
    }


def measure_codes(studio: Studio, world: World, library: Library, bank: Bank, number: int) -> dict[str, Any]:
    """Return use of the codebook and PSNR, of scenes that training never saw."""
    model = studio.model
    assert isinstance(model, Janus)
    codes = int(model.network.config.vq_config.num_embeddings)
    scenes = [world.scene(world.request()) for _ in range(number)]
    grids = [token_grid(scene, bank) for scene in scenes]
    errors: dict[str, list[float]] = {"codes": [], "encoder": []}
    agree: list[float] = []
    for start in range(0, number, _AT_ONCE):
        batch = slice(start, start + _AT_ONCE)
        pixels = np.stack([render(scene, library) for scene in scenes[batch]])  # (B, H, W, 3) in [0, 255]
        known = torch.from_numpy(np.stack(grids[batch])).flatten(1)
        encoded = encode(model, pixels).view(known.shape)
        agree += (encoded == known).float().mean(1).tolist()
        for name, tokens in (("codes", known), ("encoder", encoded)):
            errors[name] += np.square(decode(model, tokens) - pixels).mean((1, 2, 3)).tolist()
    return {
        "all icons and grounds": count_codes([*bank.values(), np.arange(CODES)], codes),
        "scenes": count_codes(grids, codes),
        "PSNR through codes, dB": _decibels(errors["codes"]),
        "PSNR through the encoder, dB": _decibels(errors["encoder"]),
        "tokens that the encoder finds": round(float(np.mean(agree)), 4),
        "scenes measured": number,
    }


@torch.inference_mode()
def encode(model: Janus, pixels: np.ndarray) -> torch.Tensor:
    """Return the encoder's tokens of images (B, H, W, 3) in [0, 255]: int64, B rows in any shape."""
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    return model.network.model.vqmodel.encode(values.to(model.network.dtype), return_dict=True).image_tokens


@torch.inference_mode()
def decode(model: Janus, tokens: torch.Tensor) -> np.ndarray:
    """Return the pixels of tokens (B, 100): float32 (B, H, W, 3) in [0, 255], rounded as an image's are."""
    values = model.network.decode_image_tokens(tokens).float()
    return ((values + 1) * 127.5).round().clamp(0, 255).numpy()


def _decibels(errors: Sequence[float]) -> float:
    """Return the PSNR of the mean squared error over all scenes."""
    return round(10 * math.log10(255**2 / float(np.mean(errors))), 2)
