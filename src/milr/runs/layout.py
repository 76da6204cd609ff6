"""File names of a run folder, and its manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from milr.errors import MilrError, UsageError
from milr.runs.schema import Manifest
from milr.runs.upgrade import upgrade_manifest
from milr.types import Task

MANIFEST, RECORDS, EVALUATED = "run.json", "records.jsonl", "evaluated.jsonl"
STRIP = "strip.png"
OLD_EVALUATED = "judged.jsonl"
"""The name of `EVALUATED` in format 1."""


_TASK = re.compile(r"\d{4,}-[0-9a-f]{16}(-\d+)?")


class RunError(MilrError):
    """A run that cannot be written any further; its finished tasks stay."""


def name_task(index: int, task: Task, image: int) -> str:
    """Return the name of a task's folder, under `tasks/`."""
    return f"{index:04d}-{task.key}" + (f"-{image}" if image else "")


def name_image(step: int, number: int) -> str:
    """Return the path of a step's image from the task's folder; images of a step are numbered from 0."""
    return f"steps/{step:02d}-{number}.png"


def list_tasks(folder: Path) -> list[Path]:
    """Return the folders of a run's finished tasks, by name; what else somebody put there is no task."""
    return sorted(path for path in (folder / "tasks").glob("*") if _TASK.fullmatch(path.name) and path.is_dir())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the run in that folder; one of format 1 is upgraded.

    Raises:
        UsageError: The folder holds no run, or one that this version cannot read.
    """
    try:
        found = _read(folder)
        return Manifest.model_validate(upgrade_manifest(found) if _is_old(found) else found)
    except (ValidationError, ValueError, LookupError, TypeError) as error:
        raise unreadable(folder, error) from None


def check_resumable(folder: Path) -> None:
    """Refuse to go on with a run of format 1.

    Raises:
        UsageError: As `read_manifest`, or the run is of format 1.
    """
    read_manifest(folder)
    if _is_old(_read(folder)):
        raise UsageError(
            f"{folder} was made by milr 0.1 and cannot be resumed: read and report it, and begin a new run"
        )


def damaged(task: Path, file: str, reason: str) -> UsageError:
    """Return the error for a finished task of which a file is gone or broken."""
    run = task.parents[1]
    return UsageError(
        f"{task / file} {reason}: this task is damaged, by a full disk or a power failure perhaps; "
        f"milr benchmark --resume {run} makes it anew"
    )


def unreadable(folder: Path, error: Exception) -> UsageError:
    """Return the error for a run whose files are not as this version or milr 0.1 wrote them."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return UsageError(
        f"{folder} holds a run that this milr cannot read ({reason}): read it with the version that its run.json names"
    )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no run ({MANIFEST} is missing): give the folder that `milr generate` or `milr benchmark` "
            "named"
        )
    return from_json(path.read_bytes())


def _is_old(manifest: dict[str, Any]) -> bool:
    return manifest.get("format") == 1
