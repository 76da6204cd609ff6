"""`milr convert`: official checkpoints to folders that milr reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milr.cli.options import Offline, Yes, ask
from milr.cli.screen import Screen
from milr.convert import CONVERTERS
from milr.convert import convert as run_converter
from milr.errors import UsageError
from milr.models.hub import PICKLES, WEIGHTS, find_at_hub, parse_hub_name
from milr.registry import find


def convert(
    name: Annotated[str, typer.Argument(help=f"What it is: {', '.join(CONVERTERS)}.")],
    file: Annotated[
        Path,
        typer.Argument(
            help="The official checkpoint; of janus a folder, or its name at the hub; of llamagen the folder with all "
            "parts, or its t2i_*.pt."
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(help="The folder to make; default: where the rewards look for it.")
    ] = None,
    any_hash: Annotated[
        bool, typer.Option("--any-hash", help="Take a file whose hash is not the official one.")
    ] = False,
    offline: Offline = False,
    yes: Yes = False,
) -> None:
    """Convert an official checkpoint into a folder of safetensors."""
    entry = find("converter", name, CONVERTERS)
    screen = Screen()
    if name in ("janus", "llamagen") and out is None:
        raise UsageError(f"no folder to make was given: type milr convert {name} {file} NEW_FOLDER")
    if name == "janus":
        at_hub = None if file.exists() else parse_hub_name(str(file))
        if at_hub is not None:
            file = find_at_hub(at_hub, weights=(WEIGHTS, PICKLES), offline=offline, confirm=ask(screen, yes))
    screen.print(f"milr: converting {file} ({entry.summary}) ...")
    screen.print(f"made {run_converter(name, file, out, any_hash=any_hash)}")
