"""File names of a run folder, and its manifest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import from_json

from milr.errors import MilrError, UsageError
from milr.runs.schema import Manifest
from milr.runs.upgrade import upgrade_manifest
from milr.types import Task
from milr.untrusted import UntrustedError, first_fault, one_line, read_file, resolve_inside

MANIFEST, RECORDS, EVALUATED = "run.json", "records.jsonl", "evaluated.jsonl"
STRIP = "strip.png"
OLD_EVALUATED = "judged.jsonl"
"""The name of `EVALUATED` in format 1."""


_TASK = re.compile(r"\d{4,}-[0-9a-f]{16}(-\d+)?")


class RunError(MilrError):
    """The error of a run that cannot be written any more; its finished tasks stay."""


class NotScored(RunError):
    """The error of a run that stops because nothing can be scored any more; resuming it tries again."""

    exit_code = 3


def name_task(index: int, task: Task, image: int) -> str:
    """Return the name of a task's folder, under `tasks/`."""
    return f"{index:04d}-{task.key}" + (f"-{image}" if image else "")


def name_image(step: int, number: int) -> str:
    """Return the path of a step's image relative to the task's folder; images of a step are numbered from 0."""
    return f"steps/{step:02d}-{number}.png"


def list_tasks(folder: Path) -> list[Path]:
    """Return the folders of a run's finished tasks, by name; other files there are ignored."""
    return sorted(path for path in (folder / "tasks").glob("*") if _TASK.fullmatch(path.name) and path.is_dir())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the run in that folder; one of format 1 is upgraded.

    Raises:
        UsageError: The folder holds no run, or one that this version cannot read.
    """
    content = _read(folder)
    try:
        old = _find_old(content)
        return Manifest.model_validate_json(content) if old is None else Manifest.model_validate(upgrade_manifest(old))
    except (ValidationError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise unreadable(folder, error) from None


def check_resumable(folder: Path) -> None:
    """Refuse to resume a run of format 1.

    Raises:
        UsageError: As `read_manifest`, or the run is of format 1.
    """
    read_manifest(folder)
    if _find_old(_read(folder)) is not None:
        raise UsageError(
            f"{folder} was made by milr 0.1 and cannot be resumed: read and report it, and begin a new run"
        )


def check_inside(folder: Path) -> None:
    """Refuse to write a run whose tasks folder is a link, because the files there do not belong to the run.

    Raises:
        UsageError: They are.
    """
    try:
        resolve_inside(folder, "tasks")
    except UntrustedError as error:
        raise UsageError(f"{error}: put the run's tasks into its folder") from None


def say_resume(folder: Path, *, benchmark: bool) -> str:
    """Return the command that continues a run of `milr benchmark`, or of `milr generate`, as a shell reads it."""
    return f"milr {'benchmark' if benchmark else 'generate'} --resume {shlex.quote(str(folder))}"


def damaged(task: Path, file: str, reason: str) -> UsageError:
    """Return the error for a finished task with a missing or broken file."""
    run = task.parents[1]
    return UsageError(
        f"{task / file} {reason}: this task is damaged, by a full disk or a power failure perhaps; "
        f"{say_resume(run, benchmark=True)} draws it again"
    )


def find_inside(task: Path, file: str) -> Path:
    """Return the path of a file in a task's folder, with links followed.

    Raises:
        UsageError: A link leads out of the run.
    """
    run = task.parents[1]
    try:
        return resolve_inside(run, task.relative_to(run) / file)
    except UntrustedError:
        raise damaged(task, file, "is a link that leads out of the run") from None


def unreadable(folder: Path, error: Exception) -> UsageError:
    """Return the error for a run whose files are not those of this version or of milr 0.1."""
    return UsageError(
        f"{folder} holds a run that this milr cannot read ({say_fault(error)}): read it with the version that its "
        f"{MANIFEST} names"
    )


def say_fault(error: Exception) -> str:
    """Return in a few printable words why foreign data was refused."""
    if isinstance(error, ValidationError):
        return first_fault(error)
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, KeyError):
        return one_line(f"{error} is missing", 200)
    return one_line(str(error) or type(error).__name__, 200)


def _read(folder: Path) -> bytes:
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no run ({MANIFEST} is missing): give the folder that `milr generate` or `milr benchmark` "
            "named"
        )
    try:
        return read_file(resolve_inside(folder, MANIFEST))
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from None


def _find_old(content: bytes) -> Mapping[str, Any] | None:
    """Return a manifest of format 1, else None."""
    if b'"format":1' not in content.replace(b" ", b""):
        return None
    found: object = from_json(content)
    if not isinstance(found, dict):
        return None
    manifest = cast("dict[str, Any]", found)
    return manifest if manifest.get("format") == 1 else None
