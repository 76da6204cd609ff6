"""The file `workers.txt` of a run: lines on its workers for `milr status`, and the tasks that were set aside.

Only a run by workers has it. When the run ends, the lines on workers go, and the file with them if no task was set
aside, so that finished runs of any number of workers have the same files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from milr.files import write_text
from milr.untrusted import UntrustedError, one_line, read_file, resolve_inside

WORKERS = "workers.txt"
_EVERY = 5.0  # seconds between two writes: each is flushed to the disk
_MOST_BYTES, _MOST_LINES = 1 << 18, 600


class WorkersFile:
    """Writes the file; a full disk does not cost the run."""

    def __init__(self, folder: Path) -> None:
        """Prepare; the first lines come when `update` has any."""
        self._path = folder / WORKERS
        self._due = 0.0  # by the clock, when the next lines are written

    def update(self, report: Callable[[], Sequence[str]], failures: Callable[[], Sequence[str]]) -> None:
        """Write the lines of both, if the last ones are some seconds old and there are workers."""
        now = time.monotonic()
        if now >= self._due and (lines := report()):
            with suppress(OSError):
                self._write([*lines, *failures()])
            self._due = now + _EVERY

    def end(self, failures: Sequence[str]) -> None:
        """Leave the tasks that were set aside, or no file."""
        with suppress(OSError):
            if failures:
                self._write(failures)
            else:
                self._path.unlink(missing_ok=True)

    def _write(self, lines: Sequence[str]) -> None:
        write_text(self._path, "".join(f"{one_line(line)}\n" for line in lines[:_MOST_LINES]))


def read_workers(folder: Path) -> tuple[list[str], float] | None:
    """Return the lines of the file and the time at which it was written; None if there is no readable one."""
    try:
        path = resolve_inside(folder, Path(WORKERS))
        content, written = read_file(path, _MOST_BYTES), path.stat().st_mtime
    except (OSError, UntrustedError):
        return None
    lines = content.decode("utf-8", "replace").splitlines()[:_MOST_LINES]
    return [one_line(line) for line in lines if line.strip()], written
