"""Writing files so that a kill leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
from pathlib import Path

PART = ".part"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name, then rename it."""
    fresh = path.with_name(f"{path.name}{PART}")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
