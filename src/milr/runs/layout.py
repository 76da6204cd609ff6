"""What a run folder's files are called, and its manifest."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from milr.errors import MilrError, UsageError
from milr.runs.schema import Manifest
from milr.types import Task

MANIFEST, RECORDS, JUDGED = "run.json", "records.jsonl", "judged.jsonl"


class RunError(MilrError):
    """A run that cannot be written on; its finished tasks stay."""


def name_task(index: int, task: Task, image: int) -> str:
    """The folder of a task, under `tasks/`."""
    return f"{index:04d}-{task.key}" + (f"-{image}" if image else "")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the run in that folder.

    Raises:
        UsageError: The folder holds no run, or one that this version cannot read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no run ({MANIFEST} is missing): give the folder that `milr generate` or `milr benchmark` "
            "named"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise unreadable(folder, error) from None


def unreadable(folder: Path, error: ValidationError) -> UsageError:
    """The error for a run whose files are not as this version writes them."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return UsageError(
        f"{folder} holds a run that this milr cannot read ({where}: {first['msg']}): "
        "read it with the version that its run.json names"
    )
