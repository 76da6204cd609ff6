"""The recorder of CUDA graphs: which torch functions it calls, without a device."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from milr.decode import buffers
from milr.decode.buffers import CudaRecorder

DEVICE = torch.device("cuda:1")


class Torch:
    """Substitutes for the functions of `torch.cuda` that a recorder calls."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: bool) -> None:
        self.fails, self.stream, self.recorded = fails, "the caller's", list[dict[str, Any]]()
        self.emptied = 0
        for name, value in {
            "graph_pool_handle": lambda: "pool",
            "Stream": lambda device: f"a stream of {device}",
            "CUDAGraph": lambda: type("Graph", (), {"replay": "replay"}),
            "current_stream": lambda device: self.stream,
            "set_stream": lambda stream: setattr(self, "stream", stream),
            "device": lambda device: nullcontext(),
            "graph": self.graph,
            "empty_cache": self.empty_cache,
            "memory_reserved": lambda device: 0,
        }.items():
            patch.setattr(torch.cuda, name, value)

    def empty_cache(self) -> None:
        self.emptied += 1
        assert buffers._ONE_AT_A_TIME.locked(), "another thread could be recording"

    @contextmanager
    def graph(self, graph: Any, **options: Any) -> Any:
        """Change the stream back at the end, unless the end fails, as torch does."""
        self.recorded.append(options)
        assert buffers._ONE_AT_A_TIME.locked(), "another thread could begin a second recording"
        before, self.stream = self.stream, options["stream"]
        yield
        if self.fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.stream = before


def test_a_recording_has_its_devices_stream_and_refuses_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    known, steps = Torch(monkeypatch, fails=False), list[int]()
    assert CudaRecorder(DEVICE).record(lambda: steps.append(1)) == "replay"
    assert steps == [1]
    assert known.recorded == [{"pool": "pool", "stream": "a stream of cuda:1", "capture_error_mode": "thread_local"}]


def test_after_a_recording_that_failed_the_stream_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Torch(monkeypatch, fails=True)
    with pytest.raises(RuntimeError, match="capture"):
        CudaRecorder(DEVICE).record(lambda: None)
    assert known.stream == "the caller's"
    assert not buffers._ONE_AT_A_TIME.locked()


def test_memory_is_given_back_while_nobody_records(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Torch(monkeypatch, fails=False)
    recorder = CudaRecorder(DEVICE)
    recorder.drop()
    assert recorder.used_bytes() == 0
    assert known.emptied == 2
