"""Images of a report: first and best of a search with their texts, and failures."""

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
"""Most pixels per side in the page; larger images are shrunk."""
_BETTER, _OTHER, _BAD = 9, 3, 3
"""Numbers of searches to show: improved, not improved, and failed in one way."""


@dataclass(frozen=True)
class Shot:
    """One image in the page."""

    name: str
    """"first", "best", "last"."""
    data: str
    """A data URI."""
    width: int
    height: int
    text: str
    """The reasoning before it."""
    said: str
    """Scores of reward and evaluator, in words."""


@dataclass(frozen=True)
class Exhibit:
    """One search, shown by two images."""

    prompt: str
    source: str
    """Label of the entry that drew it."""
    shots: tuple[Shot, ...]


def choose_exhibits(section: Section) -> list[Exhibit]:
    """Return first and best images of the reference's searches: the most improved of each tag in turn, then others.

    For the user's own prompts it returns every search of every entry, in order.
    """
    if section.own:
        return [
            _exhibit(one, task, "first", "best")
            for one in section.entries
            for run in one.runs
            for task in run.tasks
            if task.has_images
        ]
    entry = section.reference or section.entries[0]
    tasks = [task for run in entry.runs for task in run.tasks if task.has_images]
    gains = [(task, gain) for task in tasks if not math.isnan(gain := _gain(task))]
    better = _in_turn([(task, gain) for task, gain in gains if gain > 0])
    others = [task for task, gain in gains if gain <= 0 and task.last.step > 0]
    chosen = [*better[:_BETTER], *others[:_OTHER]]
    return [_exhibit(entry, task, "first", "best") for task in chosen]


def show_failures(section: Section, found: Sequence[Diagnosed]) -> list[tuple[str, list[Exhibit]]]:
    """Return the worst searches of each kind of failure, over all entries; no exhibits if there are none.

    Hacking needs an evaluator, and collapse of images needs images.
    """
    shown: list[tuple[str, list[Exhibit]]] = []
    seen = KINDS if any(entry.evaluated for entry in section.entries) else KINDS[:2]
    for kind in seen:
        second = "best" if kind == KINDS[2] else "last"
        failed = worst(found, kind, _BAD)
        exhibits = [_exhibit(entry, one.task, "first", second) for entry, one in failed if one.task.has_images]
        looked = kind != KINDS[1] or any(one.task.has_images for _, own in found for one in own)
        if exhibits or (looked and not failed):  # a failure without an image is only in the table
            shown.append((kind, exhibits))
    return shown


def _gain(task: TaskRun) -> float:
    """Return the answer's score minus the first image's; the evaluator's if there is one."""
    return _score(task.answer) - _score(task.images[0])


def _score(shown: RunImage) -> float:
    return value_of(shown.reward if shown.evaluator is None else shown.evaluator)


def _in_turn(gains: Sequence[tuple[TaskRun, float]]) -> list[TaskRun]:
    """Return the greatest gain of each tag, then the second of each, and so on."""
    places: dict[str | None, int] = {}
    ranked: list[tuple[int, TaskRun]] = []
    for task, _ in sorted(gains, key=lambda pair: -pair[1]):
        places[task.task.tag] = places.get(task.task.tag, 0) + 1
        ranked.append((places[task.task.tag], task))
    return [task for _, task in sorted(ranked, key=lambda pair: pair[0])]


def _exhibit(entry: Entry, task: TaskRun, *names: str) -> Exhibit:
    images = {"first": task.images[0], "best": task.answer, "last": task.images[-1]}
    return Exhibit(task.task.shown, mark(entry), tuple(_shot(task, images[name], name) for name in names))


def _shot(task: TaskRun, shown: RunImage, name: str) -> Shot:
    image = task.load_image(shown.image)
    image.thumbnail((LARGEST, LARGEST))
    step = next(step for step in task.steps if step.step == shown.step)
    said = f"step {shown.step}, reward {_say(value_of(shown.reward))}"
    if shown.evaluator is not None:
        said += f", evaluator {_say(value_of(shown.evaluator))}"
    return Shot(name, as_data_uri(image), image.width, image.height, step.reasoning.text, said)


def _say(value: float) -> str:
    return "unscored" if math.isnan(value) else f"{value:.2f}"


def as_data_uri(image: Image.Image) -> str:
    """Return the image as a data URI, so that a page needs no second file."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
