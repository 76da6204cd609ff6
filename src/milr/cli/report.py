"""`milr report`: the paper's tables and figures with our runs in them, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milr.cli.screen import echo
from milr.cli.tables import RUNS, Data, Out, check_form, put, read_begun, save, say
from milr.errors import UsageError
from milr.report.inputs import leave_repeats_out
from milr.report.page import draw_page, report_tables
from milr.runs import read_run


def report(
    runs: Annotated[list[Path], typer.Argument(help=f"Runs of any benchmarks and methods. {RUNS}")],
    out: Out = None,
    data: Data = None,
    form: Annotated[
        str, typer.Option("--format", help="html, or the tables alone: text, md, csv, json, latex.")
    ] = "html",
    viewer: Annotated[
        bool,
        typer.Option("--viewer", help="One run, step by step: the viewer of milr serve in one file."),
    ] = False,
) -> None:
    """Write the paper's tables and figures with your runs beside the published numbers, as one page."""
    check_form(form, "html")
    if viewer:
        if form != "html" or data is not None:
            raise UsageError("--viewer writes one run's page: leave --format and --data out")
        _write_viewer(runs, out)
        return
    if form == "html" and out is None:
        raise UsageError("a page needs a file: add --out report.html, or --format md for the tables")
    found = leave_repeats_out(read_begun(runs, data), say)
    if form != "html" or out is None:
        put(report_tables(found), form, out)
        return
    save(out, draw_page(found), form)
    echo(f"report: {out}", err=True)


def _write_viewer(runs: list[Path], out: Path | None) -> None:
    from milr.serve.viewer import draw_viewer

    if len(runs) != 1:
        raise UsageError(f"--viewer shows one run, and {len(runs)} are given: type the command once for each")
    if out is None:
        raise UsageError("a page needs a file: add --out run.html")
    run = read_run(runs[0])
    save(out, draw_viewer(run), "html")
    echo(f"viewer: {out}", err=True)
