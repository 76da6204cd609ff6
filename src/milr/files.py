"""Writing files so that a kill leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
from pathlib import Path

PART = ".part"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, its line ends as they are."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename."""
    fresh = path.with_name(f"{path.name}{PART}")
    fresh.write_bytes(content)
    os.replace(fresh, path)
