"""Pictures to look at: first and best of a search with their texts, and the failures that were found."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from milr.report.comparison import mark
from milr.report.entries import Entry, value_of
from milr.report.failures import KINDS, Diagnosed, worst
from milr.report.sections import Section
from milr.runs import RunImage, TaskRun

LARGEST = 256
"""Pixels a side in the page; larger pictures are made smaller."""
_BETTER, _OTHER, _BAD = 9, 3, 3
"""How many searches that got better, that did not, and that failed in one way."""


@dataclass(frozen=True)
class Shot:
    """One picture in the page."""

    name: str
    """"first", "best", "last"."""
    data: str
    """A data URI."""
    width: int
    height: int
    text: str
    """The reasoning before it."""
    said: str
    """What reward and judge say of it."""


@dataclass(frozen=True)
class Exhibit:
    """One search, in two pictures."""

    prompt: str
    source: str
    """Which entry drew it."""
    shots: tuple[Shot, ...]


def choose_exhibits(section: Section) -> list[Exhibit]:
    """First and best pictures of the reference's searches: the most improved of each tag in turn, then others."""
    entry = section.reference or section.entries[0]
    tasks = [task for run in entry.runs for task in run.tasks]
    gains = [(task, gain) for task in tasks if not math.isnan(gain := _gain(task))]
    better = _in_turn([(task, gain) for task, gain in gains if gain > 0])
    others = [task for task, gain in gains if gain <= 0 and task.last.step > 0]
    chosen = [*better[:_BETTER], *others[:_OTHER]]
    return [_exhibit(entry, task, "first", "best") for task in chosen]


def show_failures(section: Section, found: Sequence[Diagnosed]) -> list[tuple[str, list[Exhibit]]]:
    """The worst searches of each kind of failure, over all entries; no exhibits where none was found.

    Without a judge nothing is said of hacking.
    """
    shown: list[tuple[str, list[Exhibit]]] = []
    seen = KINDS if any(entry.judged for entry in section.entries) else KINDS[:2]
    for kind in seen:
        second = "best" if kind == KINDS[2] else "last"
        exhibits = [_exhibit(entry, one.task, "first", second) for entry, one in worst(found, kind, _BAD)]
        shown.append((kind, exhibits))
    return shown


def _gain(task: TaskRun) -> float:
    """The answer's verdict minus the first picture's; the judge's where there is one."""
    return _verdict(task.answer) - _verdict(task.drawings[0])


def _verdict(drawing: RunImage) -> float:
    return value_of(drawing.reward if drawing.judge is None else drawing.judge)


def _in_turn(gains: Sequence[tuple[TaskRun, float]]) -> list[TaskRun]:
    """The greatest gain of each tag, then the second of each, and so on."""
    places: dict[str | None, int] = {}
    ranked: list[tuple[int, TaskRun]] = []
    for task, _ in sorted(gains, key=lambda pair: -pair[1]):
        places[task.task.tag] = places.get(task.task.tag, 0) + 1
        ranked.append((places[task.task.tag], task))
    return [task for _, task in sorted(ranked, key=lambda pair: pair[0])]


def _exhibit(entry: Entry, task: TaskRun, *names: str) -> Exhibit:
    drawings = {"first": task.drawings[0], "best": task.answer, "last": task.drawings[-1]}
    return Exhibit(task.task.prompt, mark(entry), tuple(_shot(task, drawings[name], name) for name in names))


def _shot(task: TaskRun, drawing: RunImage, name: str) -> Shot:
    picture = task.picture(drawing.drawing)
    picture.thumbnail((LARGEST, LARGEST))
    step = next(step for step in task.steps if step.step == drawing.step)
    said = f"step {drawing.step}, reward {_say(value_of(drawing.reward))}"
    if drawing.judge is not None:
        said += f", judge {_say(value_of(drawing.judge))}"
    return Shot(name, as_data_uri(picture), picture.width, picture.height, step.reasoning.text, said)


def _say(value: float) -> str:
    return "unscored" if math.isnan(value) else f"{value:.2f}"


def as_data_uri(picture: Image.Image) -> str:
    """The picture as PNG inside an address, so that a page needs no second file."""
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
