"""`milr compare`: runs compared with a baseline, prompt by prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milr.cli.tables import RUNS, Data, Form, Out, put, read_begun
from milr.report.comparison import compare as compare_entries
from milr.report.comparison_tables import comparison_tables
from milr.report.entries import make_entries


def compare(
    runs: Annotated[list[Path], typer.Argument(help=f"Runs of one benchmark under one evaluator. {RUNS}")],
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="A run's folder, or an entry's name as the tables show it; default: the first run."
        ),
    ] = None,
    form: Form = "text",
    out: Out = None,
    data: Data = None,
) -> None:
    """Compare runs prompt by prompt: paired differences with intervals, by tag, by drawings spent and by time.

    Runs that differ in seed or shard only are joined.
    """
    put(comparison_tables(compare_entries(make_entries(read_begun(runs, data)), baseline)), form, out)
