"""What the commands that print tables share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias, get_args

import typer

from milr.errors import UsageError
from milr.files import write_text
from milr.report.tables import Format, Table, write_tables
from milr.runs import Run, read_run

Form: TypeAlias = Annotated[str, typer.Option("--format", help=f"One of: {', '.join(get_args(Format))}.")]
Out: TypeAlias = Annotated[Path | None, typer.Option(metavar="FILE", help="Write there instead of on the screen.")]


def read_begun(folders: Sequence[Path]) -> list[Run]:
    """Read runs; those that have no finished task yet are left out, which is said, unless there are no others."""
    found = [read_run(folder) for folder in folders]
    begun = [run for run in found if run.tasks]
    for run in found if begun else ():
        if not run.tasks:
            typer.echo(f"left out: {run.folder} has no finished task yet", err=True)
    return begun or found


def put(tables: Sequence[Table], form: str, out: Path | None) -> None:
    """Print the tables, or write them to a file."""
    text = write_tables(tables, form)
    if out is None:
        typer.echo(text, nl=False)
    else:
        save(out, text)


def save(out: Path, text: str) -> None:
    """Write a file that was asked for.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    except OSError as error:
        raise UsageError(f"cannot write {out} ({error.strerror}): give --out a file that you may write") from error
