"""Questions whether a text meets a prompt, answered by yes or no: their wording, and pairs to train with.

The truth is `training.texts.names_what_is_asked`. A false text differs from a true one in one thing, or was
written for another prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from milr.tasks import COLORS, OBJECT_NAMES, RELATIONS, PromptError, parse_prompt
from milr.types import Requirement, Task
from training.prompt_lists import HeldOut
from training.scenes import MOST_OBJECTS, PLACES, mention_all, write_text
from training.texts import Named, Text, allows, names_what_is_asked, read_text
from training.world import World

_OTHERS = 0.4  # chance that a false text is another prompt's
_TRIES = 20  # changes of a text before another prompt is chosen
_SWAPPED = 0.5  # chance that two objects swap their colours, if they can
_ADDED = 0.3  # chance that an object is added instead of replaced
_BARE = 0.2  # chance that a colour is left out instead of replaced

Items = list[Named]


@dataclass(frozen=True)
class Demand:
    """What a prompt asks of one object that a text names."""

    count: int
    """How many objects of this name the prompt asks for."""
    color: str | None
    """The colour that it asks for."""
    side: int
    """0 without a relation; 1 to 4, as `milr.tasks.RELATIONS`, for its first object; 5 to 8 for its second."""
    fits: bool
    """Whether the prompt asks for this object, and its place contradicts no relation to the objects named before it."""


@dataclass(frozen=True)
class Demands:
    """What a prompt asks of a text."""

    objects: tuple[Demand, ...]
    """Of each object that the text names, in the text's order."""
    missing: int
    """How many objects that the prompt asks for the text does not name."""


def text_question(prompt: str, text: str) -> str:
    """Return the question whether a text meets a prompt."""
    return f"does this fit? {prompt}: {text.strip()}"


def sample_check(world: World) -> tuple[str, str, bool]:
    """Return a prompt, a text, and True if the text meets the prompt; half of the texts do.

    A false text has another object, number or colour, or places that contradict a relation; or it is another prompt's:
    texts that differ in one thing alone do not teach to compare. True and false texts name places, sizes, style and
    ground equally often.
    """
    random = world.random
    truth = bool(random.integers(2))
    while True:
        task = world.request()
        kinds = change_kinds(task)
        kind = kinds[random.integers(len(kinds))]
        scene = world.scene(task)
        mentions = world.mention(scene)
        if kind == "place":
            mentions = replace(mentions, placed=mention_all(scene).placed)
        text = write_text(scene, mentions)
        if truth:
            return task.prompt, text, True
        if random.random() < _OTHERS:
            other = world.scene(world.request())
            text = write_text(other, world.mention(other))
            if not names_what_is_asked(text, task):
                return task.prompt, text, False
            continue
        for _ in range(_TRIES):
            changed = change_text(random, task, text, kind, world.held_out)
            if changed is not None:
                return task.prompt, changed, False


def read_demands(prompt: str, text: str) -> Demands | None:
    """Return what a prompt asks of a text.

    None if the prompt is no list of objects, as a riddle is not, or the text cannot be read.
    """
    read = read_text(text)
    try:
        task = parse_prompt(prompt)
    except PromptError:
        return None
    if read is None:
        return None
    asked = {need.name: need for need in task.include}
    named = [item.name for item in read.items]
    sides = _sides(task)
    demands: list[Demand] = []
    for number, item in enumerate(read.items, 1):
        need = asked.get(item.name)
        so_far = replace(read, items=read.items[:number])
        fits = (
            need is not None
            and need.color in (None, item.color)
            and named[:number].count(item.name) <= need.count
            and all(allows(so_far, one, task) for one in task.include if item.name in _related(one, task))
        )
        count, color = (need.count, need.color) if need else (0, None)
        demands.append(Demand(count, color, sides.get(item.name, 0), fits))
    return Demands(tuple(demands), sum(max(0, need.count - named.count(need.name)) for need in task.include))


def _related(need: Requirement, task: Task) -> tuple[str, ...]:
    """Return the two names of a relation, or no name."""
    return (need.name, task.include[need.position[1]].name) if need.position else ()


def _sides(task: Task) -> dict[str, int]:
    """Return by name the side of a relation (`Demand.side`)."""
    sides: dict[str, int] = {}
    for need in task.include:
        if need.position:
            relation = 1 + RELATIONS.index(need.position[0])
            name, other = _related(need, task)
            sides |= {name: relation, other: relation + len(RELATIONS)}
    return sides


def change_kinds(task: Task) -> list[str]:
    """Return the things that can be changed in a text of a task: object, number, color, place."""
    colored = any(need.color for need in task.include)
    related = any(need.position for need in task.include)
    return ["object", "number", *["color"] * colored, *["place"] * related]


def change_text(random: np.random.Generator, task: Task, text: str, kind: str, held_out: HeldOut) -> str | None:
    """Return a text with one thing changed; None if it still meets the task, or names what is held out.

    Args:
        random: The source of chance.
        task: The task that the text meets.
        text: A text.
        kind: The thing to change, one of `change_kinds`.
        held_out: Combinations that no training data shows.
    """
    read = read_text(text)
    if read is None:
        return None
    items = _CHANGES[kind](random, task, list(read.items))
    if not items or len(items) > MOST_OBJECTS or _holds(held_out, items):
        return None
    changed = write_named(replace(read, items=tuple(items)))
    return None if names_what_is_asked(changed, task) else changed


def write_named(text: Text) -> str:
    """Return the words of a text (the inverse of `training.texts.read_text`)."""
    parts = [" ".join(word for word in (i.place, i.size, i.color, i.name) if word) for i in text.items]
    parts += [f"{text.style} style"] if text.style else []
    parts += [f"{text.ground} ground"] if text.ground else []
    return ", ".join(parts)


def _change_object(random: np.random.Generator, _: Task, items: Items) -> Items:
    """Rename all objects of one name, leave them out, or add an object of a new name."""
    names = {item.name for item in items}
    new = _pick(random, [name for name in OBJECT_NAMES if name not in names])
    if random.random() < _ADDED:
        like = items[random.integers(len(items))]
        color = _pick(random, COLORS) if like.color else None
        return [*items, Named(new, color, _new_place(random, items, like), like.size)]
    old = items[random.integers(len(items))].name
    if len(names) > 1 and random.random() < _ADDED:
        return [item for item in items if item.name != old]
    return [replace(item, name=new) if item.name == old else item for item in items]


def _change_number(random: np.random.Generator, _: Task, items: Items) -> Items:
    """Leave one object out that is not alone of its name, or repeat one."""
    several = [i for i, item in enumerate(items) if sum(other.name == item.name for other in items) > 1]
    if several and random.random() < 0.5:
        gone = several[random.integers(len(several))]
        return [item for i, item in enumerate(items) if i != gone]
    where = int(random.integers(len(items)))
    again = replace(items[where], place=_new_place(random, items, items[where]))
    return [*items[: where + 1], again, *items[where + 1 :]]


def _change_color(random: np.random.Generator, task: Task, items: Items) -> Items:
    """Give an object another colour or none, or let two names swap their colours."""
    asked = [need.name for need in task.include if need.color]
    own = {item.name: item.color for item in items}
    name = _pick(random, asked)
    others = [other for other in own if other != name and own[other] != own[name]]
    if others and random.random() < _SWAPPED:
        other = _pick(random, others)
        new = {name: own[other], other: own[name]}
    elif random.random() < _BARE:
        new = {name: None}
    else:
        new = {name: _pick(random, [color for color in COLORS if color != own[name]])}
    if random.random() < 0.5:  # every object of the name, or one of them
        return [replace(item, color=new.get(item.name, item.color)) for item in items]
    first = {item.name: i for i, item in reversed(list(enumerate(items)))}
    return [
        replace(item, color=new[item.name]) if item.name in new and first[item.name] == i else item
        for i, item in enumerate(items)
    ]


def _change_place(random: np.random.Generator, task: Task, items: Items) -> Items:
    """Let the two objects of a relation swap their places, or move one of them."""
    related = [need for need in task.include if need.position]
    need = related[random.integers(len(related))]
    assert need.position is not None
    names = need.name, task.include[need.position[1]].name
    places = {item.name: item.place for item in items}
    if random.random() < 0.5:
        new = {names[0]: places.get(names[1]), names[1]: places.get(names[0])}
    else:
        new = {_pick(random, names): _pick(random, PLACES)}
    return [replace(item, place=new.get(item.name, item.place)) for item in items]


_CHANGES: dict[str, Callable[[np.random.Generator, Task, Items], Items]] = {
    "object": _change_object,
    "number": _change_number,
    "color": _change_color,
    "place": _change_place,
}


def _new_place(random: np.random.Generator, items: Items, like: Named) -> str | None:
    """Return a place that no object has, if ``like`` has one."""
    taken = {item.place for item in items}
    return _pick(random, [place for place in PLACES if place not in taken]) if like.place else None


def _holds(held_out: HeldOut, items: Items) -> bool:
    names = [item.name for item in items]
    return any(
        (item.color, item.name) in held_out.colors or (names.count(item.name), item.name) in held_out.counts
        for item in items
    )


def _pick(random: np.random.Generator, choices: tuple[str, ...] | list[str]) -> str:
    return choices[random.integers(len(choices))]
