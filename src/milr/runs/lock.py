"""One process a run folder: the second is told who works there.

The operating system holds the lock and lets it go when its process ends, however that ends; so nobody has to tell a
stale lock from a live one. The run's manifest names its holder.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from milr.errors import UsageError
from milr.files import hold


def hold_run(folder: Path, manifest: str) -> AbstractContextManager[None]:
    """Hold the run in that folder, which exists.

    Args:
        folder: The run's.
        manifest: The manifest's file name: its last session says who holds the lock.

    Raises:
        UsageError: Another process holds it.
    """

    def refuse() -> UsageError:
        return UsageError(
            f"{_holder(folder / manifest)} works on {folder}: wait until it ends, or give another folder; runs share "
            "tasks between them by --shard 1/2 and --shard 2/2, each into a folder of its own"
        )

    return hold(folder, refuse)


def check_unheld(folder: Path, manifest: str) -> None:
    """Refuse a run that another process works on, before anything slow is loaded."""
    with hold_run(folder, manifest):
        pass


def _holder(manifest: Path) -> str:
    try:
        session: Any = json.loads(manifest.read_bytes())["sessions"][-1]
        return f"process {session['process']} on {session['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
