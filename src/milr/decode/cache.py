"""A key-value cache that is allocated once and written in place.

Growing a cache by concatenation copies it at every token; here a view of the filled part is handed to attention.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """One layer's keys and values, (rows, heads, length, head width)."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.filled = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for the shapes of the first states."""
        rows, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.length, width)
        self.values = value_states.new_empty(rows, heads, self.length, width)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind what is filled; return views of all that is filled now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        end = self.filled + key_states.shape[-2]
        if end > self.length:  # assigned to an empty slice, one token would vanish without a word
            raise IndexError(f"the cache has room for {self.length} tokens, not {end}")
        self.keys[..., self.filled : end, :] = key_states
        self.values[..., self.filled : end, :] = value_states
        self.filled = end
        return self.keys[..., :end, :], self.values[..., :end, :]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a query of that length sees."""
        return self.filled + query_length, 0

    def get_seq_length(self) -> int:
        """How much is filled."""
        return self.filled

    def get_max_length(self) -> int:
        """How much there is room for."""
        return self.length


class PreallocatedCache(Cache):
    """One layer of room a decoder layer, for a known number of tokens."""

    def __init__(self, layers: int, length: int) -> None:
        super().__init__(layers=[_Layer(length) for _ in range(layers)])
