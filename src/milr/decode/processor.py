"""Properties of processors that choose between kernels and number types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

_BFLOAT16_SINCE = 8
"""CUDA compute capability from which bfloat16 is supported in hardware (Ampere)."""


@dataclass(frozen=True)
class Processor:
    """Properties of the processor and of torch that choose between kernels.

    They are read, never timed, so that one machine always chooses alike and its results can be repeated to the bit.
    """

    intel: bool
    """Made by Intel. On others MKL may use other kernels, which were not measured."""
    avx512: bool
    """Has the AVX-512 instructions that MKL's kernels need."""
    mkl: bool
    """torch multiplies float32 matrices with MKL."""

    @classmethod
    def read(cls, cpuinfo: str, *, mkl: bool) -> Processor:
        """Read the properties from the content of Linux's /proc/cpuinfo; what is not there is taken as absent."""
        vendor = re.search(r"^vendor_id\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
        line = re.search(r"^flags\s*:\s*(.+)", cpuinfo, re.MULTILINE)
        flags = line[1].split() if line else []
        return cls(bool(vendor and vendor[1] == "GenuineIntel"), "avx512bw" in flags, mkl)


@cache
def this_processor() -> Processor:
    """Return the properties of this machine."""
    path = Path("/proc/cpuinfo")
    return Processor.read(path.read_text() if path.exists() else "", mkl=torch.backends.mkl.is_available())


def computes_bfloat16(device: torch.device) -> bool:
    """Return true if a CUDA device supports bfloat16 in hardware."""
    return torch.cuda.get_device_capability(device)[0] >= _BFLOAT16_SINCE
