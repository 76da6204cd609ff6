"""A model folder that names its best measured method."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from milr.models import embedded_folder

BEST = {"method": "milr", "strategy": "steer"}


def write_measured(folder: Path) -> str:
    """Copy the small embedded model into a new folder that names `BEST`; return the folder as --model takes it."""
    shutil.copytree(embedded_folder("embedded-small"), folder)
    settings = json.loads((folder / "milr.json").read_text(encoding="utf-8"))
    (folder / "milr.json").write_text(json.dumps(settings | {"best": BEST}), encoding="utf-8")
    return str(folder.resolve())
