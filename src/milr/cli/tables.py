"""Functions shared by the commands that print tables."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias, get_args

import typer

from milr.benchmarks.base import Table as BenchmarkTable
from milr.cli.screen import echo, is_there
from milr.errors import UsageError, unknown_name
from milr.files import is_device, write_text
from milr.report.inputs import find_runs
from milr.report.tables import Cell, Format, Row, Table, write_tables
from milr.runs import Run

RUNS = "Run folders, packed runs or compact results, or folders with any of these."
Form: TypeAlias = Annotated[str, typer.Option("--format", help=f"One of: {', '.join(get_args(Format))}.")]
Out: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write there instead of on the screen: a new file, or one that the same command wrote before.",
    ),
]
_BEGINNING = {"json": 3, "html": 5}
"""Form -> first lines that tell a file of this kind from others, if it is not the first one alone."""
Data: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The benchmark's own files, for packed runs whose prompts are not milr's."),
]


def say(note: str) -> None:
    """Print a note on standard error."""
    echo(f"milr: {note}", err=True)


def read_begun(paths: Sequence[Path], data: Path | None = None) -> list[Run]:
    """Read every run under these paths; print what is left out."""
    found = find_runs(paths, data)
    for note in found.notes:
        say(note)
    return list(found.runs)


def check_form(form: str, *more: str) -> None:
    """Refuse a form that tables do not have, before anything slow is done.

    Args:
        form: As typed.
        more: Forms that the command has beside those of tables.

    Raises:
        UsageError: Names the nearest form.
    """
    known = (*more, *get_args(Format))
    if form not in known:
        raise unknown_name("format", form, known)


def tabulate_answers(table: BenchmarkTable, title: str) -> Table:
    """Return a benchmark's table in the form of reports."""
    rows = [
        Row(one.name, (Cell(one.mean, one.low, one.high, 4, prompts=one.prompts),), of=f"{one.prompts} of {one.of}")
        for one in (*table.columns, *([table.overall] if table.overall else []))
    ]
    rows += [
        Row(
            f"by question: {one.name}",
            (Cell(one.mean, one.low, one.high, 4, prompts=one.prompts),),
            of=f"{one.prompts} of {one.of}",
        )
        for one in table.items
    ]
    none = () if table.overall else ("Overall: none, the official scorer asks for all prompts",)
    unscored = (f"unscored, left out above: {table.unscored} pictures",) if table.unscored else ()
    return Table(title, ("score",), tuple(rows), (*none, *unscored, *table.notes), key=table.benchmark)


def put(tables: Sequence[Table], form: str, out: Path | None) -> None:
    """Print the tables, as wide as the terminal if there is one, or write them to a file."""
    if out is not None:
        save(out, write_tables(tables, form), form)
        return
    width = shutil.get_terminal_size().columns if form == "text" and sys.stdout.isatty() else None
    echo(write_tables(tables, form, width), nl=False)


def save(out: Path, text: str, form: str) -> None:
    """Write an output file, also in the place of an earlier one, which begins in the same way.

    Raises:
        UsageError: It cannot be written, or another file is there.
    """
    begins = b"".join(text.encode().splitlines(keepends=True)[: _BEGINNING.get(form, 1)])
    try:
        if out.is_file() and not is_device(out):
            with out.open("rb") as file:
                if (found := file.read(len(begins))) and found != begins:
                    raise is_there(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text, asked=True)
    except OSError as error:
        raise UsageError(f"cannot write {out} ({error.strerror}): give --out a file that you may write") from error
