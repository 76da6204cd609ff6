"""Texts read back: the objects that a text names, and whether they are what a prompt asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from milr.tasks import COLORS, OBJECT_NAMES
from milr.types import Requirement, Task
from training.grounds import GROUNDS
from training.scenes import PLACES, SIZES, STYLES


@dataclass(frozen=True)
class Named:
    """One object as a text names it; None for what the text leaves open."""

    name: str
    color: str | None
    place: str | None
    size: str | None


@dataclass(frozen=True)
class Text:
    """All that a text names."""

    items: tuple[Named, ...]
    style: str | None
    ground: str | None


def read_text(text: str) -> Text | None:
    """Return what a text names (the inverse of `training.scenes.write_text`); None if it cannot be read."""
    parts = [part.strip() for part in text.strip().split(", ")]
    ground = _last(parts, " ground", GROUNDS)
    style = _last(parts, " style", STYLES)
    items = [_read_item(part) for part in parts]
    if not items or not all(items):
        return None
    return Text(tuple(item for item in items if item), style, ground)


def change_surroundings(text: str, *, style: str | None = None, ground: str | None = None) -> str:
    """Return a text with this style and this ground; None keeps what the text says, or leaves open."""
    parts = [part.strip() for part in text.strip().split(", ")]
    old_ground = _last(parts, " ground", GROUNDS)
    old_style = _last(parts, " style", STYLES)
    style, ground = style or old_style, ground or old_ground
    return ", ".join([*parts, *([f"{style} style"] if style else []), *([f"{ground} ground"] if ground else [])])


def names_what_is_asked(text: str, task: Task) -> bool:
    """Return True if a text names what a prompt asks for and contradicts none of it.

    Every object must be named as often as asked, in its colour; no other object may be named. A relation is met if the
    named places do not contradict it: a text may leave places to the image.
    """
    read = read_text(text)
    if read is None:
        return False
    asked = Counter((need.name, need.color) for need in task.include for _ in range(need.count))
    colored = {need.name for need in task.include if need.color}
    named = Counter((item.name, item.color if item.name in colored else None) for item in read.items)
    return named == asked and all(allows(read, need, task) for need in task.include)


def allows(read: Text, need: Requirement, task: Task) -> bool:
    """Return True if the named places of two objects do not contradict their relation."""
    if need.position is None:
        return True
    relation, index = need.position
    own = [item.place for item in read.items if item.name == need.name]
    other = [item.place for item in read.items if item.name == task.include[index].name]
    return all(a is None or b is None or _direction(a, b, relation) for a in own for b in other)


def _direction(a: str, b: str, relation: str) -> bool:
    """Return True if region ``a`` is ``relation`` of region ``b``, or level with it at the same place."""
    rows, columns = ([divmod(PLACES.index(place), 3)[axis] for place in (a, b)] for axis in (0, 1))
    difference = {
        "left of": columns[1] - columns[0],
        "right of": columns[0] - columns[1],
        "above": rows[1] - rows[0],
        "below": rows[0] - rows[1],
    }[relation]
    return difference > 0 or a == b


def _last(parts: list[str], ending: str, known: Iterable[str]) -> str | None:
    """Remove the last part and return its word, if it is a known word with that ending."""
    word = parts[-1].removesuffix(ending) if parts and parts[-1].endswith(ending) else None
    if word is not None and word in known:
        parts.pop()
        return word
    return None


def _read_item(words: str) -> Named | None:
    place, words = _take(words, PLACES)
    size, words = _take(words, SIZES)
    color, name = _take(words, COLORS)
    return Named(name, color, place, size) if name in OBJECT_NAMES else None


def _take(words: str, known: Iterable[str]) -> tuple[str | None, str]:
    """Return the longest of the known beginnings and the words after it."""
    found = max((one for one in known if words.startswith(f"{one} ")), key=len, default=None)
    return found, words.removeprefix(f"{found} ") if found else words
