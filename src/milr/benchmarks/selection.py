"""Selection of a benchmark's tasks for a run: by tag, by number, by shard."""

from __future__ import annotations

import re
from collections.abc import Sequence

from milr.benchmarks.base import Benchmark
from milr.errors import UsageError, unknown_name
from milr.types import Task

SHARD_FORM = "give i/n, for instance 2/3 for the second of three"


def select(
    benchmark: Benchmark,
    tasks: Sequence[Task],
    *,
    tags: Sequence[str] = (),
    limit: int | None = None,
    shard: str | None = None,
) -> list[tuple[int, Task]]:
    """Return the selected tasks with their indices (from 0), in the benchmark's order.

    Args:
        benchmark: Knows the tags.
        tasks: The benchmark's whole list.
        tags: Tags to keep; none keeps all.
        limit: Number of tasks, spread evenly over the tags: the first of each, the next of each, and so on.
        shard: "2/3" takes every third of the remaining tasks, from the second on: all three together take each once.

    Raises:
        UsageError: A tag that the benchmark does not have, a limit below 1, a malformed shard, or no task left.
    """
    for tag in tags:
        if tag not in benchmark.columns:
            raise unknown_name("tag", tag, benchmark.columns)
    left = [(place, task) for place, task in enumerate(tasks) if not tags or task.tag in tags]
    if limit is not None:
        if limit < 1:
            raise UsageError(f"--limit {limit}: give 1 or more, or leave it out")
        seen: dict[str | None, int] = {}
        turns: list[tuple[int, int]] = []  # index within its tag, index in `left`
        for at, (_, task) in enumerate(left):
            turns.append((seen.setdefault(task.tag, 0), at))
            seen[task.tag] += 1
        left = [left[at] for at in sorted(at for _, at in sorted(turns)[:limit])]
    if shard is not None:
        number, many = read_shard(shard)
        left = left[number - 1 :: many]
    if not left:
        raise UsageError(f"no prompts of {benchmark.name} are left: give a smaller --shard")
    return left


def read_shard(text: str) -> tuple[int, int]:
    """Return ``2/3`` as (2, 3).

    Raises:
        UsageError: The text is not a shard.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}: {SHARD_FORM}")
    return int(match[1]), int(match[2])
