"""The results of runs in a few kilobytes each: the data of every number, table and curve, without images.

Format: lines of JSON under LZMA. A run is a line with a `CompactRun`, and a line with a `CompactTask` for each task, in
the order of `read_run`. A file has one run or several: they share many texts, so that one file for all takes a third of
the bytes of a file for each. `FILE/NAME` is the path of one run of a file. Each prompt and step has text, scores with
parts and reasons, the best image's index, counts of latents, drawings, tokens, reward calls, seconds and cost. It has
no image tokens, text tokens, log probabilities, shifts of latents, evidence, nor the prompts of benchmarks that do not
come with milr. Scores and spending are exact; seconds and parts are rounded.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from milr.errors import UsageError, unknown_name
from milr.runs.layout import name_image, name_task, say_fault
from milr.runs.packing import SUFFIX, pack_lines
from milr.runs.reader import Run, TaskRun, make_task_run
from milr.runs.schema import Amount, Count, EvaluatedImage, Manifest, Name, StoredImage, StoredStep, dump
from milr.types import Finished, LatentTrace, Reasoning, Score, Task, Unscored
from milr.untrusted import read_packed_lines

COMPACT_SUFFIX = ".results.xz"
"""Ending of the file name of compact results."""
_FIRST = b'{"compact":'
"""Beginning of the first line of each run, and of no other line."""
Tasks = Callable[[Manifest, Sequence[str | None]], Sequence[Task]]
"""A function that returns the tasks of a manifest without tasks, from their tags."""
T = TypeVar("T")


class ScoreKind(BaseModel):
    """The fields that many scores of a run share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reward: str
    stop_at: float | None
    """None for an unscored image."""
    parts: tuple[str, ...] = ()
    """Names of the conditions."""
    final: bool = False


class Scores(BaseModel):
    """Scores of a task's images, in the order of drawing, column by column."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: tuple[Count, ...]
    """Indices in `CompactRun.kinds`."""
    value: tuple[float | None, ...]
    """None for an unscored image."""
    parts: tuple[tuple[float, ...], ...]
    """Rounded to hundredths."""
    said: tuple[Count, ...]
    """Explanation, or why there is no score: indices in `CompactTask.words`."""
    cost: tuple[float, ...] = ()
    """US dollars; empty if all scores are free."""


class Trace(BaseModel):
    """`LatentTrace`s of a task, column by column, without how far they moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    moved: tuple[tuple[str, ...], ...]
    text_latents: tuple[int, ...]
    image_latents: tuple[int, ...]
    flipped_text: tuple[int, ...]
    flipped_image: tuple[int, ...]


class CompactTask(BaseModel):
    """One finished task; a column has one value per step unless it says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: Count
    """The task's index in the manifest."""
    image: Count
    finished: Finished | None
    step: tuple[Count, ...]
    images: tuple[Count, ...]
    """Number of images of the step."""
    text: tuple[str | None, ...]
    """The reasoning; None means the same as in the step before."""
    best: tuple[Count, ...]
    """Index of the best image among all images so far."""
    best_step: tuple[Count, ...]
    drawings: tuple[Amount, ...]
    tokens: tuple[Count, ...]
    calls: tuple[Count, ...]
    seconds: tuple[Amount, ...]
    """Rounded to tenths."""
    cost: tuple[Amount, ...] = ()
    """US dollars; empty if all steps are free."""
    notes: dict[int, tuple[str, ...]] = {}
    """Notes by the step's index in the columns."""
    trace: Trace | None = None
    words: tuple[str, ...]
    """Texts of the scores, each once."""
    reward: Scores
    """One value per image."""
    evaluator: Scores | None = None
    """One value per image."""
    panel_first: dict[str, Score | Unscored] = {}
    panel_best: dict[str, Score | Unscored] = {}
    """Scores at the last step."""


class CompactRun(BaseModel):
    """The first line of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compact: Literal[1] = 1
    """Version of the format."""
    name: Name = ""
    """Tells the runs of a file apart: a file name. Empty: the file has this run alone."""
    manifest: Manifest
    """The manifest, without tasks if the prompts are not milr's: they are read from the benchmark's own files."""
    tags: tuple[str | None, ...] = ()
    """The tasks' tags, if the manifest has no tasks."""
    kinds: tuple[ScoreKind, ...]


def compact_runs(runs: Iterable[tuple[str, Run]]) -> bytes:
    """Return the compact results of runs. Equal runs give equal bytes.

    Compact results are made to be given to others: of this machine's folders, only the last parts of their paths are
    kept.

    Args:
        runs: Each run with its name; "" for a run that has the file alone.

    Raises:
        UsageError: Two runs have one name.
    """
    lines: list[bytes] = []
    names: set[str] = set()
    for name, run in runs:
        if name in names:
            raise UsageError(f"two runs are named {name}; nothing was written: give their folders different names")
        names.add(name)
        lines += _compact_run(name, run)
    return pack_lines(lines, preset=9 | lzma.PRESET_EXTREME, lc=4, lp=0, pb=0)


def _compact_run(name: str, run: Run) -> list[bytes]:
    manifest, tags = run.manifest, ()
    if manifest.data is not None:
        tags = tuple(task.tag for task in manifest.tasks)
        manifest = manifest.model_copy(update={"tasks": (), "data": Path(manifest.data).name or "."})
    if manifest.model_folder is not None:  # three parts tell the models that come with milr from others
        folder = Path(manifest.model_folder)
        manifest = manifest.model_copy(update={"model_folder": Path(*folder.parts[-3:]).as_posix()})
    kinds: dict[ScoreKind, int] = {}
    tasks = [_compact_task(task, kinds) for task in run.tasks]
    first = CompactRun(name=name, manifest=manifest, tags=tags, kinds=tuple(kinds))
    return [dump(first), *(task.model_dump_json(exclude_defaults=True).encode() for task in tasks)]


def _compact_task(task: TaskRun, kinds: dict[ScoreKind, int]) -> CompactTask:
    words: dict[str, int] = {}
    places = {one.image.file: place for place, one in enumerate(task.images)}
    texts = [step.reasoning.text for step in task.steps]
    traces = [step.trace for step in task.steps if step.trace is not None]
    costs = tuple(step.cost for step in task.steps)
    return CompactTask(
        index=task.index,
        image=task.image,
        finished=task.last.finished,
        step=tuple(step.step for step in task.steps),
        images=tuple(len(step.images) for step in task.steps),
        text=tuple(None if place and text == texts[place - 1] else text for place, text in enumerate(texts)),
        best=tuple(places[step.best.file] for step in task.steps),
        best_step=tuple(step.best_step for step in task.steps),
        drawings=tuple(step.drawings_spent for step in task.steps),
        tokens=tuple(step.tokens_spent for step in task.steps),
        calls=tuple(step.reward_calls for step in task.steps),
        seconds=tuple(round(step.seconds, 1) for step in task.steps),
        cost=costs if any(costs) else (),
        notes={place: step.notes for place, step in enumerate(task.steps) if step.notes},
        trace=_compact_trace(traces) if traces else None,
        words=(),
        reward=_compact_scores([one.reward for one in task.images], kinds, words),
        evaluator=_compact_scores([one.score for one in task.evaluated], kinds, words) if task.evaluated else None,
        panel_first=task.last.panel_first,
        panel_best=task.last.panel_best,
    ).model_copy(update={"words": tuple(words)})


def _compact_trace(traces: Sequence[LatentTrace]) -> Trace:
    return Trace(
        moved=tuple(one.moved for one in traces),
        text_latents=tuple(one.text_latents for one in traces),
        image_latents=tuple(one.image_latents for one in traces),
        flipped_text=tuple(one.flipped_text for one in traces),
        flipped_image=tuple(one.flipped_image for one in traces),
    )


def _compact_scores(scores: Sequence[Score | Unscored], kinds: dict[ScoreKind, int], words: dict[str, int]) -> Scores:
    def kind(one: Score | Unscored) -> int:
        if isinstance(one, Score):
            return _place(kinds, ScoreKind(reward=one.reward, stop_at=one.stop_at, parts=tuple(one.parts)))
        return _place(kinds, ScoreKind(reward=one.reward, stop_at=None, final=one.final))

    costs = tuple(one.cost for one in scores)
    scored = [one if isinstance(one, Score) else None for one in scores]
    return Scores(
        kind=tuple(map(kind, scores)),
        value=tuple(None if one is None else one.value for one in scored),
        parts=tuple(
            () if one is None else tuple(round(float(part), 2) for part in one.parts.values()) for one in scored
        ),
        said=tuple(_place(words, one.explanation if isinstance(one, Score) else one.reason) for one in scores),
        cost=costs if any(costs) else (),
    )


def _place(places: dict[T, int], one: T) -> int:
    return places.setdefault(one, len(places))


def plain_name(path: Path) -> str:
    """Return the name of a run's folder or file, without the endings of packed runs and compact results."""
    return path.name.removesuffix(SUFFIX).removesuffix(COMPACT_SUFFIX)


def is_compact(path: Path) -> bool:
    """Return whether the path is that of compact results, `FILE`, or of one run in them, `FILE/NAME`."""
    file = _split(path)[0]
    return file.name.endswith(COMPACT_SUFFIX) and not file.is_dir()


def _split(path: Path) -> tuple[Path, str | None]:
    """Return the file, and the name of the run if the path has one."""
    if path.parent.name.endswith(COMPACT_SUFFIX) and path.parent.is_file():
        return path.parent, path.name
    return path, None


def read_compact(path: Path, tasks: Tasks) -> tuple[Run, ...]:
    """Read compact results; the runs' tasks have neither images nor tokens.

    Args:
        path: A file made by `compact_runs`, or `FILE/NAME` for one run of a file.
        tasks: Returns the tasks for a manifest without tasks.

    Returns:
        The runs. Each one's folder is the path by which it is read alone.

    Raises:
        UsageError: It is not a file of compact results, has an unknown version, or has no run of that name.
    """
    file, asked = _split(path)
    names: list[str] = []
    runs: list[Run] = []
    try:
        for lines in _by_run(read_packed_lines(file)):
            head = CompactRun.model_validate_json(next(lines))
            names.append(head.name)
            if asked in (None, head.name):
                runs.append(_read_run(file / head.name, head, lines, tasks))
        if len(set(names)) != len(names) or (names != [""] and not all(map(_is_file_name, names))):
            raise ValueError("two of its runs have one name, or one has none")
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise UsageError(
            f"{file} holds no compact results ({say_fault(error)}): give a file that milr pack --compact made"
        ) from None
    if not runs:
        raise unknown_name(f"run of {file}", str(asked), names)
    return tuple(runs)


def _by_run(lines: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
    """Yield the lines of each run, a `CompactRun` first."""
    begun = 0

    def count(line: bytes) -> int:
        nonlocal begun
        begun += line.startswith(_FIRST)
        return begun

    return (own for _, own in groupby(lines, count))


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\")


def _read_run(folder: Path, head: CompactRun, lines: Iterable[bytes], tasks: Tasks) -> Run:
    manifest = head.manifest
    if not manifest.tasks:
        manifest = Manifest.model_validate({**dict(manifest), "tasks": tuple(tasks(manifest, head.tags))})
    found = [_read_task(folder, manifest, head.kinds, CompactTask.model_validate_json(line)) for line in lines]
    if len({(task.index, task.image) for task in found}) != len(found):
        raise ValueError("a task is there twice")
    return Run(folder, manifest, tuple(found))


def _read_task(run: Path, manifest: Manifest, kinds: Sequence[ScoreKind], one: CompactTask) -> TaskRun:
    if one.index >= len(manifest.tasks):
        raise ValueError(f"it has no task {one.index}")
    task = manifest.tasks[one.index]
    if sum(one.images) != len(one.reward.value):
        raise ValueError(f"task {one.index} has {sum(one.images)} images and {len(one.reward.value)} scores")
    scores = _read_scores(one.reward, kinds, one.words)
    images: list[StoredImage] = []
    steps: list[StoredStep] = []
    text = ""
    for place, (step, many) in enumerate(zip(one.step, one.images, strict=True)):
        own = [StoredImage(tokens=(), file=name_image(step, number)) for number in range(many)]
        begun = len(images)
        images += own
        text = text if one.text[place] is None else str(one.text[place])
        last = place == len(one.step) - 1
        steps.append(
            StoredStep.model_construct(
                task=task,
                index=one.index,
                image=one.image,
                step=step,
                reasoning=Reasoning(text, ()),
                images=tuple(own),
                scores=tuple(scores[begun : begun + many]),
                best=images[one.best[place]],
                best_score=scores[one.best[place]],
                best_step=one.best_step[place],
                drawings_spent=one.drawings[place],
                tokens_spent=one.tokens[place],
                reward_calls=one.calls[place],
                seconds=one.seconds[place],
                cost=one.cost[place] if one.cost else 0.0,
                finished=one.finished if last else None,
                trace=None if one.trace is None else _read_trace(one.trace, place),
                notes=one.notes.get(place, ()),
                panel_first=one.panel_first,
                panel_best=one.panel_best if last else {},
            )
        )
    if not steps:
        raise ValueError(f"task {one.index} has no steps")
    evaluated: tuple[EvaluatedImage, ...] = ()
    if one.evaluator is not None:
        order = [(step.step, number) for step in steps for number in range(len(step.images))]
        found = _read_scores(one.evaluator, kinds, one.words)
        evaluated = tuple(
            EvaluatedImage.model_construct(step=step, number=number, score=score)
            for (step, number), score in zip(order, found, strict=True)
        )
    folder = run / "tasks" / name_task(one.index, task, one.image)
    return make_task_run(folder, manifest, steps, evaluated, has_images=False)


def _read_trace(trace: Trace, place: int) -> LatentTrace:
    columns: dict[str, Any] = {name: getattr(trace, name)[place] for name in Trace.model_fields}
    return LatentTrace(**columns, text_shift=math.nan, image_shift=math.nan, log_probability=None)


def _read_scores(scores: Scores, kinds: Sequence[ScoreKind], words: Sequence[str]) -> list[Score | Unscored]:
    found: list[Score | Unscored] = []
    columns = zip(scores.kind, scores.value, scores.parts, scores.said, strict=True)
    for place, (number, value, parts, said) in enumerate(columns):
        kind, cost = kinds[number], scores.cost[place] if scores.cost else 0.0
        if kind.stop_at is None or value is None:
            found.append(Unscored(words[said], kind.reward, kind.final, cost))
        else:
            named = dict(zip(kind.parts, parts, strict=True))
            found.append(Score(value, kind.reward, kind.stop_at, named, words[said], {}, cost))
    return found
