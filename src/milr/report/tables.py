"""A table as data, and its four forms: plain text, Markdown, CSV and JSON. The page draws it too."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from milr.errors import unknown_name
from milr.report.statistics import Estimate

Format = Literal["text", "md", "csv", "json"]
NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """A number with its interval, or words, or nothing."""

    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    digits: int = 2
    signed: bool = False
    """Write the plus of what is above zero: a difference."""

    @classmethod
    def of(cls, estimate: Estimate | None, digits: int = 2, signed: bool = False) -> Cell:
        """The estimate; nothing where it has no value."""
        if estimate is None or math.isnan(estimate.value):
            return cls()
        return cls(estimate.value, estimate.low, estimate.high, digits, signed)

    @property
    def text(self) -> str:
        """As it is read: "0.73 [0.61, 0.84]"."""
        return f"{self.number} {self.interval}".rstrip()

    @property
    def number(self) -> str:
        """The value without its interval."""
        return NOTHING if self.value is None else self.value if isinstance(self.value, str) else self._write(self.value)

    @property
    def interval(self) -> str:
        """As in "[0.61, 0.84]"; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{self._write(self.low)}, {self._write(self.high)}]"

    @property
    def clear(self) -> bool:
        """A difference whose interval leaves zero out."""
        return self.signed and self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def _write(self, number: float) -> str:
        rounded = round(number, self.digits) + 0.0  # no minus before a zero
        return f"{rounded:{'+' if self.signed else ''}.{self.digits}f}"


@dataclass(frozen=True)
class Row:
    """One line; what stands under "published" was measured by others."""

    name: str
    cells: tuple[Cell, ...]
    kind: Literal["ours", "published"] = "ours"
    group: str = ""
    """The heading that it stands under."""


@dataclass(frozen=True)
class Table:
    """Rows under column names, with what a reader must know below."""

    title: str
    columns: tuple[str, ...]
    """Of the cells; the rows' names have none."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    key: str = field(default="", kw_only=True)
    """A short name for programs and links: "table-1"."""


def write_tables(tables: Sequence[Table], form: str) -> str:
    """The tables in one of the forms of `Format`; ends with a line break.

    Raises:
        UsageError: No such form.
    """
    writers = {"text": _text, "md": _markdown, "csv": _csv, "json": _json}
    if form not in writers:
        raise unknown_name("format", form, get_args(Format))
    return writers[form](tables).rstrip("\n") + "\n"


def _text(tables: Sequence[Table]) -> str:
    blocks: list[str] = []
    for table in tables:
        lines = [["", *table.columns], *([row.name, *(cell.text for cell in row.cells)] for row in table.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [_align(line, widths) for line in lines]
        blocks.append("\n".join([table.title, *_with_headings(rows, table.rows, "{}"), *table.notes]))
    return "\n\n".join(blocks)


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
    return "  ".join(cells).rstrip()


def _markdown(tables: Sequence[Table]) -> str:
    blocks: list[str] = []
    for table in tables:
        head = f"| | {' | '.join(map(_escape, table.columns))} |\n|---|{'---|' * len(table.columns)}"
        rows = [
            f"| {_escape(row.name)} | {' | '.join(_escape(cell.text) for cell in row.cells)} |" for row in table.rows
        ]
        form = f"| *{{}}* {'| ' * len(table.columns)}|"
        body = _with_headings([head, *rows], table.rows, form)
        notes = "".join(f"\n* {note}" for note in table.notes)
        blocks.append(f"## {table.title}\n\n" + "\n".join(body) + (f"\n{notes}" if notes else ""))
    return "\n\n".join(blocks)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _with_headings(lines: Sequence[str], rows: Sequence[Row], form: str) -> list[str]:
    """The head line and the rows' lines; before each new group its heading, in that form."""
    found, group = [lines[0]], ""
    for line, row in zip(lines[1:], rows, strict=True):
        if row.group and row.group != group:
            found.append(form.format(row.group))
        group = row.group
        found.append(line)
    return found


def _csv(tables: Sequence[Table]) -> str:
    """A line a cell, so that tables of all widths fit one file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "group", "row", "kind", "column", "value", "low", "high"])
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                place = [table.key or table.title, row.group, row.name, row.kind, column]
                writer.writerow([*place, *("" if x is None else x for x in (cell.value, cell.low, cell.high))])
    return out.getvalue()


def _json(tables: Sequence[Table]) -> str:
    return json.dumps([as_data(table) for table in tables], ensure_ascii=False, indent=2)


def as_data(table: Table) -> Mapping[str, object]:
    """The table in plain dicts and lists, numbers unrounded."""
    return {
        "key": table.key,
        "title": table.title,
        "columns": table.columns,
        "rows": [
            {
                "name": row.name,
                "group": row.group,
                "kind": row.kind,
                "cells": [{"value": cell.value, "low": cell.low, "high": cell.high} for cell in row.cells],
            }
            for row in table.rows
        ],
        "notes": table.notes,
    }
