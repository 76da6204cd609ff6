"""The adapter of LlamaGen's decoder: one projection for query, key and value, and rotary positions in two dimensions.

The first positions belong to the caption. They have no rotary position: their table is zero, so their queries and keys
are zero, and they are attended to with score 0. Source of the architecture: FoundationVision/LlamaGen.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from milr.decode.decoder import Attend, Turns, make_table, split_heads
from milr.decode.joined_linear import add_output, join


class LlamaGen:
    """A network of `milr.models.llamagen_network.Gpt`. Implements `milr.decode.decoder.Architecture`."""

    def __init__(self, gpt: Any, *, heads: int, caption: int, grid: int, base: float, epsilon: float) -> None:
        """Take a frozen network.

        Args:
            gpt: Has `layers` and `norm`, with the weights' original names.
            heads: Attention heads.
            caption: Positions of the caption, before the image's.
            grid: Image tokens a side.
            base: Of the rotary frequencies.
            epsilon: Of the norms.
        """
        self.network = gpt.layers
        self._blocks: list[Any] = list(gpt.layers)
        self._norm = gpt.norm
        self.layers, self.heads = len(self._blocks), heads
        self.size: int = gpt.norm.weight.shape[0]
        self.width = self.size // heads
        self.longest: int | None = caption + grid**2
        self._epsilon = epsilon
        for block in self._blocks:
            join(block.feed_forward, ("w1", "w3"), "w13")
        self._table = _rotary_table(caption, grid, self.width, base).to(self.like)

    @property
    def like(self) -> torch.Tensor:
        """Return an empty tensor with the dtype and device of the hidden states."""
        return self._norm.weight[:0]

    def prepare(self, positions: int) -> None:
        """Do nothing: the table has all positions."""

    def turns(self, positions: torch.Tensor) -> Turns:
        """Return the rotary embedding at positions (B, T)."""
        # a row that has ended is still computed beside longer ones; its results are not read
        cosine, sine = self._table[:, positions.clamp_max(self._table.shape[1] - 1)]
        return cosine, sine

    def layer(self, place: int, states: torch.Tensor, turns: Turns, attend: Attend) -> torch.Tensor:
        """Run a layer on hidden states (B, T, d)."""
        block = self._blocks[place]
        own, forward = block.attention, block.feed_forward
        heads = split_heads(own.wqkv(self._normalise(states, block.attention_norm)), self.heads, self.width)
        states = add_output(states, own.wo, attend(_turn_pairs(heads, turns)))
        gate, up = forward.w13(self._normalise(states, block.ffn_norm)).chunk(2, dim=-1)
        return add_output(states, forward.w2, F.silu(gate) * up)

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        """Normalise the last layer's output."""
        return self._normalise(states, self._norm)

    def _normalise(self, states: torch.Tensor, norm: Any) -> torch.Tensor:
        return F.rms_norm(states, states.shape[-1:], norm.weight, self._epsilon)


def _rotary_table(caption: int, grid: int, width: int, base: float) -> torch.Tensor:
    """Return the table of all caption + grid ** 2 positions in float32 (see `make_table`).

    The first half of the pairs turns by the row, the second half by the column.
    """
    half = width // 2
    frequencies = base ** (-torch.arange(0, half, 2).float() / half)  # (w / 4,)
    angles = torch.arange(grid)[:, None] * frequencies  # (grid, w / 4)
    rows, columns = angles.repeat_interleave(grid, dim=0), angles.repeat(grid, 1)  # (grid ** 2, w / 4)
    angles = torch.cat([rows, columns], dim=-1).repeat_interleave(2, dim=-1)  # (grid ** 2, w)
    sign = torch.tensor([-1.0, 1.0]).repeat(half)
    image = torch.stack([angles.cos(), angles.sin() * sign])
    cosine, sine = torch.cat([torch.zeros(2, caption, width), image], dim=1)
    return make_table(cosine, sine, 1)


def _turn_pairs(heads: torch.Tensor, turns: Turns) -> torch.Tensor:
    """Rotate by position: neighbours are the real and imaginary parts."""
    cosine, sine = turns
    swapped = heads.view(*heads.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return torch.addcmul(heads * cosine, swapped, sine)
