"""`milr export`: a run's answers in the layout that an official scorer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milr.benchmarks.layouts import LAYOUTS
from milr.cli.screen import echo
from milr.errors import UsageError
from milr.types import say_count


def export(
    runs: Annotated[list[Path], typer.Argument(help="A benchmark's run, or all shards of one.")],
    layout: Annotated[str, typer.Option(help=f"One of: {', '.join(LAYOUTS)}.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A new or empty folder; default: <run>-<layout> beside the run."),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Accept runs that have not finished.")] = False,
) -> None:
    """Write the files that a benchmark's official scorer reads: only each task's answer."""
    from milr.benchmarks.export import export as export_runs
    from milr.runs import read_run

    first = runs[0].resolve()
    folder = out or first.with_name(f"{first.name}-{layout}")
    found = [read_run(run) for run in runs]
    for note in (note for run in found for note in run.notes):
        echo(f"milr: {note}", err=True)
    try:
        made = export_runs(found, layout, folder, partial=partial)
    except OSError as error:
        raise UsageError(f"cannot write {folder} ({error.strerror}): give an --out that you may write to") from error
    echo(f"{say_count(made.pictures, 'image')} of {say_count(made.prompts, 'prompt')}: {made.folder}")
    if made.prompts < made.whole:
        echo(
            f"{made.benchmark} has {made.whole} prompts, and its scorer does not notice that some are missing: the "
            "score will be of these alone"
        )
