"""Spending of a session that was killed: its manifest is that of its last finished task, its records go further."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from milr.errors import UsageError
from milr.files import PART
from milr.runs.reader import read_begun
from milr.runs.schema import Manifest
from milr.runs.sessions import update_session
from milr.spending import counts_of


def add_unsaved(manifest: Manifest, folder: Path) -> Manifest:
    """Return a run's manifest with what its last session recorded after the manifest was written.

    A session that ended by itself has nothing to add.
    """
    if not manifest.sessions or manifest.sessions[-1].status != "running":
        return manifest
    recorded: dict[str, Mapping[str, float]] = {}
    for task in (folder / "tasks").iterdir():
        name, counts = task.name.removesuffix(PART), _count(task)
        recorded[name] = max(recorded.get(name, counts), counts, key=lambda one: one.get("drawings", 0))
    figures: dict[str, float] = {}
    for name in ("drawings", "tokens", "reward_calls", "cost"):
        unsaved = sum(counts.get(name, 0) for counts in recorded.values()) - getattr(manifest, name)
        figures[name] = getattr(manifest.sessions[-1], name) + max(unsaved, 0)
    return update_session(manifest, **figures)


def _count(task: Path) -> Mapping[str, float]:
    """Return what a task has spent up to its last whole step, finished or not; empty if it has none."""
    counts: Mapping[str, float] = {}
    with suppress(OSError, ValueError, UsageError):  # no records, too long, no regular file, a link out of the run
        for step in read_begun(task):
            counts = counts_of(step)
    return counts
