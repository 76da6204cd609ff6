"""Folders of new runs: their names, and what may be in them."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from milr.errors import UsageError
from milr.files import LOCK, PART
from milr.runs.layout import MANIFEST


def default_folder(prompt: str, root: Path = Path("runs")) -> Path:
    """Return a folder under `root` that does not exist yet, named by the time and the prompt; it is not created."""
    slug = re.sub(r"\W+", "-", prompt.lower())[:40].strip("-") or "run"
    folder = first = root / f"{datetime.now():%Y%m%d-%H%M%S}-{slug}"
    number = 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def check_folder(folder: Path) -> None:
    """Refuse a folder that a run would overwrite."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, and a run needs a folder: give --out a name that is not taken")
    if not all(map(_is_left, folder.iterdir())):
        what = "another run" if (folder / MANIFEST).exists() else "files"
        raise UsageError(f"{folder} holds {what}; nothing was overwritten: give --out a new or an empty folder")


def _is_left(path: Path) -> bool:
    """Return whether a run that was killed before its manifest was written leaves this: nothing of it is lost."""
    if path.name == "tasks":
        return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    return path.name in (LOCK, MANIFEST + PART)
