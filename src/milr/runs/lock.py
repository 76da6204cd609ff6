"""Lock of a run folder: one process writes, and a second one gets an error that names the first.

The operating system releases the lock when the process ends in any way, so there are no stale locks.
The run's manifest names its holder.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from milr.errors import UsageError
from milr.files import hold


def hold_run(folder: Path, manifest: str) -> AbstractContextManager[None]:
    """Lock the run in that existing folder.

    Args:
        folder: The run's folder.
        manifest: File name of the manifest, whose last session names the holder.

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
