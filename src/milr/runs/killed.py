"""Spending of a session that was killed: its manifest is that of its last finished task, its records go further."""

from __future__ import annotations

from pathlib import Path

from milr.errors import UsageError
from milr.files import PART
from milr.runs.reader import read_begun
from milr.runs.schema import Manifest, StoredStep
from milr.runs.sessions import update_session

_COUNTS = {"drawings": "drawings_spent", "tokens": "tokens_spent", "reward_calls": "reward_calls", "cost": "cost"}
"""Field of a session -> field of a step, which counts what its task has spent up to it."""


def add_unsaved(manifest: Manifest, folder: Path) -> Manifest:
    """Return a run's manifest with what its last session recorded after the manifest was written.

    A session that ended by itself has nothing to add.
    """
    if not manifest.sessions or manifest.sessions[-1].status != "running":
        return manifest
    lasts: dict[str, StoredStep] = {}
    for task in sorted((folder / "tasks").iterdir()):
        name, last = task.name.removesuffix(PART), _find_last(task)
        if last is not None and (name not in lasts or last.drawings_spent > lasts[name].drawings_spent):
            lasts[name] = last
    figures: dict[str, float] = {}
    for name, field in _COUNTS.items():
        unsaved = sum(getattr(last, field) for last in lasts.values()) - getattr(manifest, name)
        figures[name] = getattr(manifest.sessions[-1], name) + max(unsaved, 0)
    return update_session(manifest, **figures)


def _find_last(task: Path) -> StoredStep | None:
    """Return the last whole step of a task, finished or not; None if it has none."""
    last = None
    try:
        for last in read_begun(task):
            pass
    except (OSError, UsageError):  # no records, or a link out of the run
        return None
    return last
