"""The forward pass of a causal decoder over our cache.

An adapter, about a page each, says what an architecture's layers compute: `milr.decode.llama.Llama`,
`milr.decode.llamagen.LlamaGen`.

Legend of shapes: B rows, T new tokens, d width, H query heads, G key heads, w a head's width.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import nn

from milr.decode.attention import attend
from milr.decode.kv_cache import KVCache

Turns: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Cosine and signed sine of a rotary embedding, (B, 1, T, w) each: see `turn`."""


class Attend(Protocol):
    """Attention of the new tokens over the cache and over themselves."""

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Map query (B, H, T, w), key and value (B, G, T, w) to (B, T, H w); key and value enter the cache."""
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

    def turns(self, positions: torch.Tensor, dtype: torch.dtype) -> Turns:
        """Return the rotary embedding at positions (B, T), without asking the host."""
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
        turns = architecture.turns(positions, embeddings.dtype)
        place = 0

        def attend_here(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            keys, values = cache.write(place, key, value, places, seen)  # of the layer that runs
            return attend(query, keys, values, mask).transpose(1, 2).flatten(2)  # (B, T, H w)

        for place in range(self.layers):
            states = architecture.layer(place, states, turns, attend_here)
        return architecture.finish(states)


def split_heads(states: torch.Tensor, width: int) -> torch.Tensor:
    """Reshape (B, T, heads w) to (B, heads, T, w)."""
    return states.view(*states.shape[:2], -1, width).transpose(1, 2)


def turn(states: torch.Tensor, turns: Turns) -> torch.Tensor:
    """Rotate by position: the halves of a head's width are the real and imaginary parts."""
    cosine, sine = turns
    return torch.addcmul(states * cosine, states.roll(states.shape[-1] // 2, dims=-1), sine)
