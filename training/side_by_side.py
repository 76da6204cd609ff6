"""Stages that run at the same time, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

_POLL = 1.0  # seconds


class StageError(RuntimeError):
    """A stage ended with an error."""


@dataclass(frozen=True)
class Planned:
    """A stage, and the stages that must have ended before it starts."""

    command: Sequence[str]
    after: Sequence[str] = ()


def run_all(
    stages: Mapping[str, Planned], jobs: int, start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
) -> None:
    """Run stages in their order, at most ``jobs`` at a time; end all of them if one fails or this process is ended.

    Args:
        stages: The stages by name.
        jobs: Most stages at a time.
        start: Starts a command.

    Raises:
        StageError: A stage ended with an error; the message names it and its exit status.
    """
    waiting, running, ended = dict(stages), dict[str, subprocess.Popen[bytes]](), set[str]()
    before = signal.signal(signal.SIGTERM, _end)
    try:
        while waiting or running:
            for name, stage in list(waiting.items()):
                if len(running) < jobs and ended.issuperset(stage.after):
                    running[name] = start(waiting.pop(name).command)
            for name, process in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[name]
                if status:
                    raise StageError(f"the stage {name!r} ended with status {status}: start it again to go on")
                ended.add(name)
            time.sleep(_POLL if running else 0)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
