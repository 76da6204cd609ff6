"""The page of a run: its path, printed and opened by the commands that make runs."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from milr.runs import INDEX

Open: TypeAlias = Annotated[bool, typer.Option("--open", help="Open the run's page in the browser when it is done.")]


def show_page(run: Path, say: Callable[[str], object], open_it: bool) -> None:
    """Print the path of the run's page as the last line; open it if requested."""
    page = run / INDEX
    if not page.is_file():
        return
    if open_it and not webbrowser.open(page.resolve().as_uri()):
        say("milr: no browser found here: open the page yourself")
    say(f"page: {page}")
