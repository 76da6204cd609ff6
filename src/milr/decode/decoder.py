"""The forward pass of a causal decoder over our cache.

An adapter, about a page each, says what an architecture's layers compute: `milr.decode.llama.Llama`,
`milr.decode.llamagen.LlamaGen`.

Legend of shapes: B rows, T new tokens, d width, H query heads, G key heads, n = H / G, w a head's width. Query heads,
keys and values of a token are side by side, (n + 2, G, w): one product computes them and one call rotates them.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import nn

from milr.decode.attention import attend
from milr.decode.kv_cache import KVCache

Turns: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Cosine and signed sine of a rotary embedding, (B, T, n + 2, 1, w) each: see `make_table`."""


class Attend(Protocol):
    """Attention of the new tokens over the cache and over themselves."""

    def __call__(self, heads: torch.Tensor) -> torch.Tensor:
        """Map query heads, keys and values (B, T, n + 2, G, w) to (B, T, H w); keys and values enter the cache."""
        ...


class Architecture(Protocol):
    """The adapter of an architecture: norms, rotary form, layout of the projections, q/k-norms, feed-forward layers."""

    network: nn.Module
    """Holds the weights; its linear layers are packed in place."""
    layers: int
    """Number of layers."""
    heads: int
    """G, key heads of a layer."""
    width: int
    """w, a head's width."""
    size: int
    """d, width of the hidden states."""
    longest: int | None
    """Most tokens of a row; None if there is no limit."""

    @property
    def like(self) -> torch.Tensor:
        """Return an empty tensor with the dtype and device of the hidden states."""
        ...

    def prepare(self, positions: int) -> None:
        """Prepare `turns` for this many positions. Called on the host, before they are read."""
        ...

    def turns(self, positions: torch.Tensor) -> Turns:
        """Return the rotary embedding at positions (B, T), in the decoder's dtype, without asking the host."""
        ...

    def layer(self, place: int, states: torch.Tensor, turns: Turns, attend: Attend) -> torch.Tensor:
        """Run a layer on hidden states (B, T, d)."""
        ...

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        """Map the last layer's output to the last hidden states, (B, T, d)."""
        ...


class Decoder:
    """The layers of a decoder, without its embeddings."""

    def __init__(self, architecture: Architecture) -> None:
        """Take an adapter; the modules of its network are used in place."""
        self.architecture = architecture
        self.layers, self.heads = architecture.layers, architecture.heads
        self.width, self.size = architecture.width, architecture.size
        self.longest = architecture.longest
        """Most tokens of a row; None if there is no limit."""

    @property
    def like(self) -> torch.Tensor:
        """Return an empty tensor with the dtype and device of the hidden states."""
        return self.architecture.like

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one token's keys and values."""
        return 2 * self.layers * self.heads * self.width * self.like.element_size()

    def __call__(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        cache: KVCache,
        places: torch.Tensor,
        seen: int,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Run the decoder on new tokens that follow those in the cache.

        Args:
            embeddings: (B, T, d).
            positions: (B, T) int64, each token's position in its own row.
            cache: Every layer writes its keys and values to it.
            places: (T,) int64, positions in the cache.
            seen: How many of the cache's positions attention reads.
            mask: (B, 1, T, seen), added to the scores: 0 where a token sees a key, -inf elsewhere. None if each token
                sees all.

        Returns:
            (B, T, d), the last hidden states.
        """
        architecture, states = self.architecture, embeddings
        turns = architecture.turns(positions)
        place = 0

        def attend_here(heads: torch.Tensor) -> torch.Tensor:
            query = heads[:, :, :-2].flatten(2, 3).transpose(1, 2)  # (B, H, T, w)
            pair = heads[:, :, -2:].permute(2, 0, 3, 1, 4)  # (2, B, G, T, w)
            keys, values = cache.write(place, pair, places, seen)  # of the layer that runs
            return attend(query, keys, values, mask).transpose(1, 2).flatten(2)  # (B, T, H w)

        for place in range(self.layers):
            states = architecture.layer(place, states, turns, attend_here)
        return architecture.finish(states)


def split_heads(states: torch.Tensor, groups: int, width: int) -> torch.Tensor:
    """Reshape (B, T, (H + 2 G) w) to (B, T, n + 2, G, w)."""
    return states.view(*states.shape[:2], -1, groups, width)


def make_table(cosine: torch.Tensor, sine: torch.Tensor, many: int) -> torch.Tensor:
    """Return the table of a rotary embedding, (2, positions, n + 2, 1, w); values are not rotated.

    Args:
        cosine: (positions, w).
        sine: (positions, w), signed.
        many: n.
    """
    found = torch.stack([torch.ones_like(cosine), torch.zeros_like(sine)])[:, :, None].repeat(1, 1, many + 2, 1)
    found[:, :, :-1] = torch.stack([cosine, sine])[:, :, None]
    return found[:, :, :, None]
