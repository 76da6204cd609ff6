"""Keys and values: of a batch, allocated once and written in place; of a row, kept from one batch to the next.

Growing a cache by concatenation copies it at every token; here a view of the filled part is handed to attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CachedPrefix:
    """What a decoder has read of one row, so that it need not read it again."""

    parts: tuple[torch.Tensor, ...]
    """(2, layers, G, T, w) each, keys and values of tokens that follow each other. Parts may be shared by rows."""
    last: torch.Tensor
    """(d,) float32: the hidden state behind the last token."""

    def __len__(self) -> int:
        """Tokens."""
        return sum(part.shape[-2] for part in self.parts)

    def cut(self, length: int) -> tuple[torch.Tensor, ...]:
        """The parts of the first tokens, as views."""
        parts: list[torch.Tensor] = []
        for part in self.parts:
            parts.append(part[..., : max(0, length), :])
            length -= part.shape[-2]
        return tuple(part for part in parts if part.shape[-2])


class KVCache:
    """Room for B rows of a known number of tokens."""

    def __init__(self, layers: int, rows: int, heads: int, room: int, width: int, like: torch.Tensor) -> None:
        """Allocate for `heads` key heads of that width, in the dtype and on the device of `like`."""
        self.states = like.new_empty(2, layers, rows, heads, room, width)
        self.filled = 0

    @property
    def bytes(self) -> int:
        """Of all the room."""
        return self.states.nbytes

    @property
    def bytes_filled(self) -> int:
        """Of what attention reads for one more token."""
        return self.states[..., : self.filled, :].numel() * self.states.element_size()

    def grow(self, count: int) -> None:
        """Make the next tokens' places part of what is filled; each layer then writes its own."""
        if self.filled + count > self.states.shape[-2]:
            raise IndexError(f"the cache has room for {self.states.shape[-2]} tokens, not {self.filled + count}")
        self.filled += count

    def clear(self, row: int, end: int) -> None:
        """Write zeros before place ``end``."""
        self.states[:, :, row, :, :end] = 0

    def put(self, row: int, parts: tuple[torch.Tensor, ...], end: int) -> None:
        """Write a row's kept tokens so that they end before place ``end``."""
        for part in reversed(parts):
            start = end - part.shape[-2]
            self.states[:, :, row, :, start:end] = part
            end = start

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (B, G, T, w) each into the last T filled places; returns views of all that is filled."""
        start = self.filled - keys.shape[-2]
        all_keys, all_values = self.states[:, layer, ..., : self.filled, :].unbind(0)
        all_keys[..., start:, :] = keys
        all_values[..., start:, :] = values
        return all_keys, all_values

    def copy(self, row: int, start: int) -> torch.Tensor:
        """A row's tokens from place ``start`` on, (2, layers, G, T, w)."""
        return self.states[:, :, row, :, start : self.filled].clone()
