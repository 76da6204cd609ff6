"""GenEval: 553 prompts of six kinds. Source: djghosh13/geneval, commit af4902f, evaluation_metadata.jsonl."""

from __future__ import annotations

from pathlib import Path

from milr.benchmarks.base import Benchmark
from milr.sources import SOURCES
from milr.tasks import read_tasks
from milr.types import Task

COLUMNS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}


def _read(folder: Path | None) -> list[Task]:
    source = SOURCES["geneval"]
    return read_tasks(source.find(folder) / source.files[0].name, free=True)


GENEVAL = Benchmark(
    name="geneval",
    title="GenEval",
    columns=COLUMNS,
    weights={tag: 1 / len(COLUMNS) for tag in COLUMNS},
    read=_read,
    reward="geneval",
    layout="geneval",
    in_icon_world=True,
)
