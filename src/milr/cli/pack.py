"""`milr pack`: runs as small files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milr.errors import UsageError


def pack(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="For the files; default: beside the runs.")] = None,
) -> None:
    """Write each run as one small file, to keep or to publish: all but the pictures, which their tokens give again."""
    from milr.files import write_bytes
    from milr.runs import pack_run, read_run
    from milr.runs.packing import SUFFIX

    for folder in runs:
        run = read_run(folder)
        place = out or folder.resolve().parent
        file = place / f"{folder.resolve().name}{SUFFIX}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            write_bytes(file, pack_run(run))
        except OSError as error:
            raise UsageError(f"cannot write {file} ({error.strerror}): give --out a folder for the files") from error
        typer.echo(f"{file}: {len(run.tasks)} tasks, {file.stat().st_size / 1000:,.0f} KB")
