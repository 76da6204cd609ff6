"""A manifest's sessions: one a process that worked on the run, and the sums of what they spent."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

from milr._version import __version__
from milr.runs.schema import Manifest, Session

Spending = Callable[[], dict[str, str | int] | None]
"""What judges behind an API have cost so far; None where none was asked."""
_SUMMED = ("seconds", "drawings", "tokens", "reward_calls", "judged", "judge_seconds")


def open_session(manifest: Manifest, machine: Mapping[str, str | int]) -> Manifest:
    """The manifest with a session of this process at its end.

    Args:
        manifest: Of the run.
        machine: What cannot be told without torch: threads, accelerator.
    """
    session = Session(
        host=socket.gethostname(),
        process=os.getpid(),
        started=datetime.now().astimezone(),
        machine={
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count() or 0,
            **machine,
        },
        versions=find_versions(),
    )
    return manifest.model_copy(update={"sessions": (*manifest.sessions, session)})


def update_session(manifest: Manifest, **figures: object) -> Manifest:
    """The manifest with these fields of its last session, and the sums of all."""
    session = manifest.sessions[-1].model_copy(update=figures)
    sessions = (*manifest.sessions[:-1], session)
    return manifest.model_copy(
        update={
            "sessions": sessions,
            "judges": _add_costs([one.judges for one in sessions if one.judges]),
            **{name: _add(sessions, name) for name in _SUMMED},
        }
    )


def spend_from_now(judges: Spending) -> Spending:
    """What judges cost from this call on: one client may serve several runs."""
    before = judges() or {}

    def since() -> dict[str, str | int] | None:
        now = judges()
        return None if now is None else {name: _less(value, before.get(name, 0)) for name, value in now.items()}

    return since


def find_versions() -> dict[str, str]:
    """Read from the installed packages' metadata, so that torch need not be imported to write a run."""
    found = {"milr": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _add(sessions: Sequence[Session], name: str) -> float:
    total: float = sum(getattr(session, name) for session in sessions)
    return round(total, 3) if isinstance(total, float) else total


def _less(value: str | int, before: str | int) -> str | int:
    """A count less what it was before; what is no count, such as the URL, stays."""
    return value - before if isinstance(value, int) and isinstance(before, int) else value


def _add_costs(costs: Sequence[dict[str, str | int]]) -> dict[str, str | int] | None:
    """Counts are added up; of what is no count, such as the URL, the last one stays."""
    added: dict[str, str | int] = {}
    for cost in costs:
        for name, value in cost.items():
            before = added.get(name, 0)
            added[name] = before + value if isinstance(value, int) and isinstance(before, int) else value
    return added or None
