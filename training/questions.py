"""Yes/no questions about scenes: what visual question answering is taught and measured with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from milr.tasks import COLORS, COUNT_WORDS, OBJECT_NAMES, RELATIONS, plural, with_article
from training.scenes import Item, Scene
from training.world import related

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class Question(NamedTuple):
    """A yes/no question about an image."""

    kind: str
    """object, color, count or relation."""
    text: str
    truth: bool
    names: tuple[tuple[str, str], ...]
    """The objects it asks about, in order: as the text spells them, and GenEval's names."""


def ask_questions(random: np.random.Generator, scene: Scene, number: int, relations: float = 1.0) -> list[Question]:
    """Return questions about a scene; about half of them have one thing changed, so that their answer is no.

    Args:
        random: The source of chance.
        scene: What the image shows.
        number: Of questions.
        relations: How many questions about relations there are for one of each other kind.
    """
    return [_ask(random, scene, bool(random.integers(2)), relations) for _ in range(number)]


def _ask(random: np.random.Generator, scene: Scene, truth: bool, relations: float) -> Question:
    items = scene.items
    colored = [item for item in items if item.color]
    pair = _find_pair(random, items)
    weights = {"object": 1.0, "count": 1.0, "color": float(bool(colored)), "relation": relations * (pair is not None)}
    kind = str(random.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))
    item = items[random.integers(len(items))]
    if kind == "object":
        absent = [name for name in OBJECT_NAMES if name not in {one.name for one in items}]
        name = item.name if truth else absent[random.integers(len(absent))]
        return Question(kind, f"is there {with_article(name)}?", truth, ((name, name),))
    if kind == "color":
        item = colored[random.integers(len(colored))]
        same = {one.color for one in items if one.name == item.name}
        others = [color for color in COLORS if color not in same]
        color = item.color if truth else others[random.integers(len(others))]
        asked = with_article(f"{color} {item.name}")
        return Question(kind, f"is there {asked}?", truth, ((item.name, item.name),))
    if kind == "count":
        number = sum(one.name == item.name for one in items)
        others = [k for k in (1, 2, 3, 4) if k != number]
        asked = number if truth and number <= 4 else others[random.integers(len(others))]
        many = plural(item.name)
        return Question(kind, f"is the number of {many} {_word(asked)}?", asked == number, ((many, item.name),))
    assert pair is not None, "a question about a relation without two single objects"
    a, b, relation = pair
    relation = relation if truth else OPPOSITE[relation]
    return Question(kind, f"is the {a.name} {relation} the {b.name}?", truth, ((a.name, a.name), (b.name, b.name)))


def _find_pair(random: np.random.Generator, items: tuple[Item, ...]) -> tuple[Item, Item, str] | None:
    """Return two objects that are alone of their names and a relation that holds between them; None without any."""
    singles = [item for item in items if sum(other.name == item.name for other in items) == 1]
    if len(singles) < 2:
        return None
    a, b = (singles[int(i)] for i in random.choice(len(singles), 2, replace=False))
    holding = [relation for relation in RELATIONS if related(a.box, b.box, relation)]
    return (a, b, holding[random.integers(len(holding))]) if holding else None


def _word(count: int) -> str:
    return next(word for word, value in COUNT_WORDS.items() if value == count)
