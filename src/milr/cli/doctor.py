"""`milr doctor`: missing files of a scorer, or damaged ones of a run, and the commands that fix them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milr.cli.screen import Screen
from milr.errors import UsageError
from milr.runs.checking import DAMAGED, examine_run, is_run_folder, set_aside
from milr.selftest.doctor import DOCTORS, examine

_MARKS = {True: "ok", False: "WRONG", None: "?"}


def doctor(
    name: Annotated[
        str | None,
        typer.Argument(help=f"A scorer: {', '.join(DOCTORS)}; or a run's folder. Leave it out to see what each is."),
    ] = None,
    device: Annotated[str, typer.Option(help="Device of the self-test: cpu, cuda, cuda:1, mps.")] = "cpu",
    fix: Annotated[
        bool, typer.Option("--fix", help="For a run: move damaged tasks into its folder `damaged`.")
    ] = False,
) -> None:
    """Check a scorer's files, sizes and hashes, then its self-test; or a run's files.

    The exit code is 1 if something is wrong.
    """
    screen = Screen()
    if name is None:
        for one, entry in DOCTORS.items():
            screen.print(f"{one:<16}{entry.summary}")
        screen.print("to check one, type: milr doctor NAME; to check a run: milr doctor FOLDER")
        return
    folder = Path(name)
    is_run = name not in DOCTORS and is_run_folder(folder)
    if fix:
        if not is_run:
            raise UsageError(f"--fix moves a run's damaged tasks aside, and {name} is no run's folder")
        screen.print(f"{folder}: {set_aside(folder)} damaged tasks moved into {folder / DAMAGED}")
    commands: list[str] = []
    wrong = 0
    for finding in examine_run(folder) if is_run else examine(name, device):
        screen.print(f"{_MARKS[finding.fine]:<6}{finding.subject}: {finding.said}")
        wrong += finding.fine is False
        commands += [command for command in finding.mend if command not in commands]
    if commands:
        screen.print("\nto fix it, type:")
        for command in commands:
            screen.print(f"  {command}")
    screen.print(f"\n{name}: {f'{wrong} wrong' if wrong else 'ready'}")
    if wrong:
        raise typer.Exit(1)
