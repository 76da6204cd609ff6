"""A benchmark: six prompts of warm things, judged by the reward of another plug-in."""

from __future__ import annotations

from pathlib import Path

from milr import Task
from milr.benchmarks.base import Benchmark

PROMPTS = {
    "sky": ("a sunset", "a red sky", "an orange cloud"),
    "things": ("a red apple", "an orange", "a red clock"),
}


def read(folder: Path | None) -> list[Task]:
    """Return all tasks in their official order."""
    return [Task(prompt=prompt, tag=tag) for tag, prompts in PROMPTS.items() for prompt in prompts]


SUNSETS = Benchmark(
    name="sunsets",
    title="Sunsets",
    columns={tag: len(prompts) for tag, prompts in PROMPTS.items()},
    weights={"sky": 0.5, "things": 0.5},
    read=read,
    reward="warmth",
)
