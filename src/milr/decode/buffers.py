"""Tensors of a decoding loop, and ways to run its steps: eagerly, or replayed as CUDA graphs.

A CUDA graph is a recorded sequence of kernels. Replaying it costs one launch instead of several hundred, which is most
of a decode step's time at small batches. A replay reads and writes the addresses that were recorded, so with graphs
every tensor of a loop has a name and keeps its address while its shape is the same.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch


class Buffers(Protocol):
    """The protocol of a loop's tensors and of running its steps."""

    @property
    def held_bytes(self) -> int:
        """Return the bytes of the cache that the next loop will reuse."""
        ...

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor for this purpose; its numbers are arbitrary but never NaN."""
        ...

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Run a step; steps with equal keys run the same operators on the same tensors."""
        ...

    def drop(self) -> None:
        """Release all memory that can be released."""
        ...


class Fresh:
    """New tensors for every loop; every step runs eagerly."""

    def __init__(self, device: torch.device, *, zero: bool) -> None:
        """Take the device; `zero` clears new tensors, for attention that reads positions before they are written."""
        self._device, self._new = device, torch.zeros if zero else torch.empty
        self.held_bytes = 0

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor (see `Buffers`)."""
        return self._new(shape, dtype=dtype, device=self._device)

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Run a step (see `Buffers`)."""
        step()

    def drop(self) -> None:
        """Release memory (see `Buffers`)."""


class Recorder(Protocol):
    """The protocol of recording steps: `CudaRecorder`, and a fake in tests."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return a call that repeats the step; the step itself is not run now."""
        ...

    def drop(self) -> None:
        """Release the memory of the recordings, which are never replayed again."""
        ...

    def used_bytes(self) -> int:
        """Give back unused memory, as recording does; return the memory that the device's allocator holds."""
        ...


@dataclass(frozen=True)
class GraphCounts:
    """The cost of recording since the model was loaded."""

    recorded: int = 0
    """Graphs recorded, evicted ones included."""
    dropped: int = 0
    """Number of times that all graphs were dropped, because memory ran out or a larger cache was needed."""
    seconds: float = 0.0
    """Time of recording."""
    bytes: int = 0
    """Memory that the allocator took while recording."""


class Recorded:
    """Tensors that keep their addresses, and steps that are recorded at their second run and replayed from then on.

    The first run of a key is eager, because libraries then allocate workspaces, which must not be recorded. All caches
    share one storage, as large as the largest, because no two loops run at the same time.
    """

    MOST = 96
    """Most graphs kept; the least recently replayed one is dropped first."""

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        """Take the device and its recorder."""
        self._device, self._recorder = device, recorder
        self._tensors: dict[tuple[str, tuple[int, ...], torch.dtype], torch.Tensor] = {}
        self._storage: torch.Tensor | None = None
        self._replays: OrderedDict[Hashable, Callable[[], None] | None] = OrderedDict()
        self.counts = GraphCounts()

    @property
    def held_bytes(self) -> int:
        """Return the bytes of the shared cache (see `Buffers`)."""
        return 0 if self._storage is None else self._storage.nbytes

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor (see `Buffers`)."""
        key = (name, shape, dtype)
        if key not in self._tensors:
            self._tensors[key] = (
                self._share(shape, dtype) if name == "cache" else torch.zeros(shape, dtype=dtype, device=self._device)
            )
        if name == "cache":
            self._tensors[key].zero_()  # a NaN of an earlier drawing would pass through its mask: 0 times NaN
        return self._tensors[key]

    def _share(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = prod(shape)
        if self._storage is None or self._storage.numel() < size:
            self.drop()  # released before the larger one is allocated: both might not fit
            self._storage = torch.empty(size, dtype=dtype, device=self._device)
        return self._storage[:size].view(shape)

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Run a step (see `Buffers`)."""
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
        """Drop all graphs and all tensors; loops that hold some of them must not continue."""
        counts = self.counts
        if self._replays:
            self.counts = GraphCounts(counts.recorded, counts.dropped + 1, counts.seconds, counts.bytes)
        self._replays.clear()
        self._tensors.clear()
        self._storage = None
        self._recorder.drop()


_ONE_AT_A_TIME = threading.Lock()
"""CUDA allows one recording in a process, and none while another thread gives memory back."""


class CudaRecorder:
    """Records CUDA graphs, all in one memory pool."""

    def __init__(self, device: torch.device) -> None:
        """Take the CUDA device."""
        self._device = device
        self._pool: Any = torch.cuda.graph_pool_handle()
        # torch's own stream for recordings is of the device that records first: on another nothing would be recorded
        self._stream: Any = torch.cuda.Stream(device)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a CUDA graph (see `Recorder`). Other threads may use the device meanwhile, if they record nothing."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        recording = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        with _ONE_AT_A_TIME, torch.cuda.device(self._device):
            try:
                with recording:
                    step()
            except BaseException:
                torch.cuda.set_stream(before)  # a recording that fails at its end leaves its own stream
                raise
        return graph.replay

    def drop(self) -> None:
        """Release the graphs' memory (see `Recorder`)."""
        with _ONE_AT_A_TIME:
            self._pool = torch.cuda.graph_pool_handle()
            torch.cuda.empty_cache()

    def used_bytes(self) -> int:
        """Return the memory that is held (see `Recorder`)."""
        with _ONE_AT_A_TIME:
            torch.cuda.empty_cache()
            return torch.cuda.memory_reserved(self._device)


def find_recorder(device: torch.device) -> CudaRecorder | None:
    """Return the device's recorder of decode steps; None for a device that has none."""
    return CudaRecorder(device) if device.type == "cuda" else None
