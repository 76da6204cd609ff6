"""A batch of rows decoded together through one causal decoder.

Rows of unequal length are padded on the left. Masks hide the padding, and positions count a row's own tokens, so a
row's numbers do not depend on its neighbours.

Legend of shapes: B rows, T tokens, d width, L layers, G key heads, w a head's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from milr.decode.attention import ALIGNED
from milr.decode.buffers import Buffers
from milr.decode.decoder import Decoder
from milr.decode.kv_cache import CachedPrefix, KVCache
from milr.decode.tensors import round_up


class DecodeBatch:
    """A batch of rows with their KV cache: it reads embeddings and returns last hidden states.

    The host plans a prefill. A decode step needs no host: it reads its position from tensors on the device.
    """

    def __init__(
        self,
        decoder: Decoder,
        prefixes: Sequence[CachedPrefix | None],
        room: int,
        *,
        buffers: Buffers,
        bucket: int,
        check_every: int,
        round_up: Callable[[int], int],
        count: Callable[..., None],
    ) -> None:
        """Take a cache and write the rows' cached prefixes into it.

        Args:
            decoder: Runs the forward passes.
            prefixes: One per row.
            room: Tokens beyond the longest prefix that the cache holds.
            buffers: The source of the tensors.
            bucket: A decode step attends to a multiple of this many positions; masks hide those not filled yet. Within
                a bucket all steps have the same shapes.
            check_every: Steps between two checks whether all sequences have ended; each check waits for the device.
            round_up: Length -> padded length of a prefill.
            count: Adds to the engine's counts.
        """
        self.decoder, self.prefixes, self.buffers = decoder, prefixes, buffers
        self.bucket, self.check_every, self.round_up, self.count = bucket, check_every, round_up, count
        rows, like = len(prefixes), decoder.like
        lengths = [len(prefix) if prefix else 0 for prefix in prefixes]
        longest = round_up(max(lengths))
        end = self.round_up_steps(longest + room)
        shape = (decoder.layers, 2, rows, decoder.heads, end, decoder.width)
        self.cache = KVCache(buffers.take("cache", shape, like.dtype))
        count(cache_bytes=self.cache.bytes)
        self.cache.grow(longest)
        self.room = longest + room
        self.padded = min(lengths) < longest
        self._steps_mask: torch.Tensor | None = None
        """(B, 1, 1, end): 0 at the positions that a decode step sees, -inf elsewhere."""
        self.real = buffers.take("real", (rows, end), torch.bool).fill_(True)
        """(B, end): false at a row's padding."""
        for row, (prefix, length) in enumerate(zip(prefixes, lengths, strict=True)):
            # masked values are multiplied by zero, so they must be finite
            self.cache.clear(row, longest - length)
            self.cache.put(row, prefix.parts if prefix else (), longest)
            self.real[row, : longest - length] = False
        self.positions = buffers.take("positions", (rows, 1), torch.int64)
        """(B, 1): the position of each row's next token."""
        positions = [0 if prefix is None else prefix.next for prefix in prefixes]
        if len(set(positions)) == 1:
            self.positions.fill_(positions[0])  # nothing is copied to the device
        else:
            self.positions.copy_(torch.tensor(positions)[:, None])
        self.at = buffers.take("at", (1,), torch.int64).fill_(longest)
        """(1,): position of the next token in the cache."""
        self.places = torch.arange(end, out=buffers.take("places", (end,), torch.int64))
        self.newest = buffers.take("newest", (rows, decoder.size), torch.float32)
        """(B, d): the hidden state of each row's last token."""
        for row, prefix in enumerate(prefixes):
            self.newest[row] = prefix.last if prefix else 0.0

    def prefill(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Read rows of embeddings (T_i, d), some perhaps empty; return (B, T, d), rows aligned at the right end."""
        longest = self.round_up(max(map(len, rows)))
        start, self._steps_mask = self.cache.filled, None
        self._reserve(longest)
        batch = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])  # (B, T, d)
        own = self.real[:, start : self.cache.filled]
        for index, row in enumerate(rows):
            batch[index, longest - len(row) :] = row
            own[index, : longest - len(row)] = False
        self.padded = self.padded or min(map(len, rows)) < longest
        tokens = sum(map(len, rows))
        self.count(forwarded=tokens, prefilled=tokens, cache_read=self.cache.bytes_filled)
        positions = (self.positions + own.cumsum(-1) - 1).clamp_min(0)  # (B, T)
        places = self.places[start : self.cache.filled]
        mask = self._mask(places, self.cache.filled) if self.padded or longest > 1 else None
        states = self.decoder(batch, positions, self.cache, places, self.cache.filled, mask)
        self.positions.add_(own.sum(-1, keepdim=True))
        self.at.add_(longest)
        self.newest.copy_(torch.where(own[:, -1:], states[:, -1].float(), self.newest))
        return states

    def reserve(self) -> int:
        """Count one token more per row; return how many positions the step attends to. The host's part of a step."""
        if self._steps_mask is None and (self.padded or self.bucket > 1):
            self._begin_steps()
        self._reserve(1)
        rows = len(self.prefixes)
        self.count(forwarded=rows, cache_read=self.cache.bytes_filled)
        return self.round_up_steps(self.cache.filled)

    def round_up_steps(self, length: int) -> int:
        """Return the multiple of the bucket that holds this many tokens."""
        return round_up(length, self.bucket)

    def step(self, embeddings: torch.Tensor, seen: int) -> None:
        """Decode one embedding per row (B, d); `newest` then holds the new hidden states. The device's part of a step.

        Args:
            embeddings: (B, d), in the decoder's dtype.
            seen: From `reserve`.
        """
        mask = None
        if self._steps_mask is not None:
            mask = self._steps_mask.index_fill_(-1, self.at, 0.0)[..., :seen]  # (B, 1, 1, seen)
        states = self.decoder(embeddings[:, None], self.positions, self.cache, self.at, seen, mask)
        self.newest.copy_(states[:, 0])
        self.positions.add_(1)
        self.at.add_(1)

    def extend_prefix(self, row: int, count: int) -> CachedPrefix:
        """Return the row's cached prefix extended by its last ``count`` tokens."""
        prefix = self.prefixes[row]
        read = self.cache.copy(row, self.cache.filled - count)
        return CachedPrefix(
            (*(prefix.parts if prefix else ()), read), self.newest[row].clone(), 0 if prefix is None else prefix.first
        )

    def _begin_steps(self) -> None:
        rows, end = self.real.shape
        mask = self.buffers.take("mask", (rows, 1, 1, end), self.decoder.like.dtype).fill_(float("-inf"))
        mask[:, 0, 0, : self.cache.filled].masked_fill_(self.real[:, : self.cache.filled], 0.0)
        self._steps_mask = mask

    def _reserve(self, count: int) -> None:
        if self.cache.filled + count > self.room:
            raise IndexError(f"the cache has room for {self.room} tokens, not {self.cache.filled + count}")
        self.cache.grow(count)

    def _mask(self, asking: torch.Tensor, seen: int) -> torch.Tensor:
        """Return the mask for the scores of new tokens (T) over the first positions: (B, 1, T, seen), 0 or -inf."""
        places, asking = self.places[:seen], asking[:, None]  # (seen,), (T, 1)
        # padding attends to itself: attention over nothing is undefined
        sees = (self.real[:, None, :seen] & (places <= asking)) | (places == asking)
        size = (*sees.shape[:2], round_up(seen, ALIGNED))
        nothing = torch.zeros(size, dtype=self.decoder.like.dtype, device=sees.device)[..., :seen]
        return nothing.masked_fill_(~sees, float("-inf"))[:, None]
