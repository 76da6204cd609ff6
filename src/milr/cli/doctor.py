"""`milr doctor`: missing files of a scorer, and the commands that fix them."""

from __future__ import annotations

from typing import Annotated

import typer

from milr.cli.screen import Screen
from milr.selftest.doctor import DOCTORS, examine

_MARKS = {True: "ok", False: "WRONG", None: "?"}


def doctor(
    name: Annotated[
        str | None, typer.Argument(help=f"A scorer: {', '.join(DOCTORS)}; leave it out to see what each is.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the self-test runs: cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Check a scorer's files, sizes and hashes, then its self-test; exit code 1 where something is wrong."""
    screen = Screen()
    if name is None:
        for one, entry in DOCTORS.items():
            screen.print(f"{one:<16}{entry.summary}")
        screen.print("to check one, type: milr doctor NAME")
        return
    commands: list[str] = []
    wrong = 0
    for finding in examine(name, device):
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
