"""`milr pack`: runs as small files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milr.cli.screen import echo, is_there
from milr.errors import UsageError
from milr.files import write_bytes
from milr.types import say_count

if TYPE_CHECKING:
    from milr.runs import Run


def pack(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders; with --compact packed runs and compact results too.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Folder for the files; default: beside the runs. With --compact also a file, NAME.results.xz, "
            "which takes all runs: a third of the bytes.",
        ),
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
    from milr.report.inputs import open_run
    from milr.runs import COMPACT_SUFFIX, SUFFIX, compact_runs, pack_run, plain_name, read_run

    if out is not None and out.suffix.lower() == ".xz":
        if not (compact and out.name.endswith(COMPACT_SUFFIX)):
            raise UsageError(f"--out {out}: give a folder, or with --compact a file for all runs, NAME{COMPACT_SUFFIX}")
        named = list[str]()
        content = compact_runs(_open_all(runs, data, named))
        _write(out, content, say_count(len(named), "run"))
        return
    suffix = COMPACT_SUFFIX if compact else SUFFIX
    files = [(out or _folder(path)) / f"{plain_name(path.resolve())}{suffix}" for path in runs]
    _refuse_one_name(runs, files)
    for path, file in zip(runs, files, strict=True):
        run = open_run(path, data) if compact else read_run(path)
        for note in run.notes:
            echo(f"milr: {note}", err=True)
        content = compact_runs([("", run)]) if compact else pack_run(run)
        _write(file, content, say_count(len(run.tasks), "task"))


def _open_all(paths: Sequence[Path], data: Path | None, named: list[str]) -> Iterator[tuple[str, Run]]:
    """Yield the runs of all paths, each with its name, which is added to `named`."""
    from milr.report.inputs import open_runs
    from milr.runs import plain_name

    for path in paths:
        for run in open_runs(path, data):
            for note in run.notes:
                echo(f"milr: {note}", err=True)
            named.append(plain_name(run.folder.resolve()))
            yield named[-1], run


def _folder(path: Path) -> Path:
    """Return the folder beside a run; for a run in a file of several, beside the file."""
    parent = path.resolve().parent
    return parent.parent if parent.is_file() else parent


def _write(file: Path, content: bytes, what: str) -> None:
    try:
        if file.exists() and file.read_bytes() != content:
            raise is_there(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, content, asked=True)
    except OSError as error:
        raise UsageError(f"cannot write {file} ({error.strerror}): give --out a folder for the files") from error
    echo(f"{file}: {what}, {len(content) / 1000:,.0f} KB")


def _refuse_one_name(runs: list[Path], files: list[Path]) -> None:
    """Refuse two runs that would become one file."""
    for file, times in Counter(files).items():
        if times > 1:
            both = " and ".join(str(run) for run, own in zip(runs, files, strict=True) if own == file)
            raise UsageError(f"{both} would both be {file}; nothing was written: give each its own --out")
