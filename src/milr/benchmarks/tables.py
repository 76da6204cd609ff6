"""Aggregation of answers to a benchmark's table, with an interval for every number.

Official aggregation (benchmarks' sources, read at the commits that `milr.sources` names):

* GenEval: a tag's score is the mean over its images, the overall score the plain mean over the tags present.
* T2I-CompBench: a category's score is the mean over its images; the paper's overall is the plain mean of the six.
* WISE: a group's score is the mean over its images; the overall score weights them by 0.4, 0.167, 0.133, 0.1, 0.1 and
  0.1 (verified: 0.4 and five times 0.12), and is given for the whole benchmark only.
* GenEval 2: an image's score is the geometric mean of its items (Soft-TIFA GM). A number of atoms has the mean over its
  images, the overall score is the mean over all images. A skill has the mean over its items of all images (Soft-TIFA
  AM).
* T2I-CoReBench: a dimension's score is the mean over its images, the overall score the plain mean of the dimensions.

Intervals are those of `milr.benchmarks.intervals`, with the prompt as the unit: several images of a prompt are one
observation. A skill's prompts have unequal numbers of items: its interval takes Kish's effective number of prompts,
(sum m)^2 / sum m^2, which is never larger.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from milr.benchmarks.base import ALL_ITEMS, Answer, Benchmark, Column, Table
from milr.benchmarks.intervals import Estimate, estimate_mean, pool, wilson
from milr.errors import UsageError
from milr.runs import Run, TaskRun
from milr.types import Score

OVERALL = "Overall"


def summarise(benchmark: Benchmark, answers: Sequence[Answer]) -> Table:
    """Return the table of those answers, without the images that could not be scored.

    Raises:
        UsageError: A task's tag is not one of the benchmark's, or two answers are of the same image.
    """
    _check(benchmark, answers)
    found: dict[str, Estimate] = {}
    for tag in benchmark.columns:
        scored = [(a.place, a.value) for a in answers if a.task.tag == tag and a.value is not None]
        if scored:
            found[tag] = estimate_mean([value for _, value in scored], len({place for place, _ in scored}))
    overall = pool(list(found.values()), [benchmark.weights[tag] for tag in found])
    running = Column.of_estimate(OVERALL, overall, benchmark.prompts) if found else None
    complete = overall.prompts == benchmark.prompts
    return Table(
        benchmark.name,
        tuple(Column.of_estimate(tag, one, benchmark.columns[tag]) for tag, one in found.items()),
        running if complete or not benchmark.whole_only else None,
        running,
        sum(answer.value is None for answer in answers),
        benchmark.notes,
        summarise_items(benchmark, answers),
    )


def summarise_items(benchmark: Benchmark, answers: Sequence[Answer]) -> tuple[Column, ...]:
    """Return the means over checklist items by tag, then the mean over prompts (`ALL_ITEMS`).

    Args:
        benchmark: Its `items` are the tags; without them nothing is returned.
        answers: Any number per prompt; those whose scores do not have every item's value are left out.
    """
    rated = [
        (answer.place, [(item, answer.parts[item.question]) for item in answer.task.checklist])
        for answer in answers
        if answer.value is not None
        and answer.task.checklist
        and all(item.question in answer.parts for item in answer.task.checklist)
    ]
    if not benchmark.items or not rated:
        return ()
    columns: list[Column] = []
    for tag, of in benchmark.items.items():
        values = [(place, value) for place, items in rated for item, value in items if tag in item.tags]
        if values:
            counts = Counter(place for place, _ in values)
            mean = math.fsum(value for _, value in values) / len(values)
            low, high = wilson(mean, len(values) ** 2 / sum(many**2 for many in counts.values()))
            columns.append(Column(tag, mean, low, high, len(counts), of))
    means = [math.fsum(value for _, value in items) / len(items) for _, items in rated]
    whole = estimate_mean(means, len({place for place, _ in rated}))
    return (*columns, Column.of_estimate(ALL_ITEMS, whole, benchmark.prompts))


def summarise_runs(benchmark: Benchmark, runs: Sequence[Run]) -> Table:
    """Return the table of a benchmark's run, or of the runs that share its tasks between them."""
    return summarise(benchmark, [answer for run in runs for answer in answers_of(run)])


def answers_of(run: Run) -> list[Answer]:
    """Return one answer per finished task: the evaluator's score of the image that the reward chose.

    Without an evaluator it is the reward's own score, which the method has optimised.
    """
    places = run.manifest.places or tuple(range(len(run.manifest.tasks)))
    return [answer_of(task, places[task.index]) for task in run.tasks]


def answer_of(task: TaskRun, place: int) -> Answer:
    """Return the answer of one finished task."""
    chosen = task.answer
    score = chosen.reward if chosen.evaluator is None else chosen.evaluator
    if not isinstance(score, Score):
        return Answer(task.task, place, task.image, None)
    return Answer(task.task, place, task.image, score.value, score.parts)


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
