"""`milr data get`: a benchmark's prompt files from their public source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milr.cli.options import INTERRUPTED
from milr.cli.screen import echo
from milr.errors import UsageError, unknown_name
from milr.sources import SOURCES
from milr.types import say_count

app = typer.Typer(help="The benchmarks' prompt files, which do not come with milr.")


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(SOURCES)}.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the files; default: $MILR_DATA or ~/.cache/milr/data."),
    ] = None,
    accept: Annotated[bool, typer.Option("--accept-licence", help="Do not ask about the licence.")] = False,
    address: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="Another server with the same files.")
    ] = None,
) -> None:
    """Fetch a benchmark's prompts, once its licence is confirmed; every file must have the known hash."""
    if name not in SOURCES:
        raise unknown_name("data", name, SOURCES)
    source = SOURCES[name]
    folder = out or source.folder
    files = say_count(len(source.all_files), "file")
    echo(f"{source.name}: {files} of github.com/{source.repository} at {source.commit}")
    echo(f"licence: {source.licence}")
    if not accept and not _ask(name):
        raise UsageError("nothing was fetched: the licence was not accepted")
    from milr.benchmarks.fetch import fetch

    here = 0
    try:
        for file, fetched in fetch(source, folder, address):
            here += 1
            echo(f"{'fetched' if fetched else 'there already'}: {folder / file.name}")
    except KeyboardInterrupt:
        echo(f"milr: interrupted; {here} of {len(source.all_files)} files are there: type the same command to go on")
        raise typer.Exit(INTERRUPTED) from None
    echo(f"type: milr benchmark {name}" + (f" --data {folder}" if out else ""))


def _ask(name: str) -> bool:
    try:
        return typer.confirm("fetch them under this licence?")
    except typer.Abort:
        raise UsageError(
            f"nobody can be asked here: to accept the licence, type milr data get {name} --accept-licence"
        ) from None


@app.callback()
def start() -> None:
    """Make `get` a subcommand, even while it is the only one."""
