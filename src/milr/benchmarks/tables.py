"""From answers to a benchmark's table: its own aggregation, with intervals beside every number.

Official aggregation (benchmarks' sources, read at the commits that `milr.benchmarks.sources` names):

* GenEval: a tag's score is the mean over its pictures, the overall score the plain mean over the tags that are there.
* T2I-CompBench: a category's score is the mean over its pictures; the paper's overall is the plain mean of the six.
* WISE: a group's score is the mean over its pictures; the overall score weighs them by 0.4, 0.167, 0.133, 0.1, 0.1 and
  0.1 (verified: 0.4 and five times 0.12), and is given for the whole benchmark only.

Intervals: Wilson's for a column, with the prompt as the unit (several images of a prompt are one observation; values
between 0 and 1 make them wider than need be, never narrower). The overall one adds up the columns' distances in squares
(Zou and Donner's MOVER), so that it never shrinks to nothing while columns stand at 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from milr.benchmarks.base import Answer, Benchmark, Column, Table
from milr.errors import UsageError
from milr.runs import Run, TaskRun
from milr.types import Score

OVERALL = "Overall"
_Z = 1.959964  # of the normal distribution: 95 % lie within


def summarise(benchmark: Benchmark, answers: Sequence[Answer]) -> Table:
    """The table of those answers, without the pictures that could not be scored.

    Raises:
        UsageError: A task's tag is none of the benchmark's, or two answers are of the same picture.
    """
    _check(benchmark, answers)
    columns: list[Column] = []
    for tag, whole in benchmark.columns.items():
        scored = [answer for answer in answers if answer.task.tag == tag and answer.value is not None]
        if scored:
            mean = sum(answer.value or 0.0 for answer in scored) / len(scored)
            prompts = len({answer.place for answer in scored})
            columns.append(Column(tag, mean, *wilson(mean, prompts), prompts, whole))
    running = _overall(benchmark, columns)
    complete = sum(column.prompts for column in columns) == benchmark.prompts
    return Table(
        benchmark.name,
        tuple(columns),
        running if complete or not benchmark.whole_only else None,
        running,
        sum(answer.value is None for answer in answers),
        benchmark.notes,
    )


def summarise_runs(benchmark: Benchmark, runs: Sequence[Run]) -> Table:
    """The table of a benchmark's run, or of the runs that share its tasks between them."""
    return summarise(benchmark, [answer for run in runs for answer in answers_of(run)])


def answers_of(run: Run) -> list[Answer]:
    """Return what each finished task of a benchmark's run is worth: the evaluator's score of the reward's best image.

    Without an evaluator it is the reward's own score, which the method has optimised.
    """
    places = run.manifest.places or tuple(range(len(run.manifest.tasks)))
    return [answer_of(task, places[task.index]) for task in run.tasks]


def answer_of(task: TaskRun, place: int) -> Answer:
    """The same of one finished task."""
    chosen = task.answer
    score = chosen.reward if chosen.evaluator is None else chosen.evaluator
    return Answer(task.task, place, task.image, score.value if isinstance(score, Score) else None)


def wilson(mean: float, prompts: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Args:
        mean: The share, in [0, 1].
        prompts: Of how many; at least 1.
    """
    spread = _Z**2 / prompts
    middle = (mean + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(mean * (1 - mean) / prompts + spread / (4 * prompts)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _overall(benchmark: Benchmark, columns: Sequence[Column]) -> Column | None:
    if not columns:
        return None
    prompts = sum(column.prompts for column in columns)
    weights = _scaled({column.name: benchmark.weights[column.name] for column in columns})
    mean = sum(weights[column.name] * column.mean for column in columns)
    below, above = (
        math.sqrt(sum((weights[column.name] * (column.mean - getattr(column, end))) ** 2 for column in columns))
        for end in ("low", "high")
    )
    return Column(OVERALL, mean, max(0.0, mean - below), min(1.0, mean + above), prompts, benchmark.prompts)


def _scaled(weights: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    # The published weights stand as they are; only where columns are missing are the others' scaled.
    return dict(weights) if math.isclose(total, 1.0) else {name: weight / total for name, weight in weights.items()}


def _check(benchmark: Benchmark, answers: Sequence[Answer]) -> None:
    seen: set[tuple[int, int]] = set()
    for answer in answers:
        if answer.task.tag not in benchmark.columns:
            raise UsageError(
                f"{answer.task.prompt!r} has the tag {answer.task.tag!r}, which {benchmark.name} does not know: "
                f"its tags are {', '.join(benchmark.columns)}"
            )
        if (answer.place, answer.image) in seen:
            raise UsageError(
                f"prompt {answer.place} of {benchmark.name} is there twice (image {answer.image}): give each shard once"
            )
        seen.add((answer.place, answer.image))
