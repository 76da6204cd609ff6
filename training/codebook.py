"""The VQ model's codebook: patches of grounds, then some hundred shapes in eleven tints.

A code says what one 16 x 16 patch of an image shows. The first `grounds.CODES` are the patches of grounds. Each other
one is a shape in a tint: shapes are k-means over opacity and shade of all icons' patches; a tint is one of ten colours
or "natural", an icon as its set painted it. So an icon has the same tokens wherever it stands, on any ground and
beside any other icon; an object in a colour that was never shown has codes that other objects have shown; and the
language model has far less to learn.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from training.grounds import CODES, TOKEN
from training.icons import COLORS, NATURAL
from training.scenes import AIR, Bank, Library
from training.stage import Settings, log

TINTS = (NATURAL, *COLORS)
"""Paints of a shape, in the order of its codes."""
_SHADED = "green"  # the tint whose luminance tells an icon's shades
_GROUNDS_SEED = 7


def cut_patches(pixels: np.ndarray) -> np.ndarray:
    """Cut pixels into patches: (H, W, c) -> (H / 16, W / 16, 16 * 16 * c)."""
    height, width, channels = pixels.shape
    grid = pixels.reshape(height // TOKEN, TOKEN, width // TOKEN, TOKEN, channels)
    return grid.swapaxes(1, 2).reshape(height // TOKEN, width // TOKEN, -1)


def shape_patches(rgba: np.ndarray) -> np.ndarray:
    """Return opacity and shade of a tinted icon's patches, (s, s, 512) float32 in [0, 1]: nothing of its colour."""
    opacity = rgba[..., 3].astype(np.float32) / 255
    shade = rgba[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 160
    return cut_patches(np.stack([opacity, opacity * shade.clip(0, 1)], -1))


def learn_shapes(settings: Settings, library: Library) -> torch.Tensor:
    """Return the k-means centres of the icons' patches, (shapes, 512) in [0, 1].

    They are kept in git, as bytes: the shipped weights' tokens are indices into this very list.
    """
    file = Path(settings["paths"]["shapes"])
    if not file.exists():
        own = settings["vq"]
        random = torch.Generator().manual_seed(own["seed"])
        shaded = [
            shape_patches(rgba).reshape(-1, 2 * TOKEN * TOKEN) for key, rgba in library.items() if key[2] == _SHADED
        ]
        patches = torch.from_numpy(np.unique(np.concatenate(shaded), axis=0))
        patches = patches[~_empty(patches)]
        number = (own["codebook"] - CODES) // len(TINTS)
        centres = patches[torch.randperm(len(patches), generator=random)[:number]]
        for round_ in range(own["rounds"]):
            index = nearest(patches, centres)
            counts = torch.bincount(index, minlength=number).float()
            sums = torch.zeros_like(centres).index_add_(0, index, patches)
            fresh = patches[torch.randint(len(patches), (number,), generator=random)]  # for centres without patches
            centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], fresh)
            if round_ % 5 == 4:
                error = (patches - centres[index]).square().mean().item()
                log("shapes", round=round_ + 1, patches=len(patches), psnr=-10 * math.log10(error))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, (centres * 255).round().byte().numpy())
    return torch.from_numpy(np.load(file)).float() / 255


def _empty(patches: torch.Tensor) -> torch.Tensor:
    """Return which patches (N, 512) show nothing."""
    return patches[:, ::2].amax(1) < 0.05


def nearest(patches: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Return the index of the nearest centre of each patch: (N, c), (K, c) -> (N,) int64."""
    norms = centres.square().sum(1)
    return torch.cat([(norms - 2 * part @ centres.T).argmin(1) for part in patches.split(4096)])


def build_bank(shapes: torch.Tensor, library: Library) -> Bank:
    """Return the tokens of every icon."""
    bank: Bank = {}
    for name, variant, color, size in library:
        if color != _SHADED:
            continue
        patches = torch.from_numpy(shape_patches(library[name, variant, color, size]))  # (s, s, 512)
        flat = patches.flatten(0, 1)
        index = torch.where(_empty(flat), AIR, nearest(flat, shapes)).view(patches.shape[:2]).numpy()
        for number, tint in enumerate(TINTS):
            bank[name, variant, tint, size] = np.where(index == AIR, AIR, CODES + index * len(TINTS) + number)
    return bank


def code_vectors(shapes: torch.Tensor, width: int) -> torch.Tensor:
    """Return the code vectors before training, (codebook, width), unit length.

    A shape's vector is its tint in one half, the shape's principal components in the other. A ground's vector has
    nothing of a tint; in the other half it is random and longer than a shape's, so that it is like no shape.
    """
    forms = width - len(TINTS)
    _, _, directions = torch.linalg.svd(shapes - shapes.mean(0), full_matrices=False)
    components = F.normalize((shapes - shapes.mean(0)) @ directions[:forms].T, dim=-1)
    components = F.pad(components, (0, forms - components.shape[1]))  # (shapes, forms), even of few shapes
    tinted = torch.cat(
        [torch.eye(len(TINTS)).repeat(len(shapes), 1), components.repeat_interleave(len(TINTS), 0)], 1
    )  # shape by shape, as codes are numbered
    spread = torch.randn(CODES, forms, generator=torch.Generator().manual_seed(_GROUNDS_SEED))
    grounds = torch.cat([torch.zeros(CODES, len(TINTS)), spread_out(spread)], 1)
    return F.normalize(torch.cat([grounds, tinted]), dim=-1)


def spread_out(points: torch.Tensor) -> torch.Tensor:
    """Return unit vectors (n, d) that are pushed away from each other, beginning at these."""
    vectors = F.normalize(points, dim=-1)
    for _ in range(200):
        near = vectors @ vectors.T
        near.fill_diagonal_(-1)
        push = torch.softmax(20 * near, dim=-1) @ vectors
        vectors = F.normalize(vectors - 0.1 * push, dim=-1)
    return vectors
