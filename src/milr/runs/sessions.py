"""Sessions of a manifest: one per process that worked on the run, and the sums of their spending."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from milr._version import __version__
from milr.runs.schema import Manifest, Session, Usage

Spending = Callable[[], Mapping[str, str | int | float] | None]
"""A function that returns the usage of VLM judges so far; None if none was asked."""
_SUMMED = ("seconds", "drawings", "tokens", "reward_calls", "evaluated", "evaluator_seconds", "cost")


def open_session(manifest: Manifest, machine: Mapping[str, str | int]) -> Manifest:
    """Return the manifest with a session of this process at its end.

    Args:
        manifest: Manifest of the run.
        machine: Facts that only torch knows: threads, accelerator.
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
    """Return the manifest with these fields of its last session, and the sums of all."""
    session = manifest.sessions[-1].model_copy(update=figures)
    sessions = (*manifest.sessions[:-1], session)
    return manifest.model_copy(
        update={
            "sessions": sessions,
            "vlm_usage": _add_usage([one.vlm_usage for one in sessions if one.vlm_usage]),
            **{name: _add(sessions, name) for name in _SUMMED},
        }
    )


def spend_from_now(vlm_usage: Spending) -> Spending:
    """Return a function for the usage of VLM judges from this call on, because one client may serve several runs."""
    before = vlm_usage() or {}

    def since() -> Usage | None:
        now = vlm_usage()
        return None if now is None else {name: _less(value, before.get(name, 0)) for name, value in now.items()}

    return since


def find_versions() -> dict[str, str]:
    """Return versions from the installed packages' metadata, so that torch need not be imported to write a run."""
    packages = {package: _read_version(package) for package in ("torch", "transformers")}
    return {"milr": __version__, "python": platform.python_version(), **packages}


@cache
def _read_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _add(sessions: Sequence[Session], name: str) -> float:
    total: float = sum(getattr(session, name) for session in sessions)
    return round(total, 6 if name == "cost" else 3) if isinstance(total, float) else total


def _less(value: str | int | float, before: str | int | float) -> str | int | float:
    """Return the difference of two counts; values that are not numbers, such as the URL, stay."""
    return value if isinstance(value, str) or isinstance(before, str) else value - before


def _add_usage(usages: Sequence[Usage]) -> Usage | None:
    """Add up the numbers; of other values, such as the URL, keep the last."""
    added: Usage = {}
    for usage in usages:
        for name, value in usage.items():
            before = added.get(name, 0)
            added[name] = value if isinstance(value, str) or isinstance(before, str) else before + value
    return added or None
