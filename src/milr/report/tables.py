"""Tables as data, and their five forms: plain text, Markdown, CSV, JSON and LaTeX. The page draws them too."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from milr.benchmarks.intervals import Estimate, write_interval, write_number
from milr.errors import unknown_name

Format = Literal["text", "md", "csv", "json", "latex"]
NOTHING = "–"
_NARROW = 20
"""Least letters of a name, even on a narrow terminal."""
BOLD_FROM = 30
"""Fewest prompts of a difference that is shown as clear: with fewer, one more prompt may change its sign."""
INTERVALS = (
    "[low, high]: 95 % interval; the unit is the prompt. By Wilson for scores, by Bonett and Price for paired "
    "differences, by MOVER for means over tags. n: prompts, where it is not the row's number."
)
"""Note on intervals."""


@dataclass(frozen=True)
class Cell:
    """A number with its interval, or text, or nothing."""

    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    digits: int = 2
    signed: bool = False
    """True to write the plus sign of a positive difference."""
    prompts: int | None = None
    """Number of prompts of the mean; None if the number is not a mean over prompts."""
    says_prompts: bool = False
    """True to write the number of prompts too."""

    @classmethod
    def of(cls, estimate: Estimate | None, digits: int = 2, signed: bool = False) -> Cell:
        """Return the cell of an estimate; empty if it has no value."""
        if estimate is None or math.isnan(estimate.value):
            return cls()
        low, high = (None if math.isnan(end) else end for end in (estimate.low, estimate.high))
        return cls(estimate.value, low, high, digits, signed, estimate.prompts)

    @property
    def text(self) -> str:
        """Return the cell's text: "0.73 [0.61, 0.84]"."""
        return f"{self.number} {self.beside}".rstrip()

    @property
    def number(self) -> str:
        """Return the value without its interval."""
        return NOTHING if self.value is None else self.value if isinstance(self.value, str) else self._write(self.value)

    @property
    def interval(self) -> str:
        """Return "[0.61, 0.84]"; empty if there is no interval."""
        if self.low is None or self.high is None:
            return ""
        return write_interval(self.low, self.high, self.digits, self.signed)

    @property
    def beside(self) -> str:
        """Return the text beside the value: its interval, and the number of prompts if needed."""
        return f"{self.interval} {f'n={self.prompts}' if self.says_prompts else ''}".strip()

    @property
    def clear(self) -> bool:
        """Return true for a difference over enough prompts (`BOLD_FROM`) whose interval excludes zero."""
        if not self.signed or self.low is None or self.high is None or (self.prompts or 0) < BOLD_FROM:
            return False
        return self.low > 0 or self.high < 0

    def _write(self, number: float) -> str:
        return write_number(number, self.digits, self.signed)


@dataclass(frozen=True)
class Row:
    """One row; rows under "published" were measured by others."""

    name: str
    cells: tuple[Cell, ...]
    kind: Literal["ours", "published"] = "ours"
    group: str = ""
    """Heading above the row's group."""
    of: str = ""
    """Number of prompts in words, if `prompts` cannot give it."""

    @property
    def prompts(self) -> int | None:
        """Return the row's number of prompts: that of the cell with most."""
        return max((cell.prompts for cell in self.cells if cell.prompts is not None), default=None)


@dataclass(frozen=True)
class Table:
    """Rows under column names, with notes below."""

    title: str
    columns: tuple[str, ...]
    """Names of the cells' columns; the rows' names have none."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    key: str = field(default="", kw_only=True)
    """Short name for programs and links: "table-1"."""

    @property
    def counted(self) -> bool:
        """Return true if it has means over prompts, so that it shows their number."""
        return any(row.of or row.prompts is not None for row in self.rows)

    @property
    def heads(self) -> tuple[str, ...]:
        """Return the headings of the visible cells."""
        return ("prompts", *self.columns) if self.counted else self.columns

    def cells(self, row: Row) -> tuple[Cell, ...]:
        """Return the visible cells of a row: its number of prompts, then its own cells.

        One of our cells that is over another number of prompts than its row shows it.
        """
        if not self.counted:
            return row.cells
        ours = row.kind == "ours"
        shown = (replace(one, says_prompts=ours and one.prompts not in (None, row.prompts)) for one in row.cells)
        return (Cell(row.of or (None if row.prompts is None else str(row.prompts))), *shown)


def write_tables(tables: Sequence[Table], form: str, width: int | None = None) -> str:
    """Return the tables in one of the forms of `Format`, with a final line break.

    Args:
        tables: The tables in order.
        form: One of `Format`.
        width: Width of plain text: wider text is wrapped, tables between columns; None means the widest line.

    Raises:
        UsageError: There is no such form.
    """
    writers = {"text": _text, "md": _markdown, "csv": _csv, "json": _json, "latex": _latex}
    if form not in writers:
        raise unknown_name("format", form, get_args(Format))
    text = _text(tables, width) if form == "text" else writers[form](tables)
    return text.rstrip("\n") + "\n"


def _text(tables: Sequence[Table], width: int | None = None) -> str:
    return "\n\n".join("\n".join(_text_lines(table, width)) for table in tables)


def _text_lines(table: Table, width: int | None) -> Iterator[str]:
    yield from _wrap(table.title, width)
    if table.rows:
        yield from _grid(table, width)
    for note in table.notes:
        yield from _wrap(note, width)


def _grid(table: Table, width: int | None) -> Iterator[str]:
    lines = [["", *table.heads], *([row.name, *(cell.text for cell in table.cells(row))] for row in table.rows)]
    names = [line[0] for line in lines]
    if width is not None:
        names = [_cut(name, max(_NARROW, width // 3)) for name in names]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[0] = max(map(len, names))
    for block, columns in enumerate(_blocks(widths, width)):
        if block:
            yield ""
        shown = [[name, *(line[column] for column in columns)] for name, line in zip(names, lines, strict=True)]
        rows = [_align(line, [widths[0], *(widths[column] for column in columns)]) for line in shown]
        yield from _with_headings(rows, table.rows, "{}")


def _blocks(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Return the columns of each block of a broken table; every block repeats the rows' names."""
    blocks: list[list[int]] = [[]]
    used = widths[0]
    for column, wide in enumerate(widths[1:], start=1):
        if width is not None and blocks[-1] and used + 2 + wide > width:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(column)
        used += 2 + wide
    return blocks


def _cut(text: str, width: int) -> str:
    """Shorten a name in the middle, because both its start and its end distinguish entries."""
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - half]}…{text[-half:]}"


def _wrap(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width, _NARROW)) or [""]


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
    return "  ".join(cells).rstrip()


def _markdown(tables: Sequence[Table]) -> str:
    blocks: list[str] = []
    for table in tables:
        head = f"| | {' | '.join(map(_escape, table.heads))} |\n|---|{'---|' * len(table.heads)}"
        rows = [
            f"| {_escape(row.name)} | {' | '.join(_escape(cell.text) for cell in table.cells(row))} |"
            for row in table.rows
        ]
        form = f"| *{{}}* {'| ' * len(table.heads)}|"
        body = _with_headings([head, *rows], table.rows, form) if rows else []
        notes = "".join(f"\n* {note}" for note in table.notes)
        blocks.append(f"## {table.title}\n\n" + "\n".join(body) + (f"\n{notes}" if notes else ""))
    return "\n\n".join(blocks)


_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{letter: rf"\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "−": r"$-$",
    "λ": r"$\lambda$",
}


def _latex(tables: Sequence[Table]) -> str:
    """Return tables for a paper: `booktabs` rules, clear differences in bold, notes below each."""
    return "% \\usepackage{booktabs}\n" + "\n\n".join(map(_latex_table, tables))


def _latex_table(table: Table) -> str:
    if not table.rows:
        return "\n\n".join([rf"\paragraph{{{_tex(table.title)}}}", *map(_tex, table.notes)])
    heads = " & ".join(["", *map(_tex, table.heads)])
    rows = [
        " & ".join([_tex(row.name), *(_tex_cell(cell) for cell in table.cells(row))]) + r" \\" for row in table.rows
    ]
    heading = r"\multicolumn{%d}{l}{\emph{%s}} \\"
    body: list[str] = []
    for row, before, line in zip(table.rows, [None, *table.rows], rows, strict=False):
        if row.group and (before is None or before.group != row.group):
            body.append(heading % (len(table.heads) + 1, _tex(row.group)))
        body.append(line)
    notes = [rf"\\[2pt] \footnotesize {_tex(note)}" for note in table.notes]
    label = rf"\label{{tab:{table.key}}}" if table.key else ""
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}}}{label}",
            rf"\begin{{tabular}}{{l{'l' * len(table.heads)}}}",
            r"\toprule",
            heads.lstrip() + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
        ]
    )


def _tex(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _tex_cell(cell: Cell) -> str:
    number = rf"\textbf{{{_tex(cell.number)}}}" if cell.clear else _tex(cell.number)
    return f"{number} {_tex(cell.beside)}".rstrip()


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _with_headings(lines: Sequence[str], rows: Sequence[Row], form: str) -> list[str]:
    """Return the heading line and the rows' lines, with a heading before each new group, in that form."""
    found, group = [lines[0]], ""
    for line, row in zip(lines[1:], rows, strict=True):
        if row.group and row.group != group:
            found.append(form.format(row.group))
        group = row.group
        found.append(line)
    return found


def _csv(tables: Sequence[Table]) -> str:
    """Return one line per cell, so that tables of all widths fit one file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "group", "row", "kind", "column", "value", "low", "high", "prompts"])
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                place = [table.key or table.title, row.group, row.name, row.kind, column]
                writer.writerow([*place, *("" if x is None else x for x in _data(cell).values())])
    return out.getvalue()


def _json(tables: Sequence[Table]) -> str:
    return json.dumps([as_data(table) for table in tables], ensure_ascii=False, indent=2)


def as_data(table: Table) -> Mapping[str, object]:
    """Return the table as plain dicts and lists, with unrounded numbers."""
    return {
        "key": table.key,
        "title": table.title,
        "columns": table.columns,
        "rows": [
            {
                "name": row.name,
                "group": row.group,
                "kind": row.kind,
                "cells": [_data(cell) for cell in row.cells],
            }
            for row in table.rows
        ],
        "notes": table.notes,
    }


def _data(cell: Cell) -> Mapping[str, object]:
    return {"value": cell.value, "low": cell.low, "high": cell.high, "prompts": cell.prompts}
