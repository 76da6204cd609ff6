"""The paper's tables as its authors published them (see published/README.md for the source)."""

from __future__ import annotations

import csv
from pathlib import Path

from milr.report.tables import Cell, Row

SOURCE = "arXiv 2509.22761"
_FOLDER = Path(__file__).parent / "published"


def read_published(name: str) -> tuple[tuple[str, ...], list[Row]]:
    """The columns and rows of one published table.

    Args:
        name: A file of the folder `published`, without ".csv".
    """
    with (_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        head, *lines = list(csv.reader(file))
    group, method = head.index("Group"), head.index("Method")
    numbers = [place for place in range(len(head)) if place not in (group, method)]
    rows = [
        Row(
            line[method],
            tuple(_read(line[place]) for place in numbers),
            kind="published",
            group=line[group] or "Published",
        )
        for line in lines
    ]
    return tuple(head[place] for place in numbers), rows


def _read(text: str) -> Cell:
    """A number with the digits that it was published with; "-" is nothing."""
    return Cell() if text == "-" else Cell(float(text), digits=len(text.partition(".")[2]))
