"""A batch of rows decoded together through one causal decoder.

Rows of unequal length are padded on the left; masks hide the padding and positions count a row's own tokens, so a row's
numbers do not depend on its neighbours.

Legend of shapes: B rows, T tokens, d width, L layers, G key heads, w a head's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from milr.decode.kv_cache import CachedPrefix, KVCache
from milr.decode.llama import Decoder


class DecodeBatch:
    """A batch of rows with their KV cache: it takes embeddings and returns last hidden states."""

    def __init__(
        self,
        decoder: Decoder,
        prefixes: Sequence[CachedPrefix | None],
        room: int,
        *,
        round_up: Callable[[int], int],
        count: Callable[..., None],
    ) -> None:
        """Allocate a cache and write the rows' cached prefixes into it.

        Args:
            decoder: Runs the forward passes.
            prefixes: One per row.
            room: How many tokens more than the longest prefix the cache holds.
            round_up: Length -> padded length.
            count: Adds to the engine's counts.
        """
        self.decoder, self.prefixes, self.round_up, self.count = decoder, prefixes, round_up, count
        like = decoder.like
        lengths = [len(prefix) if prefix else 0 for prefix in prefixes]
        longest = round_up(max(lengths))
        end = longest + room
        self.cache = KVCache(decoder.layers, len(prefixes), decoder.heads, end, decoder.width, like)
        count(cache_bytes=self.cache.bytes)
        self.cache.grow(longest)
        self.real = torch.zeros(len(prefixes), end, dtype=torch.bool, device=like.device)  # (B, end)
        self.padded = min(lengths) < longest
        for row, (prefix, length) in enumerate(zip(prefixes, lengths, strict=True)):
            # Masked values are multiplied by zero: they must be numbers.
            self.cache.clear(row, longest - length)
            self.cache.put(row, prefix.parts if prefix else (), longest)
            self.real[row, longest - length : longest] = True
        self.lengths = torch.tensor(lengths, device=like.device)  # (B,) each row's own tokens
        nothing = torch.zeros(decoder.size, device=like.device)
        self.newest = torch.stack([prefix.last if prefix else nothing for prefix in prefixes])
        """(B, d) float32: the hidden state of each row's last token."""

    def prefill(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Read rows of embeddings (T_i, d), some perhaps empty; return (B, T, d), rows aligned at the right end."""
        longest = self.round_up(max(map(len, rows)))
        batch = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])  # (B, T, d)
        own = torch.zeros(batch.shape[:2], dtype=torch.bool, device=batch.device)
        for index, row in enumerate(rows):
            batch[index, longest - len(row) :] = row
            own[index, longest - len(row) :] = True
        self.padded = self.padded or min(map(len, rows)) < longest
        tokens = sum(map(len, rows))
        self.count(prefilled=tokens)
        states = self._forward(batch, own, tokens)
        self.newest = torch.where(own[:, -1:], states[:, -1].float(), self.newest)
        return states

    def step(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Decode one embedding per row (B, d); return the new hidden states (B, d) float32."""
        own = self.real.new_ones(len(embeddings), 1)
        self.newest = self._forward(embeddings[:, None], own, len(embeddings))[:, 0].float()
        return self.newest

    def extend_prefix(self, row: int, count: int) -> CachedPrefix:
        """Return the row's cached prefix, extended by the last ``count`` tokens that it read."""
        prefix = self.prefixes[row]
        read = self.cache.copy(row, self.cache.filled - count)
        return CachedPrefix((*(prefix.parts if prefix else ()), read), self.newest[row].clone())

    def _forward(self, embeddings: torch.Tensor, own: torch.Tensor, tokens: int) -> torch.Tensor:
        positions = (self.lengths[:, None] + own.cumsum(-1) - 1).clamp_min(0)  # (B, T)
        self.lengths = self.lengths + own.sum(-1)
        start = self.cache.filled
        self.cache.grow(own.shape[1])
        self.real[:, start : self.cache.filled] = own
        self.count(forwarded=tokens, cache_read=self.cache.bytes_filled)
        return self.decoder(embeddings, positions, self.cache, self._mask(own.shape[1]))

    def _mask(self, queries: int) -> torch.Tensor | None:
        """Return (B, 1, T, filled), true where a new token sees a key; None if each token sees all."""
        filled = self.cache.filled
        if queries == 1 and not self.padded:
            return None
        places = torch.arange(filled, device=self.real.device)
        asking = places[filled - queries :, None]
        # Padding sees itself: attention over nothing has no result.
        seen = (self.real[:, None, :filled] & (places <= asking)) | (places == asking)
        return seen[:, None]
