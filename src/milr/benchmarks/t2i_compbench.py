"""T2I-CompBench: six lists of 300 prompts, one prompt per line. Source: Karine-Huang/T2I-CompBench, commit 1b70949."""

from __future__ import annotations

from pathlib import Path

from milr.benchmarks.base import Benchmark
from milr.rewards.compbench.prompts import CATEGORIES
from milr.sources import SOURCES
from milr.types import Task


def _read(folder: Path | None) -> list[Task]:
    where = SOURCES["t2i-compbench"].find(folder)
    return [
        Task(prompt=line.strip(), tag=category)
        for category in CATEGORIES
        for line in (where / f"{category}_val.txt").read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]


T2I_COMPBENCH = Benchmark(
    name="t2i-compbench",
    title="T2I-CompBench",
    columns=dict.fromkeys(CATEGORIES, 300),
    weights=dict.fromkeys(CATEGORIES, 1 / len(CATEGORIES)),
    read=_read,
    reward="t2i-compbench",
    layout="t2i-compbench",
)
