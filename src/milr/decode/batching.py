"""How much memory is free, and work in batches that fit into it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from milr.errors import MilrError

USABLE = 0.8
"""Of what is free: the rest is for activations and for whoever else is on the machine."""
_SAYINGS = ("can't allocate memory", "out of memory", "could not create a memory", "could not create a primitive")
"""How torch's CPU allocator, CUDA and oneDNN say that memory ran out, where they have no class of error for it."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class OutOfMemory(MilrError):
    """Not even one row fits."""


def free_bytes(device: torch.device) -> int | None:
    """What a device can still give, the limits of this process and its container heeded; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_host_limits(), default=None)


def _host_limits() -> Iterator[int]:
    if (available := _read_number(Path("/proc/meminfo"), r"MemAvailable:\s+(\d+) kB")) is not None:
        yield available * 1024
    group = Path("/sys/fs/cgroup")
    most, used = (_read_number(group / name, r"^(\d+)$") for name in ("memory.max", "memory.current"))
    if most is not None and used is not None:
        yield max(0, most - used)
    if os.name == "posix":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)  # ulimit -v
        pages = _read_number(Path("/proc/self/statm"), r"^(\d+)")
        if limit != resource.RLIM_INFINITY and pages is not None:
            yield max(0, limit - pages * os.sysconf("SC_PAGE_SIZE"))


def _read_number(path: Path, pattern: str) -> int | None:
    try:
        found = re.search(pattern, path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


def work_in_batches(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]], most: int
) -> tuple[list[Result], int]:
    """Work through all items, at most so many at a time; where memory runs out, the same again with half as many.

    Args:
        items: Any number.
        work: Gives one result an item. What it changes it must change last, or be able to do again.
        most: At least 1.

    Returns:
        The results, in order, and how many items at a time turned out to fit.

    Raises:
        OutOfMemory: One item alone does not fit.
    """
    done: list[Result] = []
    while len(done) < len(items):
        part = items[len(done) : len(done) + most]
        try:
            done += work(part)
            continue
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            if len(part) == 1:
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise OutOfMemory(
                    f"memory ran out with one row at a time ({said}): close other programs, or give the process more"
                ) from error
        # Outside the handler: the error's traceback would hold on to the tensors of the failed attempt.
        most = -(-len(part) // 2)
    return done, most


def fitting(each: int, device: torch.device) -> int | None:
    """How many rows of that many bytes fit into what is free now, at least 1; None where nobody says what is free."""
    free = free_bytes(device)
    return None if free is None else max(1, int(free * USABLE) // max(1, each))
