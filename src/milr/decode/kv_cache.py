"""KV cache: keys and values of a batch, allocated once and written in place; and prefixes cached between batches.

Growing a cache by concatenation copies it at every token. Here attention gets a view of the filled part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CachedPrefix:
    """The cached keys and values of one row's first tokens."""

    parts: tuple[torch.Tensor, ...]
    """(layers, 2, G, T, w) each, keys and values of consecutive tokens. Rows may share parts."""
    last: torch.Tensor
    """(d,) float32: the hidden state of the last token."""
    first: int = 0
    """Position of the first token; the others follow it one by one."""

    @property
    def next(self) -> int:
        """Return the position of the next token."""
        return self.first + len(self)

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
    """The keys and values of B rows, with room for a known number of tokens."""

    def __init__(self, states: torch.Tensor) -> None:
        """Take the storage, (layers, 2, B, G, room, w), keys and values; it counts as empty.

        Its numbers must be finite, because masked values are multiplied by zero.
        """
        self.states = states
        self.filled = 0
        self._layers = states.unbind(0)

    @property
    def bytes(self) -> int:
        """Return the bytes of the whole cache."""
        return self.states.nbytes

    @property
    def bytes_filled(self) -> int:
        """Return the bytes that attention reads for one more token."""
        return self.bytes // self.states.shape[-2] * self.filled

    def grow(self, count: int) -> None:
        """Count the positions of the next tokens as filled; each layer then writes its own keys and values there."""
        if self.filled + count > self.states.shape[-2]:
            raise IndexError(f"the cache has room for {self.states.shape[-2]} tokens, not {self.filled + count}")
        self.filled += count

    def clear(self, row: int, end: int) -> None:
        """Write zeros before position ``end``."""
        self.states[:, :, row, :, :end] = 0

    def put(self, row: int, parts: tuple[torch.Tensor, ...], end: int) -> None:
        """Write a row's cached parts so that they end before position ``end``."""
        for part in reversed(parts):
            start = end - part.shape[-2]
            self.states[:, :, row, :, start:end] = part
            end = start

    def write(
        self, layer: int, pair: torch.Tensor, places: torch.Tensor, seen: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values; return views of the first positions, (B, G, seen, w) each.

        Args:
            layer: Index.
            pair: (2, B, G, T, w), keys and values.
            places: (T,) int64 positions on the cache's device; the host does not read them.
            seen: Number of positions that attention gets.
        """
        keys, values = self._layers[layer].index_copy_(3, places, pair)[:, :, :, :seen]
        return keys, values

    def copy(self, row: int, start: int) -> torch.Tensor:
        """Return a copy of a row's tokens from position ``start`` on, (layers, 2, G, T, w)."""
        return self.states[:, :, row, :, start : self.filled].clone()
