"""The contract of benchmarks."""

from __future__ import annotations

import math
from typing import Any

from milr.benchmarks import load_benchmark
from milr.benchmarks.base import Answer, Benchmark
from milr.benchmarks.layouts import LAYOUTS
from milr.benchmarks.tables import summarise
from milr.rewards import check_reward, check_scorable
from milr.testing.contracts.violations import require


def check_benchmark(benchmark: str | Benchmark, *, data: Any = None) -> None:
    """Check a benchmark: its tasks, tags, weights, default evaluator and table.

    Args:
        benchmark: A name, as `milr.benchmarks.load_benchmark` takes it, or the benchmark itself.
        data: Folder of its files, for `Benchmark.read`.

    Raises:
        ContractError: The contract is not kept.
    """
    made = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    tasks = made.read(data)
    require(bool(tasks), f"{made.name} has no tasks")
    require(tasks == made.read(data), f"{made.name} lists other tasks, or another order, when it is read again")
    counts = {tag: sum(task.tag == tag for task in tasks) for tag in made.columns}
    require(counts == dict(made.columns), f"columns say {dict(made.columns)}, and the tasks' tags are {counts}")
    require(len(tasks) == made.prompts, f"{made.name} has tasks with tags that are none of its columns")
    require(set(made.weights) == set(made.columns), "weights and columns have other tags")
    require(math.isclose(sum(made.weights.values()), 1), f"weights add up to {sum(made.weights.values())}, not to 1")
    require(made.layout is None or made.layout in LAYOUTS, f"no layout {made.layout!r}; known: {', '.join(LAYOUTS)}")
    check_reward(made.reward)
    check_scorable(made.reward, tasks)
    table = summarise(made, [Answer(task, place, 0, 1.0) for place, task in enumerate(tasks)])
    fine = table.overall is not None and math.isclose(table.overall.mean, 1)
    require(fine, "a benchmark whose images are all right has an overall score of 1")
