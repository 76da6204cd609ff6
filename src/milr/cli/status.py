"""`milr status`: how far runs are, from another terminal. It reads the run folders and changes nothing."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from milr.cli.screen import echo
from milr.errors import UsageError
from milr.files import PART
from milr.runs import read_manifest, say_resume
from milr.runs.layout import MANIFEST, RECORDS, find_inside
from milr.runs.lock import check_unheld
from milr.runs.schema import Manifest
from milr.runs.time_left import say_left
from milr.runs.workers_file import read_workers
from milr.types import say_count
from milr.untrusted import read_file

_SHOWN = 8  # most tasks in progress that are listed


def status(
    runs: Annotated[list[Path], typer.Argument(help="Runs: in progress, finished, killed.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List all tasks in progress.")] = False,
) -> None:
    """Print how far runs are: finished tasks, tasks in progress, speed, time left. It may be typed while they go on."""
    now = datetime.now().astimezone()
    lines = [line for run in runs for line in describe(run, now, None if verbose else _SHOWN)]
    for line in lines:
        echo(line)


def describe(folder: Path, now: datetime, shown: int | None = None) -> list[str]:
    """Return a run's state in lines.

    Args:
        folder: The run's folder.
        now: The time.
        shown: Most tasks in progress that are listed; None lists all.

    Raises:
        UsageError: The folder holds no run.
    """
    manifest = read_manifest(folder)
    whole, done = len(manifest.tasks) * manifest.images_per_prompt, manifest.tasks_finished
    title = manifest.benchmark or say_count(len(manifest.tasks), "prompt")
    share = f" ({done / whole:.0%})" if whole else ""
    lines = [
        f"{folder}: {title}, {manifest.method}, {manifest.model}",
        f"  {_say_state(folder, manifest)}; {done} of {whole} tasks finished{share}",
    ]
    if not manifest.sessions:
        return lines
    session = manifest.sessions[-1]
    begun = [(name, steps) for name, steps in _list_begun(folder) if steps] if manifest.status == "running" else []
    seconds = (now - session.started).total_seconds() if manifest.status == "running" else session.seconds
    if session.drawings and session.seconds:
        workers = session.machine.get("workers")
        by = f" by {say_count(float(workers), 'worker')} ({session.machine.get('backend')})" if workers else ""
        several = len(manifest.sessions) > 1
        whole_run = f" (the last session; {say_count(manifest.drawings, 'drawing')} in all)" if several else ""
        lines.append(
            f"  {say_count(session.drawings, 'drawing')} in {timedelta(seconds=round(session.seconds))}{by}: "
            f"{session.drawings / session.seconds:.3g} a second{whole_run}"
        )
    if manifest.status == "running" and session.drawings and 0 < done < whole:
        before = sum(one.drawings for one in manifest.sessions[:-1])
        here = session.drawings / (session.drawings + before) if before else 1.0
        if left := say_left(seconds / max(done * here, 1e-9) * (whole - done)):
            lines.append(f"  {left} at this speed")
    if manifest.status == "running" and (last := _find_last(folder)) is not None:
        lines.append(f"  last record {timedelta(seconds=max(0, round(now.timestamp() - last)))} ago")
    if (told := read_workers(folder)) is not None:
        about, written = told
        if manifest.status == "running":
            ago = timedelta(seconds=max(0, round(now.timestamp() - written)))
            lines.append(f"  workers, {ago} ago:")
        lines += [f"    {line}" for line in about]
    if begun:
        lines.append(f"  {say_count(len(begun), 'task')} in progress:")
        lines += [f"    {name}: {say_count(steps, 'step')}" for name, steps in begun[:shown]]
        if shown is not None and len(begun) > shown:
            lines.append(f"    and {len(begun) - shown} more: --verbose lists them")
    if manifest.error:
        lines.append(f"  {manifest.error}")
    return lines


def _say_state(folder: Path, manifest: Manifest) -> str:
    if manifest.status != "running":
        return manifest.status
    session = manifest.sessions[-1] if manifest.sessions else None
    try:
        check_unheld(folder, MANIFEST)
    except UsageError:
        where = "" if session is None else f" in process {session.process} on {session.host}"
        return f"running{where}"
    go_on = say_resume(folder, benchmark=manifest.benchmark is not None)
    return f"killed, nobody works on it ({go_on} goes on)"


def _find_last(folder: Path) -> float | None:
    """Return the time of the newest record; None before the first. A run whose model is stuck writes none for long."""
    found: list[float] = []
    for file in (folder / "tasks").glob(f"*/{RECORDS}"):
        with suppress(OSError):  # renamed a moment ago
            found.append(file.stat(follow_symlinks=False).st_mtime)
    return max(found, default=None)


def _list_begun(folder: Path) -> list[tuple[str, int]]:
    """Return the tasks in progress, and their recorded steps."""
    found: list[tuple[str, int]] = []
    for task in sorted((folder / "tasks").glob(f"*{PART}")):
        try:
            steps = read_file(find_inside(task, RECORDS)).count(b"\n")
        except (OSError, ValueError, UsageError):  # it ended a moment ago
            continue
        found.append((task.name.removesuffix(PART), steps))
    return found
