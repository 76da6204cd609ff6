"""Coders: layouts to image tokens and back to pixels, with and without the VQ model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from training import codebook, vq
from training.grounds import CODES, GRID, TOKEN
from training.layouts import SIDE, Layout, Sampler
from training.scenes import Library, paste
from training.stage import Settings

_SIMILAR = 8  # shapes that count as near a shape


class Coder(Protocol):
    """Converts layouts to a grid of cells and back to pixels, so that cells can be exchanged in between."""

    number: int
    """Number of different cells."""
    near: np.ndarray | None
    """(number, k): cells that look much the same."""

    def tokens(self, layouts: Sequence[Layout]) -> np.ndarray:
        """Return the cells of layouts, int64 (B, 10, 10)."""
        ...

    def images(self, tokens: np.ndarray) -> np.ndarray:
        """Return the images of tokens: int64 (B, 10, 10) -> uint8 (B, 160, 160, 3)."""
        ...


class PixelCoder:
    """Cells of rendered pixels: the VQ model's damage without the VQ model, at almost no cost."""

    near = None

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.number = 0
        self.cells = np.empty((0, TOKEN, TOKEN, 3), np.uint8)

    def tokens(self, layouts: Sequence[Layout]) -> np.ndarray:
        """Give each different cell of these images a number; earlier numbers are forgotten."""
        drawn = np.stack([self.sampler.draw(layout) for layout in layouts])
        cut = drawn.reshape(-1, GRID, TOKEN, GRID, TOKEN, 3).swapaxes(2, 3).reshape(-1, TOKEN, TOKEN, 3)
        numbers: dict[bytes, int] = {}
        tokens = np.array([numbers.setdefault(cell.tobytes(), len(numbers)) for cell in cut])
        self.number = len(numbers)
        self.cells = np.frombuffer(b"".join(numbers), np.uint8).reshape(-1, TOKEN, TOKEN, 3)
        return tokens.reshape(-1, GRID, GRID)

    def images(self, tokens: np.ndarray) -> np.ndarray:
        """Put cells together."""
        return self.cells[tokens].swapaxes(2, 3).reshape(-1, SIDE, SIDE, 3)


class VqCoder:
    """The codebook and the VQ model's decoder: images as the generator makes them."""

    def __init__(self, settings: Settings, library: Library, folder: Path) -> None:
        shapes = codebook.learn_shapes(settings, library)
        self.bank = codebook.build_bank(shapes, library)
        self.number = settings["vq"]["codebook"]
        self.near: np.ndarray | None = near_codes(shapes)
        self.network, self.step = vq.load(settings, folder)

    def tokens(self, layouts: Sequence[Layout]) -> np.ndarray:
        """Paste each icon's own tokens over the ground's."""
        grids = np.stack([layout.codes() for layout in layouts])
        for grid, layout in zip(grids, layouts, strict=True):
            for icon in layout.placed:
                paste(grid[icon.area], self.bank[icon.key])
        return grids

    @torch.inference_mode()
    def images(self, tokens: np.ndarray) -> np.ndarray:
        """Decode tokens."""
        with torch.autocast("cpu", torch.bfloat16):
            pixels = self.network.decode(torch.from_numpy(tokens))
        return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def near_codes(shapes: torch.Tensor) -> np.ndarray:
    """Return the codes of the most similar shapes in the same tint, int64 (codebook, 8); a ground's is its own."""
    similar = torch.cdist(shapes, shapes).topk(_SIMILAR + 1, largest=False).indices[:, 1:]  # (shapes, 8)
    tints = torch.arange(len(codebook.TINTS))
    codes = CODES + similar[:, None] * len(tints) + tints[:, None]  # (shapes, tints, 8)
    return torch.cat([torch.arange(CODES)[:, None].expand(-1, _SIMILAR), codes.flatten(0, 1)]).numpy()


class Encoded:
    """The whole VQ model: rendered images are encoded, not put together from known codes."""

    def __init__(self, coder: VqCoder, sampler: Sampler) -> None:
        self.coder, self.sampler = coder, sampler
        self.number, self.near = coder.number, coder.near

    @torch.inference_mode()
    def tokens(self, layouts: Sequence[Layout]) -> np.ndarray:
        """Render and encode layouts."""
        pixels = vq.to_pixels(np.stack([self.sampler.draw(layout) for layout in layouts]).astype(np.float32))
        with torch.autocast("cpu", torch.bfloat16):
            return self.coder.network.assign(self.coder.network.encode(pixels)).numpy()

    def images(self, tokens: np.ndarray) -> np.ndarray:
        """Decode tokens."""
        return self.coder.images(tokens)


def psnr(coder: Coder, sampler: Sampler, number: int = 16) -> float:
    """Return how near a coder's images are to the rendered ones, in decibels."""
    random = np.random.default_rng(0)
    layouts = [sampler.layout(random) for _ in range(number)]
    drawn = np.stack([sampler.draw(layout) for layout in layouts]).astype(np.float32)
    return 10 * math.log10(255**2 / float(np.square(coder.images(coder.tokens(layouts)) - drawn).mean()))
