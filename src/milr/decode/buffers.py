"""Tensors of a decoding loop, and ways to run its steps: eagerly, or replayed as CUDA graphs.

A CUDA graph is a recorded sequence of kernels. Replaying it costs one launch instead of several hundred, which is most
of a decode step's time at small batches; but it reads and writes the addresses at which it was recorded. So with graphs
every tensor of a loop has a name and keeps its address as long as its shape is the same.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch


class Buffers(Protocol):
    """Gives a loop its tensors and runs its steps."""

    @property
    def held_bytes(self) -> int:
        """Bytes of the cache that the next loop takes over."""
        ...

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor for this purpose; it holds some numbers, never NaN."""
        ...

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Run a step; steps of equal keys are the same operators on the same tensors."""
        ...

    def drop(self) -> None:
        """Give back whatever memory can be given back."""
        ...


class Fresh:
    """New tensors for every loop, and every step run eagerly."""

    def __init__(self, device: torch.device, *, zero: bool) -> None:
        """Take the device; `zero` clears new tensors, for attention that reads places before they are written."""
        self._device, self._new = device, torch.zeros if zero else torch.empty
        self.held_bytes = 0

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """See `Buffers`."""
        return self._new(shape, dtype=dtype, device=self._device)

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """See `Buffers`."""
        step()

    def drop(self) -> None:
        """See `Buffers`."""


class Recorder(Protocol):
    """Records steps: `CudaRecorder`, and a pretended one in tests."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return a call that repeats the step; the step itself is not run now."""
        ...

    def drop(self) -> None:
        """Give back the memory of what was recorded; it is never repeated again."""
        ...

    def used_bytes(self) -> int:
        """Return the memory that the device's allocator holds."""
        ...


@dataclass(frozen=True)
class GraphCounts:
    """The cost of recording since the model was loaded."""

    recorded: int = 0
    """Graphs recorded, evicted ones included."""
    dropped: int = 0
    """How often all graphs were dropped, because memory ran out or a larger cache was needed."""
    seconds: float = 0.0
    """Time of recording."""
    bytes: int = 0
    """Memory that the allocator took while recording."""


class Recorded:
    """Tensors that keep their addresses, and steps that are recorded the second time and replayed from then on.

    The first step of a key runs eagerly: libraries allocate their workspaces then, which must not be recorded. All
    caches share one storage, as large as the largest, because no two loops run at a time.
    """

    MOST = 96
    """Graphs kept; of more, the one that was replayed longest ago is dropped."""

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        """Take the device and what records on it."""
        self._device, self._recorder = device, recorder
        self._tensors: dict[tuple[str, tuple[int, ...], torch.dtype], torch.Tensor] = {}
        self._storage: torch.Tensor | None = None
        self._replays: OrderedDict[Hashable, Callable[[], None] | None] = OrderedDict()
        self.counts = GraphCounts()

    @property
    def held_bytes(self) -> int:
        """See `Buffers`."""
        return 0 if self._storage is None else self._storage.nbytes

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """See `Buffers`."""
        key = (name, shape, dtype)
        if key not in self._tensors:
            self._tensors[key] = (
                self._share(shape, dtype) if name == "cache" else torch.zeros(shape, dtype=dtype, device=self._device)
            )
        return self._tensors[key]

    def _share(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = prod(shape)
        if self._storage is None or self._storage.numel() < size:
            self.drop()  # before the larger one is allocated: both might not fit
            self._storage = torch.zeros(size, dtype=dtype, device=self._device)
        return self._storage[:size].view(shape)

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """See `Buffers`."""
        if key not in self._replays:
            step()
            self._replays[key] = None
        else:
            replay = self._replays[key] or self._record(step)
            self._replays[key] = replay
            replay()
        self._replays.move_to_end(key)
        if len(self._replays) > self.MOST:
            self._replays.popitem(last=False)

    def _record(self, step: Callable[[], None]) -> Callable[[], None]:
        began, before = time.perf_counter(), self._recorder.used_bytes()
        replay = self._recorder.record(step)
        counts, seconds = self.counts, time.perf_counter() - began
        grown = max(0, self._recorder.used_bytes() - before)
        self.counts = GraphCounts(counts.recorded + 1, counts.dropped, counts.seconds + seconds, counts.bytes + grown)
        return replay

    def drop(self) -> None:
        """Drop all graphs and all tensors; loops that hold some of them must not go on."""
        counts = self.counts
        if self._replays:
            self.counts = GraphCounts(counts.recorded, counts.dropped + 1, counts.seconds, counts.bytes)
        self._replays.clear()
        self._tensors.clear()
        self._storage = None
        self._recorder.drop()


class CudaRecorder:
    """Records CUDA graphs, all in one memory pool."""

    def __init__(self, device: torch.device) -> None:
        """Take the CUDA device."""
        self._device = device
        self._pool: Any = torch.cuda.graph_pool_handle()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool):
            step()
        return graph.replay

    def drop(self) -> None:
        """See `Recorder`."""
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    def used_bytes(self) -> int:
        """See `Recorder`."""
        return torch.cuda.memory_reserved(self._device)
