"""`milr pack`: runs as small files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from milr.cli.screen import echo
from milr.errors import UsageError
from milr.types import say_count


def pack(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; with --compact packed runs too.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the files; default: beside the runs.")
    ] = None,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact", help="Results only, in a few kilobytes: texts, scores, costs, neither images nor tokens."
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The benchmark's own files, for packed runs whose prompts are not milr's."),
    ] = None,
) -> None:
    """Write each run as one small file, to keep or to publish: all but the images, which its tokens give again."""
    from milr.files import write_bytes
    from milr.report.inputs import open_run
    from milr.runs import COMPACT_SUFFIX, SUFFIX, compact_run, pack_run, read_run

    suffix = COMPACT_SUFFIX if compact else SUFFIX
    files = [(out or path.resolve().parent) / f"{path.resolve().name.removesuffix(SUFFIX)}{suffix}" for path in runs]
    _refuse_one_name(runs, files)
    for path, file in zip(runs, files, strict=True):
        run = open_run(path, data) if compact else read_run(path)
        for note in run.notes:
            echo(f"milr: {note}", err=True)
        content = compact_run(run) if compact else pack_run(run)
        try:
            if file.exists() and file.read_bytes() != content:
                raise UsageError(
                    f"{file} is there already and is not this run; nothing was overwritten: give --out another folder"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, content, asked=True)
        except OSError as error:
            raise UsageError(f"cannot write {file} ({error.strerror}): give --out a folder for the files") from error
        echo(f"{file}: {say_count(len(run.tasks), 'task')}, {len(content) / 1000:,.0f} KB")


def _refuse_one_name(runs: list[Path], files: list[Path]) -> None:
    """Refuse two runs that would become one file."""
    for file, times in Counter(files).items():
        if times > 1:
            both = " and ".join(str(run) for run, own in zip(runs, files, strict=True) if own == file)
            raise UsageError(f"{both} would both be {file}; nothing was written: give each its own --out")
