"""Free memory, and work split into batches that fit into it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from milr.errors import MilrError

USABLE, USABLE_ON_CUDA = 0.8, 0.9
"""Share of the free memory to use: the rest is for activations, and on a CPU for other programs."""
_MESSAGES = ("can't allocate memory", "out of memory", "could not create a memory", "could not create a primitive")
"""Messages of torch's CPU allocator, CUDA and oneDNN when memory ran out, if no error class says so."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class OutOfMemory(MilrError):
    """The error if not even one row fits into memory."""


def free_bytes(device: torch.device) -> int | None:
    """Return a device's free memory within the limits of this process and its container; None if unknown."""
    if device.type == "cuda":
        # memory that torch's allocator holds without using it is free too
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
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
    """Return true if an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def say_shortage(error: BaseException) -> str:
    """Return what an error says about memory, in one line: what was asked for, and what is free."""
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"(CUDA out of memory\..*? is free)\..*", r"\1", said)  # advice for torch's allocator follows


def tell_shortage(error: BaseException, advice: str, when: str = "") -> OutOfMemory | None:
    """Return the error of one line that says that memory ran out; None if the given error says something else.

    Args:
        error: Any.
        advice: What else to do than to close other programs.
        when: What was done, with a space before it: " while it was loaded".
    """
    if not ran_out(error):
        return None
    return OutOfMemory(f"memory ran out{when} ({say_shortage(error)}): close other programs that use it, or {advice}")


def work_in_batches(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Result]],
    most: int,
    *,
    free_memory: Callable[[], None] | None = None,
) -> tuple[list[Result], int]:
    """Work through all items in batches of at most ``most``; if memory runs out, halve the batch and repeat.

    Args:
        items: Any number.
        work: Returns one result per item. It must be repeatable, or change things last.
        most: At least 1.
        free_memory: Called when memory ran out, before the work is repeated. One item alone is then tried once more.

    Returns:
        The results, in order, and the batch size that fitted.

    Raises:
        OutOfMemory: One item alone does not fit.
    """
    done: list[Result] = []
    freed = False
    while len(done) < len(items):
        part = items[len(done) : len(done) + most]
        try:
            done += work(part)
            freed = False
            continue
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            if len(part) == 1 and (freed or free_memory is None):
                raise OutOfMemory(
                    f"memory ran out with one row at a time ({say_shortage(error)}): close other programs, or give the "
                    "process more"
                ) from error
        # outside the handler: the error's traceback would keep the tensors of the failed attempt
        if free_memory:
            free_memory()
            freed = True
        if len(part) > 1:
            most = -(-len(part) // 2)
    return done, most


def fitting(each: int, device: torch.device, held: int = 0) -> int | None:
    """Return how many rows fit into free memory, at least 1; None if free memory is unknown.

    Args:
        each: Bytes of a row.
        device: The device.
        held: Bytes of rows that are allocated already and will be reused by the next batch.
    """
    free = free_bytes(device)
    return None if free is None else max(1, int(free * usable(device) + held) // max(1, each))


def usable(device: torch.device) -> float:
    """Return the share of a device's free memory to use."""
    return USABLE_ON_CUDA if device.type == "cuda" else USABLE
