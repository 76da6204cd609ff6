"""`milr fetch`: a checkpoint from the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from milr.cli.options import Yes, ask
from milr.cli.screen import Screen
from milr.errors import UsageError

EXAMPLE = "deepseek-community/Janus-Pro-1B"


def fetch(
    name: Annotated[str, typer.Argument(help="organisation/name or organisation/name@revision.")],
    yes: Yes = False,
) -> None:
    """Fetch a checkpoint from the Hugging Face hub into its cache: safetensors and settings, never code."""
    from milr.models import find_model

    screen = Screen()
    folder = find_model(name, confirm=ask(screen, yes))
    if not (folder / "config.json").is_file():  # a path, or text that cannot be a hub name
        raise UsageError(f"{name!r} is no checkpoint: give organisation/name, for instance {EXAMPLE}")
    screen.print(f"{name} is in {folder}")
