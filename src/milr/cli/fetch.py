"""`milr fetch`: a checkpoint from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from milr.cli.options import Yes, ask
from milr.cli.screen import Screen
from milr.errors import UsageError
from milr.models.families import PIPELINE

EXAMPLE = "deepseek-community/Janus-Pro-1B"


def fetch(
    name: Annotated[
        str, typer.Argument(help="organisation/name or organisation/name@revision; of diffusers after diffusers:.")
    ],
    yes: Yes = False,
) -> None:
    """Fetch a checkpoint from the Hugging Face hub into its cache: safetensors and settings, never code."""
    from milr.models import ModelClass, find_source

    screen = Screen()
    source = find_source(name, confirm=ask(screen, yes))
    if isinstance(source, ModelClass):
        if not callable(own := getattr(source.make, "fetch", None)):
            raise UsageError(f"{name!r} has nothing to fetch: give organisation/name, for instance {EXAMPLE}")
        folder = cast("Path", own(source.argument, confirm=ask(screen, yes)))
    else:
        folder = source
    if not any((folder / file).is_file() for file in ("config.json", PIPELINE)):  # text that cannot be a hub name
        raise UsageError(f"{name!r} is no checkpoint: give organisation/name, for instance {EXAMPLE}")
    screen.print(f"{name} is in {folder}")
