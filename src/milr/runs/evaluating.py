"""An evaluator's scores of a run's images: while the run is made, and by another evaluator once it is finished."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from milr.errors import UsageError
from milr.files import PART, move, write_bytes
from milr.rewards.base import Reward, begin_scoring
from milr.runs.layout import EVALUATED, MANIFEST, NotScored, read_manifest, say_resume
from milr.runs.lock import check_unheld, hold_run
from milr.runs.page import write_page
from milr.runs.reader import TaskRun, load_image, read_evaluated, read_run
from milr.runs.schema import EvaluatedImage, Manifest, dump, dump_lines
from milr.runs.sessions import Spending, open_session, spend_from_now, update_session
from milr.types import Score, Task, find_final

_FRESH = f"{EVALUATED}{PART}.new"
"""File of a task's new scores, until all tasks of the run have theirs."""


@dataclass(frozen=True)
class Shown:
    """An image for the evaluator."""

    step: int
    number: int
    """Number of the image among the step's images, from 0."""
    file: Path


def evaluate_images(evaluator: Reward, task: Task, shown: Sequence[Shown]) -> list[EvaluatedImage]:
    """Return the evaluator's score of each image.

    Raises:
        NotScored: The evaluator cannot score any more.
    """
    places = [(one.step, one.number) for one in shown]
    return _score(evaluator, task, places, [load_image(one.file) for one in shown])


def score_images(evaluator: Reward, task: Task, step: int, images: Sequence[Image.Image]) -> list[EvaluatedImage]:
    """Return the evaluator's score of each image of a step.

    Raises:
        NotScored: As `evaluate_images`.
    """
    return _score(evaluator, task, [(step, number) for number in range(len(images))], images)


def _score(
    evaluator: Reward, task: Task, places: Sequence[tuple[int, int]], images: Sequence[Image.Image]
) -> list[EvaluatedImage]:
    scores = begin_scoring(evaluator, images, [task] * len(images))()
    lost = find_final(scores)
    if lost is not None:
        raise NotScored(f"the evaluator {evaluator.name} scores nothing any more: {lost}; the finished tasks are kept")
    return [
        EvaluatedImage(step=step, number=number, score=replace(score, reward=evaluator.name))
        for (step, number), score in zip(places, scores, strict=True)
    ]


def evaluate_missing(
    evaluator: Reward, task: TaskRun, known: Sequence[EvaluatedImage]
) -> tuple[list[EvaluatedImage], list[EvaluatedImage]]:
    """Score the images of a task that the evaluator has not scored yet, because it was down.

    Args:
        evaluator: The evaluator that gave `known`.
        task: A finished task.
        known: The evaluator's scores so far.

    Returns:
        The evaluator's scores of all images in order, and the new ones among them.

    Raises:
        NotScored: The evaluator cannot score any more.
    """
    scored = {(one.step, one.number): one for one in known if isinstance(one.score, Score)}
    missing = [
        Shown(one.step, one.number, task.find_file(one.image))
        for one in task.images
        if (one.step, one.number) not in scored
    ]
    fresh = evaluate_images(evaluator, task.task, missing) if missing else []
    scored |= {(one.step, one.number): one for one in fresh}
    return [scored[one.step, one.number] for one in task.images], fresh


def is_evaluated(folder: Path, evaluator: str) -> bool:
    """Return true if all images of a run are scored by the evaluator of that name with version.

    Raises:
        UsageError: The folder holds no readable run.
    """
    return all(
        isinstance(one.evaluator, Score) and one.evaluator.reward == evaluator
        for task in read_run(folder).tasks
        for one in task.images
    )


def check_evaluable(folder: Path) -> Manifest:
    """Return the manifest of a run that another evaluator may score.

    Raises:
        UsageError: There is no run, another process works on it, or it was interrupted.
    """
    manifest = read_manifest(folder)
    check_unheld(folder, MANIFEST)
    if manifest.status not in ("finished", "stopped"):
        go_on = say_resume(folder, benchmark=manifest.benchmark is not None)
        raise UsageError(f"{folder} is not finished ({manifest.status}): type {go_on} first")
    return manifest


def evaluate_run(
    folder: Path,
    evaluator: Reward,
    asked: str,
    *,
    vlm_usage: Spending = lambda: None,
    machine: Mapping[str, str | int] | None = None,
) -> Iterator[tuple[int, int]]:
    """Score a finished run's images by another evaluator; its scores replace the earlier ones.

    If the evaluator is the same, only its unscored images are scored again.

    New scores are written beside the old ones and replace them when all are there: an interruption before that leaves
    the run unchanged, and the same call continues. The evaluator's time does not count as the method's.

    Args:
        folder: The run's folder.
        evaluator: Any reward that the method has not seen.
        asked: The name that the user gave.
        vlm_usage: Returns the usage of VLM judges so far; the usage of this call is added to the run's.
        machine: Facts from `milr.models.devices.machine_facts`.

    Yields:
        Number of evaluated tasks, and of all tasks.

    Raises:
        UsageError: As `check_evaluable`.
        NotScored: The evaluator cannot score any more; its scores are kept.
    """
    check_evaluable(folder)
    with hold_run(folder, MANIFEST):
        run = read_run(folder)
        spent, started, evaluated, cost = spend_from_now(vlm_usage), time.monotonic(), 0, 0.0
        for done, task in enumerate(run.tasks, start=1):
            fresh = task.folder / _FRESH
            stored = (_read_stored(fresh), _read_stored(task.folder / EVALUATED))
            known = next((one for one in stored if _is_by(one, evaluator)), ())
            whole, found = evaluate_missing(evaluator, task, known)
            if found:
                write_bytes(fresh, dump_lines(whole))
                evaluated += len(found)
                cost += sum(one.score.cost for one in found)
            yield done, len(run.tasks)
        for fresh in [task.folder / _FRESH for task in run.tasks if (task.folder / _FRESH).exists()]:
            move(fresh, fresh.with_name(EVALUATED))
        seconds = round(time.monotonic() - started, 3)
        manifest = update_session(
            open_session(run.manifest, machine or {}),
            status="finished",
            seconds=seconds,
            evaluated=evaluated,
            evaluator_seconds=seconds,
            cost=cost,
            vlm_usage=spent(),
        )
        manifest = manifest.model_copy(update={"evaluator": evaluator.name, "evaluator_asked": asked})
        write_bytes(folder / MANIFEST, dump(manifest, indent=2) + b"\n")
        write_page(folder)


def _read_stored(file: Path) -> tuple[EvaluatedImage, ...]:
    """Return the scores in a file, by any evaluator; none if it cannot be read, so that they are requested again."""
    try:
        return read_evaluated(file)
    except (OSError, ValueError):
        return ()


def _is_by(evaluated: Sequence[EvaluatedImage], evaluator: Reward) -> bool:
    """Return true if these scores are the evaluator's own, from an interrupted call."""
    return bool(evaluated) and all(one.score.reward == evaluator.name for one in evaluated)
