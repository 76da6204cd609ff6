"""Printing for all commands: foreign words steer no terminal, and a reader that leaves ends no work."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console

from milr.errors import UsageError
from milr.untrusted import printable


class Screen(Console):
    """A console for lines of text, which may contain prompts, replies of servers, and texts of received runs."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, highlight=False, markup=False, soft_wrap=True)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects, strings among them as `printable` shows them."""
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **options)

    def on_broken_pipe(self) -> None:
        """Print nothing more: the reader has gone, and the work continues."""
        self.quiet = True
        leave(sys.stderr if self.stderr else sys.stdout)


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text as `printable` shows it; do nothing if its reader has left."""
    try:
        typer.echo(printable(text), err=err, nl=nl)
    except BrokenPipeError:
        leave(sys.stderr if err else sys.stdout)


def leave(stream: TextIO) -> None:
    """Discard all further output to a stream."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def is_there(out: Path) -> UsageError:
    """Return the error for an output file that holds something else."""
    return UsageError(f"{out} is there already with other content; nothing was overwritten: give --out another name")
