"""Limits of this machine, bytes and operations per second, measured by the programs that compare against them."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from milr.decode.packed_linear import pack

_BYTES = 2**29
_ROWS, _INPUTS, _OUTPUTS = 256, 2048, 5632


@dataclass(frozen=True)
class Machine:
    """The best of several tries each."""

    name: str
    torch: str
    threads: int
    bytes_a_second: float
    """Bytes per second of memory read in one stream."""
    operations_a_second: float
    """Operations per second of a large packed matrix product in the weights' dtype; a multiplication and an addition
    are two."""


def clock() -> float:
    """Return the seconds that this thread ran, if known, because a busy machine counts less; else the wall's."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of one run."""
    started = clock()
    work()
    return clock() - started


@torch.inference_mode()
def measure_machine(dtype: torch.dtype) -> Machine:
    """Read half a gigabyte; multiply matrices of a decoder's size."""
    much = torch.ones(_BYTES // 4)
    vector = torch.ones(2048)
    reads = (lambda: much.sum(), lambda: much.view(-1, 2048) @ vector)
    read = min(seconds(one) for _ in range(5) for one in reads)
    layer = nn.Sequential(nn.Linear(_INPUTS, _OUTPUTS, bias=False)).to(dtype).requires_grad_(False)
    pack(layer)
    rows = torch.ones(_ROWS, _INPUTS, dtype=dtype)
    product = min(seconds(lambda: layer(rows)) for _ in range(15))
    return Machine(
        name=_processor(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        bytes_a_second=_BYTES / read,
        operations_a_second=2 * _ROWS * _INPUTS * _OUTPUTS / product,
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.exists() else None
    return found[1].strip() if found else platform.processor()
