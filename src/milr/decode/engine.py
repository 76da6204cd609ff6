"""The decoding engine: batches that fit into memory or have fixed shapes, prefix caching, counts.

A prompt is prefilled once and cached (`CachedPrefix`). A batch continues from its rows' cached prefixes and prefills
new tokens (`milr.decode.batch`); a loop then decodes one token per row and step (`milr.decode.loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from milr.decode.batch import DecodeBatch
from milr.decode.batching import fitting, work_in_batches
from milr.decode.buffers import Buffers, Fresh, GraphCounts, Recorded, Recorder
from milr.decode.decoder import Architecture, Decoder
from milr.decode.kv_cache import CachedPrefix
from milr.decode.packed_linear import pack
from milr.decode.tensors import round_up
from milr.errors import MilrError

FIXED_ROWS, FIXED_SMALL_ROWS = 8, 16
"""Items of every batch of fixed shape; the second number is for a decoder with a small KV cache per token."""
SMALL_TOKEN = 16 * 1024
"""Bytes of a token's keys and values up to which a decoder counts as small: more rows then cost little more time."""
FIXED_GRAIN = 32
"""Lengths are padded to a multiple of this if shapes are fixed."""
BUCKET = 64
"""Steps attend to a multiple of this many positions, except on a CPU, which gains nothing from equal shapes."""
CHECK_EVERY = 16
"""Steps between two checks whether all texts have ended, except on a CPU, where a check costs nothing."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Counts:
    """The work of an engine since it was made. Padding is not counted."""

    forwarded: int = 0
    """Tokens that the decoder has processed."""
    prefilled: int = 0
    """The part of these that was prefilled: tokens of prompts and prefixes."""
    cache_bytes: int = 0
    """Bytes of the largest cache of a batch."""
    cache_read: int = 0
    """Bytes of keys and values that attention read, over all steps."""


class Engine:
    """A decoder, its counts, and the shapes of its batches."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        deterministic: bool = False,
        recorder: Recorder | None = None,
        bucket: int | None = None,
        check_every: int | None = None,
    ) -> None:
        """Take over a decoder: its linear layers are packed in place.

        Args:
            architecture: The adapter of a frozen network: `milr.decode.llama.Llama` for one.
            deterministic: Use batches of a fixed number of rows and lengths rounded up to a fixed grain, so that in
                every dtype a row's numbers do not depend on its neighbours. Small batches cost as much as full ones.
            recorder: Records decode steps and replays them; batches then have 1, 2, 4, 8, ... items, to keep recordings
                few. None runs every step eagerly.
            bucket: See `DecodeBatch`; None takes `BUCKET`, and 1 on a CPU.
            check_every: See `DecodeBatch`; None takes `CHECK_EVERY`, and 1 on a CPU.
        """
        pack(architecture.network)
        self.decoder = Decoder(architecture)
        device = self.decoder.like.device
        on_cpu = device.type == "cpu"
        self.bucket = bucket or (1 if on_cpu else BUCKET)
        self.check_every = check_every or (1 if on_cpu else CHECK_EVERY)
        self._fresh = Fresh(device, zero=self.bucket > 1)
        self._recorded = Recorded(device, recorder) if recorder else None
        self.grain = FIXED_GRAIN if deterministic else 1
        self.deterministic = deterministic
        self.fixed_rows = FIXED_SMALL_ROWS if self.decoder.token_bytes <= SMALL_TOKEN else FIXED_ROWS
        """Items of every batch of fixed shape; they depend on the decoder alone, never on the machine."""
        self.counts = Counts()
        self._most: int | None = None  # items per batch, after memory has run out

    @property
    def buffers(self) -> Buffers:
        """Return the source of the decoding loops' tensors."""
        return self._recorded or self._fresh

    @property
    def graph_counts(self) -> GraphCounts:
        """Return the cost of recording; zeros if steps run eagerly."""
        return self._recorded.counts if self._recorded else GraphCounts()

    def open(self, prefixes: Sequence[CachedPrefix | None], new: int, steps: int = 0) -> DecodeBatch:
        """Open a batch after these prefixes: one prefill of up to ``new`` tokens, then one token per step.

        The batch may reuse the tensors of the batch before it, which must not be used any more.

        Raises:
            MilrError: The rows would exceed the checkpoint's number of positions.
        """
        longest = max(len(prefix) if prefix else 0 for prefix in prefixes) + new + steps
        if self.decoder.longest is not None and longest > self.decoder.longest:
            raise MilrError(
                f"prompt, reasoning and image would take {longest} tokens, but the positions of this checkpoint are "
                f"fixed up to {self.decoder.longest}: shorten the prompt"
            )
        self.decoder.architecture.prepare(longest)
        return DecodeBatch(
            self.decoder,
            prefixes,
            self.round_up(new) + steps,
            buffers=self.buffers if steps else self._fresh,
            bucket=self.bucket if steps else 1,
            check_every=self.check_every,
            round_up=self.round_up,
            count=self.count,
        )

    def prefill(self, rows: Sequence[tuple[torch.Tensor, CachedPrefix | None]]) -> list[CachedPrefix]:
        """Read rows of embeddings (T_i, d), each after its prefix; return the extended prefixes."""
        new = [embeddings for embeddings, _ in rows]
        batch = self.open([prefix for _, prefix in rows], max(map(len, new)))
        batch.prefill(new)
        return [batch.extend_prefix(place, len(row)) for place, row in enumerate(new)]

    def prefill_all(
        self, rows: Sequence[torch.Tensor], prefixes: Sequence[CachedPrefix] | None = None
    ) -> list[CachedPrefix]:
        """Prefill any number of rows of embeddings (T_i, d) in batches, each row after its prefix."""
        return self.in_batches(
            list(zip(rows, prefixes or [None] * len(rows), strict=True)),
            self.prefill,
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
        loops: bool = False,
        shape: Callable[[Item], tuple[int, ...]],
    ) -> list[Result]:
        """Work through items in batches that fit into memory, or in batches of a fixed shape.

        Args:
            items: Any number.
            work: Returns one result per item and changes nothing else. It is called again when memory runs out, and may
                get an item twice, to fill up a batch.
            tokens: Most tokens of a row of the item.
            rows: Rows per item.
            loops: True if the work runs a decoding loop: its batches are padded if steps are recorded.
            shape: Lengths that must be equal, rounded up to the grain, in a batch of fixed shape.
        """
        if not items:
            return []
        if self.deterministic:
            return self._work_fixed(items, work, shape)
        each = rows * self.decoder.token_bytes * round_up(max(map(tokens, items)), self.bucket)
        fits = fitting(each, self.decoder.like.device, self.buffers.held_bytes)
        limit = min((limit for limit in (self._most, fits) if limit), default=_next_power(len(items)))
        if self._recorded and loops:
            work, limit = partial(_work_padded, work), _next_power(limit + 1) // 2
        most = min(limit, len(items))
        results, fitted = work_in_batches(items, work, most, free_memory=self.buffers.drop)
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
                whole = [*batch, *fillers]
                # as one item, because a smaller batch would have another shape
                (found,), _ = work_in_batches([whole], lambda one: [work(one[0])], 1, free_memory=self.buffers.drop)
                results |= zip(part, found, strict=False)
        return [results[place] for place in range(len(items))]

    def round_up(self, length: int) -> int:
        """Return the length to which this engine pads a length."""
        return round_up(length, self.grain)

    def count(self, *, cache_bytes: int = 0, **more: int) -> None:
        """Add to the counts; for the cache's bytes, keep the largest."""
        old = self.counts
        sums = {name: getattr(old, name) + number for name, number in more.items()}
        self.counts = replace(old, cache_bytes=max(old.cache_bytes, cache_bytes), **sums)


def _work_padded(work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> Sequence[Result]:
    """Work through items in a batch of 1, 2, 4, 8, ...; results of the fillers are dropped."""
    return work([*items, *[items[0]] * (_next_power(len(items)) - len(items))])[: len(items)]


def _next_power(count: int) -> int:
    """Return the smallest power of two that is not below a count of at least 1."""
    return 1 << (count - 1).bit_length()
