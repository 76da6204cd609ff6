"""KV cache: keys and values of a batch, allocated once and written in place, and prefixes cached between batches.

Growing a cache by concatenation copies it at every token; here attention gets a view of the filled part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CachedPrefix:
    """The keys and values of one row's first tokens, so that the decoder does not read them again."""

    parts: tuple[torch.Tensor, ...]
    """(2, layers, G, T, w) each, keys and values of consecutive tokens. Rows may share parts."""
    last: torch.Tensor
    """(d,) float32: the hidden state of the last token."""

    def __len__(self) -> int:
        """Return the number of tokens."""
        return sum(part.shape[-2] for part in self.parts)

    def cut(self, length: int) -> tuple[torch.Tensor, ...]:
        """Return the parts of the first tokens, as views."""
        parts: list[torch.Tensor] = []
        for part in self.parts:
            parts.append(part[..., : max(0, length), :])
            length -= part.shape[-2]
        return tuple(part for part in parts if part.shape[-2])


class KVCache:
    """Room for B rows of a known number of tokens."""

    def __init__(self, states: torch.Tensor) -> None:
        """Take the storage, (2, layers, B, G, room, w), keys and values; the rest is empty.

        Whatever it holds must be numbers: masked values are multiplied by zero.
        """
        self.states = states
        self.filled = 0
        keys, values = states.unbind(0)
        self._layers = list(zip(keys.unbind(0), values.unbind(0), strict=True))

    @property
    def bytes(self) -> int:
        """Bytes of the whole cache."""
        return self.states.nbytes

    @property
    def bytes_filled(self) -> int:
        """Bytes that attention reads for one more token."""
        return self.bytes // self.states.shape[-2] * self.filled

    def grow(self, count: int) -> None:
        """Count the places of the next tokens as filled; each layer then writes its own keys and values there."""
        if self.filled + count > self.states.shape[-2]:
            raise IndexError(f"the cache has room for {self.states.shape[-2]} tokens, not {self.filled + count}")
        self.filled += count

    def clear(self, row: int, end: int) -> None:
        """Write zeros before place ``end``."""
        self.states[:, :, row, :, :end] = 0

    def put(self, row: int, parts: tuple[torch.Tensor, ...], end: int) -> None:
        """Write a row's cached parts so that they end before place ``end``."""
        for part in reversed(parts):
            start = end - part.shape[-2]
            self.states[:, :, row, :, start:end] = part
            end = start

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor, seen: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values; return views of the first places.

        Args:
            layer: Index.
            keys: (B, G, T, w).
            values: (B, G, T, w).
            places: (T,) int64, on the cache's device: where they go, which the host need not know.
            seen: How many places attention gets.
        """
        all_keys, all_values = self._layers[layer]  # (B, G, room, w)
        all_keys.index_copy_(2, places, keys)
        all_values.index_copy_(2, places, values)
        return all_keys[:, :, :seen], all_values[:, :, :seen]

    def copy(self, row: int, start: int) -> torch.Tensor:
        """Return a copy of a row's tokens from place ``start`` on, (2, layers, G, T, w)."""
        return self.states[:, :, row, :, start : self.filled].clone()
