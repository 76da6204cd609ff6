"""The paper's tables as its authors published them (see published/README.md for the source)."""

from __future__ import annotations

import csv
from pathlib import Path

from milr.benchmarks import load_benchmark
from milr.report.tables import Cell, Row

SOURCE = "arXiv 2509.22761"
_FOLDER = Path(__file__).parent / "published"
_BENCHMARKS = {
    "geneval": ("geneval",),
    "geneval_rewards": ("geneval",),
    "t2i_compbench_rewards": ("t2i-compbench",),
    "t2i_compbench_wise": ("t2i-compbench", "wise-legacy"),
    "ablation": ("geneval", "t2i-compbench", "wise-legacy"),
}
"""Columns of each table: one benchmark by column with its overall score, the others by their overall score alone.

WISE's numbers were measured on its prompts of 2025, `wise-legacy`.
"""


def read_published(name: str) -> tuple[tuple[str, ...], list[Row]]:
    """Return the columns and rows of one published table.

    Args:
        name: A file of the folder `published`, without ".csv".
    """
    with (_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        head, *lines = list(csv.reader(file))
    group, method = head.index("Group"), head.index("Method")
    numbers = [place for place in range(len(head)) if place not in (group, method)]
    first, *others = map(load_benchmark, _BENCHMARKS[name])
    prompts = [*first.columns.values(), first.prompts, *(benchmark.prompts for benchmark in others)]
    rows: list[Row] = []
    for line in lines:
        cells = tuple(_read(line[place], many) for place, many in zip(numbers, prompts, strict=True))
        whole = [cell.prompts for cell in cells[len(first.columns) :] if cell.prompts is not None]
        of = " + ".join(f"{many:,}" for many in whole)
        rows.append(Row(line[method], cells, kind="published", group=line[group] or "Published", of=of))
    return tuple(head[place] for place in numbers), rows


def _read(text: str, prompts: int) -> Cell:
    """Return a number with the digits of the publication; "-" is empty."""
    return Cell() if text == "-" else Cell(float(text), digits=len(text.partition(".")[2]), prompts=prompts)
