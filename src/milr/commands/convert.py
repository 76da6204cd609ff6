"""`milr convert`: an official checkpoint -> a folder that milr reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from milr.convert import CONVERTERS
from milr.convert import convert as run_converter
from milr.registry import find


def convert(
    name: Annotated[str, typer.Argument(help=f"What it is: {', '.join(CONVERTERS)}.")],
    file: Annotated[Path, typer.Argument(help="The official checkpoint.")],
    out: Annotated[
        Path | None, typer.Argument(help="The folder to make; default: where the rewards look for it.")
    ] = None,
    any_hash: Annotated[
        bool, typer.Option("--any-hash", help="Take a file whose hash is not the official one.")
    ] = False,
) -> None:
    """Convert an official checkpoint into a folder of safetensors."""
    entry = find("converter", name, CONVERTERS)
    screen = Console(highlight=False, markup=False, soft_wrap=True)
    screen.print(f"milr: converting {file} ({entry.summary}) ...")
    screen.print(f"made {run_converter(name, file, out, any_hash=any_hash)}")
