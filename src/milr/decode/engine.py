"""The decoding engine: many rows in lockstep through one causal decoder.

A row's prompt is read once and kept (`CachedPrefix`); a batch begins behind what its rows have kept, reads each row's
new tokens, then goes one token a row and step. Rows of unequal length are padded on the left; masks hide the padding and
positions count a row's own tokens, so what a row gives does not depend on its neighbours.

Legend of shapes: B rows, T tokens, d width, L layers, G key heads, w a head's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from milr.decode.batching import fitting, work_in_batches
from milr.decode.kv_cache import CachedPrefix, KVCache
from milr.decode.llama import Decoder
from milr.decode.packed_linear import pack

FIXED_ROWS, FIXED_SMALL_ROWS = 8, 16
"""Items of every batch where shapes are fixed; the second of a decoder whose tokens are small."""
SMALL_TOKEN = 16 * 1024
"""Bytes of a token's keys and values up to which a decoder is small: more rows then cost little more time."""
FIXED_GRAIN = 32
"""Lengths are padded to a multiple of this where shapes are fixed."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Counts:
    """What an engine has done since it was made. Padding is not counted."""

    forwarded: int = 0
    """Tokens that went through the decoder."""
    prefilled: int = 0
    """Of these, the tokens of prompts and prefixes, which were read many at once."""
    cache_bytes: int = 0
    """The largest cache that a batch had."""
    cache_read: int = 0
    """Bytes of keys and values that attention read, over all steps."""


class Engine:
    """One decoder, what it has counted, and whether its batches have fixed shapes."""

    def __init__(self, network: Any, *, deterministic: bool = False) -> None:
        """Take a decoder over: its linear layers are packed in place.

        Args:
            network: A frozen `LlamaModel`.
            deterministic: Batches of a fixed number of rows and lengths of a fixed grain, so that in every dtype a
                row's numbers are the same whatever its neighbours are. Small batches cost as much as full ones.
        """
        pack(network)
        self.decoder = Decoder(network)
        self.grain = FIXED_GRAIN if deterministic else 1
        self.deterministic = deterministic
        self.fixed_rows = FIXED_SMALL_ROWS if self.decoder.token_bytes <= SMALL_TOKEN else FIXED_ROWS
        """Items of every batch where shapes are fixed; it hangs on the decoder alone, never on the machine."""
        self.counts = Counts()
        self._most: int | None = None  # items a batch, once memory has run out

    def open(self, before: Sequence[CachedPrefix | None], read: int, steps: int = 0) -> DecodeBatch:
        """A batch of rows that go on behind what they have kept: first up to ``read`` tokens at once, then steps."""
        return DecodeBatch(self, before, self.round_up(read) + steps)

    def read(self, rows: Sequence[tuple[torch.Tensor, CachedPrefix | None]]) -> list[CachedPrefix]:
        """Read rows of embeddings (T_i, d) behind what they have kept, and keep that too."""
        given = [embeddings for embeddings, _ in rows]
        batch = self.open([kept for _, kept in rows], max(map(len, given)))
        batch.read(given)
        return [batch.keep(place, len(row)) for place, row in enumerate(given)]

    def read_all(
        self, rows: Sequence[torch.Tensor], before: Sequence[CachedPrefix] | None = None
    ) -> list[CachedPrefix]:
        """Read any number of rows of embeddings (T_i, d) in batches, each behind what is kept."""
        return self.in_batches(
            list(zip(rows, before or [None] * len(rows), strict=True)),
            self.read,
            tokens=lambda item: len(item[0]) + len(item[1] or ()),
            shape=lambda item: (len(item[1] or ()), len(item[0])),
        )

    def in_batches(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        tokens: Callable[[Item], int],
        rows: int = 1,
        shape: Callable[[Item], tuple[int, ...]],
    ) -> list[Result]:
        """Work through items in batches that fit into memory, or in batches of a fixed shape.

        Args:
            items: Any number.
            work: Gives one result an item and changes nothing else: it is called again when memory ran out, and some
                items may be given to it twice to fill up a batch.
            tokens: How many tokens a row of the item may reach.
            rows: Rows an item takes.
            shape: Lengths that must be equal, but for the grain, in a batch of fixed shape.
        """
        if not items:
            return []
        if self.deterministic:
            return self._work_fixed(items, work, shape)
        each = rows * self.decoder.token_bytes * max(map(tokens, items))
        most = min(limit for limit in (self._most, fitting(each, self.decoder.like.device), len(items)) if limit)
        results, fitted = work_in_batches(items, work, most)
        if fitted < most:
            self._most = fitted
        return results

    def _work_fixed(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Sequence[Result]],
        shape: Callable[[Item], tuple[int, ...]],
    ) -> list[Result]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, item in enumerate(items):
            groups.setdefault(tuple(self.round_up(length) for length in shape(item)), []).append(place)
        results: dict[int, Result] = {}
        for places in groups.values():
            for start in range(0, len(places), self.fixed_rows):
                part = places[start : start + self.fixed_rows]
                batch = [items[place] for place in part]
                fillers = batch[:1] * (self.fixed_rows - len(batch))
                results |= zip(part, work([*batch, *fillers]), strict=False)
        return [results[place] for place in range(len(items))]

    def round_up(self, length: int) -> int:
        """A length as this engine pads it."""
        return -(-length // self.grain) * self.grain

    def count(self, *, cache_bytes: int = 0, **more: int) -> None:
        """Add to what is counted; of the cache, keep the largest."""
        old = self.counts
        sums = {name: getattr(old, name) + number for name, number in more.items()}
        self.counts = replace(old, cache_bytes=max(old.cache_bytes, cache_bytes), **sums)


class DecodeBatch:
    """A batch of rows with their cache. Feed embeddings, read the last hidden states."""

    def __init__(self, engine: Engine, before: Sequence[CachedPrefix | None], room: int) -> None:
        """Allocate for what the rows have kept and ``room`` tokens more, and write what they have kept."""
        self.engine, self.decoder, self.before = engine, engine.decoder, before
        like = self.decoder.like
        lengths = [len(kept) if kept else 0 for kept in before]
        longest = engine.round_up(max(lengths))
        end = longest + room
        self.cache = KVCache(self.decoder.layers, len(before), self.decoder.heads, end, self.decoder.width, like)
        engine.count(cache_bytes=self.cache.bytes)
        self.cache.grow(longest)
        self.real = torch.zeros(len(before), end, dtype=torch.bool, device=like.device)  # (B, end)
        self.padded = min(lengths) < longest
        for row, (kept, length) in enumerate(zip(before, lengths, strict=True)):
            # What is masked is multiplied by zero: it must be a number.
            self.cache.clear(row, longest - length)
            self.cache.put(row, kept.parts if kept else (), longest)
            self.real[row, longest - length : longest] = True
        self.lengths = torch.tensor(lengths, device=like.device)  # (B,) each row's own tokens
        nothing = torch.zeros(self.decoder.size, device=like.device)
        self.newest = torch.stack([kept.last if kept else nothing for kept in before])
        """(B, d) float32: the hidden state behind each row's last token."""

    def read(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Read rows of embeddings (T_i, d), some perhaps empty; returns (B, T, d), rows aligned at the right end."""
        longest = self.engine.round_up(max(map(len, rows)))
        batch = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])  # (B, T, d)
        own = torch.zeros(batch.shape[:2], dtype=torch.bool, device=batch.device)
        for index, row in enumerate(rows):
            batch[index, longest - len(row) :] = row
            own[index, longest - len(row) :] = True
        self.padded = self.padded or min(map(len, rows)) < longest
        tokens = sum(map(len, rows))
        self.engine.count(prefilled=tokens)
        states = self._forward(batch, own, tokens)
        self.newest = torch.where(own[:, -1:], states[:, -1].float(), self.newest)
        return states

    def step(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Feed one embedding a row (B, d); returns the new hidden states (B, d) float32."""
        own = self.real.new_ones(len(embeddings), 1)
        self.newest = self._forward(embeddings[:, None], own, len(embeddings))[:, 0].float()
        return self.newest

    def keep(self, row: int, count: int) -> CachedPrefix:
        """What the row began behind and the last ``count`` tokens that it read, which follow each other."""
        kept = self.before[row]
        read = self.cache.copy(row, self.cache.filled - count)
        return CachedPrefix((*(kept.parts if kept else ()), read), self.newest[row].clone())

    def _forward(self, embeddings: torch.Tensor, own: torch.Tensor, tokens: int) -> torch.Tensor:
        positions = (self.lengths[:, None] + own.cumsum(-1) - 1).clamp_min(0)  # (B, T)
        self.lengths = self.lengths + own.sum(-1)
        start = self.cache.filled
        self.cache.grow(own.shape[1])
        self.real[:, start : self.cache.filled] = own
        self.engine.count(forwarded=tokens, cache_read=self.cache.bytes_filled)
        return self.decoder(embeddings, positions, self.cache, self._mask(own.shape[1]))

    def _mask(self, queries: int) -> torch.Tensor | None:
        """(B, 1, T, filled), true where a new token sees a key; None where each sees all."""
        filled = self.cache.filled
        if queries == 1 and not self.padded:
            return None
        places = torch.arange(filled, device=self.real.device)
        asking = places[filled - queries :, None]
        # Padding sees itself: to see nothing at all has no answer.
        seen = (self.real[:, None, :filled] & (places <= asking)) | (places == asking)
        return seen[:, None]
