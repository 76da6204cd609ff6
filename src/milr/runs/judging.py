"""What a judge says of a run's pictures: while the run is made, and again by another judge once it is finished."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from milr.errors import UsageError
from milr.files import PART, write_bytes
from milr.rewards.base import Reward, begin_scoring
from milr.runs.layout import JUDGED, MANIFEST, RunError, read_manifest
from milr.runs.lock import check_unheld, hold_run
from milr.runs.reader import read_picture, read_run, read_verdicts
from milr.runs.schema import EvaluatedImage, Manifest, dump, dump_lines
from milr.runs.sessions import Spending, open_session, spend_from_now, update_session
from milr.types import Task, Unscored

_FRESH = f"{JUDGED}{PART}.new"
"""A task's new verdicts, until all of the run's tasks have theirs."""


@dataclass(frozen=True)
class Shown:
    """A picture that a judge is shown."""

    step: int
    number: int
    """Of the step's drawings, from 0."""
    file: Path


def judge_pictures(judge: Reward, task: Task, shown: Sequence[Shown]) -> list[EvaluatedImage]:
    """What the judge says of each picture.

    Raises:
        RunError: It judges nothing any more.
    """
    scores = begin_scoring(judge, [read_picture(one.file) for one in shown], [task] * len(shown))()
    lost = next((score.reason for score in scores if isinstance(score, Unscored) and score.final), None)
    if lost is not None:
        raise RunError(f"the judge {judge.name} judges nothing any more: {lost}; the finished tasks are kept")
    return [
        EvaluatedImage(step=one.step, number=one.number, score=score) for one, score in zip(shown, scores, strict=True)
    ]


def check_judgeable(folder: Path) -> Manifest:
    """The manifest of a run that another judge may see.

    Raises:
        UsageError: No run is there, another process works on it, or it is not finished.
    """
    manifest = read_manifest(folder)
    check_unheld(folder, MANIFEST)
    if manifest.status != "finished":
        raise UsageError(f"{folder} is not finished ({manifest.status}): milr benchmark --resume {folder} first")
    return manifest


def judge_run(
    folder: Path,
    judge: Reward,
    asked: str,
    *,
    judges: Spending = lambda: None,
) -> Iterator[tuple[int, int]]:
    """Show a finished run's pictures to another judge, whose verdicts take the place of those before.

    They are written beside the old ones and take their names when all are there: a kill before that leaves the run as it
    was, and the same call goes on. Time that the judge takes does not count as the search's.

    Args:
        folder: The run's.
        judge: Whatever it is, the search has not seen it.
        asked: The name by which it was asked for.
        judges: What judges behind an API have cost so far; what they cost here is added to the run's.

    Yields:
        How many tasks are judged, of how many.

    Raises:
        UsageError: As `check_judgeable`.
        RunError: The judge judges nothing any more; what it said is kept.
    """
    check_judgeable(folder)
    with hold_run(folder, MANIFEST):
        run = read_run(folder)
        spent, started, judged = spend_from_now(judges), time.monotonic(), 0
        for done, task in enumerate(run.tasks, start=1):
            fresh = task.folder / _FRESH
            if not _is_by(task.judged, judge) and not _is_by(read_verdicts(fresh), judge):
                shown = [Shown(one.step, one.number, task.folder / one.drawing.picture) for one in task.drawings]
                write_bytes(fresh, dump_lines(judge_pictures(judge, task.task, shown)))
                judged += len(shown)
            yield done, len(run.tasks)
        for fresh in [task.folder / _FRESH for task in run.tasks if (task.folder / _FRESH).exists()]:
            os.replace(fresh, fresh.with_name(JUDGED))
        seconds = round(time.monotonic() - started, 3)
        manifest = update_session(
            open_session(run.manifest, {}),
            status="finished",
            seconds=seconds,
            judged=judged,
            judge_seconds=seconds,
            judges=spent(),
        )
        manifest = manifest.model_copy(update={"judge": judge.name, "judge_asked": asked})
        write_bytes(folder / MANIFEST, dump(manifest, indent=2) + b"\n")


def _is_by(verdicts: Sequence[EvaluatedImage], judge: Reward) -> bool:
    """Whether these are the judge's own, from a call that was killed."""
    return bool(verdicts) and all(verdict.score.reward == judge.name for verdict in verdicts)
