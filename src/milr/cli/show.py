"""`milr show`: how an image was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from milr.untrusted import printable


def show(
    files: Annotated[list[Path], typer.Argument(help="PNG files that milr wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file on standard output.")] = False,
) -> None:
    """Print the texts in an image's file: prompt, reasoning, score, seed, model, method and settings."""
    from milr.runs.metadata import read_texts

    for place, file in enumerate(files):
        texts = read_texts(file)
        if as_json:
            print(json.dumps({"file": str(file), **texts}, ensure_ascii=False))
            continue
        if len(files) > 1:
            print(f"{'' if place == 0 else chr(10)}{file}")
        for key, text in texts.items():
            print(f"{key:<11}{printable(' '.join(text.split()))}")
