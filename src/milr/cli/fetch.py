"""`milr fetch`: a checkpoint from the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from milr.cli.options import Yes, ask


def fetch(
    name: Annotated[str, typer.Argument(help="organisation/name or organisation/name@revision.")],
    yes: Yes = False,
) -> None:
    """Fetch a checkpoint from the Hugging Face hub into its cache: safetensors and settings, never code."""
    from milr.models import find_model

    screen = Console(highlight=False, markup=False, soft_wrap=True)
    screen.print(f"{name} is in {find_model(name, confirm=ask(screen, yes))}")
