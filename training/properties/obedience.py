"""The image shows what its text names; and the text decides it, not the prompt: two texts of a prompt that differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

from milr.types import Reasoning, Task
from training.grounds import TOKEN
from training.properties.pools import Pool
from training.properties.shares import share, share_by
from training.properties.studio import Seen, Studio
from training.scenes import region, write_text
from training.text_checks import change_kinds, change_text
from training.texts import Named, Text, read_text
from training.world import World

_NEAR = 0.3  # tokens: a found box is not exactly its icon's


def draw_named(studio: Studio, world: World, number: int, label: str) -> list[dict[str, Any]]:
    """Draw from texts of fresh prompts, as training writes them; return what each image shows of its text."""
    tasks = [world.request() for _ in range(number)]
    scenes = [world.scene(task) for task in tasks]
    texts = [write_text(scene, world.mention(scene)) for scene in scenes]
    return [_compare(seen, _read(text)) for text, seen in zip(texts, _draw(studio, tasks, texts, label), strict=True)]


def show_greedy(studio: Studio, pools: Sequence[Pool]) -> list[dict[str, Any]]:
    """Return what the first drawing of each greedy text shows of its text.

    Args:
        studio: The model with both detectors.
        pools: Drawings of greedy texts. Those whose text cannot be read are left out.
    """
    readable = [pool for pool in pools if read_text(pool.texts[0])]
    images = [studio.model.show_tokens(pool.right_tokens if pool.right[0] else pool.wrong_tokens) for pool in readable]
    texts = [_read(pool.texts[0]) for pool in readable]
    return [_compare(seen, text) for text, seen in zip(texts, studio.look(images), strict=True)]


def describe_named(drawn: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the share of images that show what their text names, by number of objects, and the kinds of faults."""
    faults = [fault for one in drawn for fault in one["faults"]]
    return {
        "shows what its text names": share([one["shown"] for one in drawn]),
        "by number of objects": share_by([one["objects"] for one in drawn], [one["shown"] for one in drawn]),
        "faults": {fault: faults.count(fault) for fault in ("object", "number", "color", "place")},
    }


def draw_contradicting(studio: Studio, world: World, number: int, label: str) -> list[dict[str, Any]]:
    """Draw from pairs of texts of one prompt of which one contradicts the prompt; return what satisfies what."""
    tasks: list[Task] = []
    kinds: list[str] = []
    texts: list[str] = []
    while len(kinds) < number:
        task = world.request()
        possible = change_kinds(task)
        kind = possible[len(kinds) % len(possible)]
        scene = world.scene(task)
        mentions = world.mention(scene)
        if kind == "place" and not all(mentions.placed):
            continue
        text = write_text(scene, mentions)
        changed = change_text(world.random, task, text, kind, world.held_out)
        if changed is not None:
            tasks += [task, task]
            kinds.append(kind)
            texts += [text, changed]
    seen = _draw(studio, tasks, texts, label)
    return [
        {
            "kind": kind,
            "own": [shows(seen[2 * i + side], _read(texts[2 * i + side])) for side in (0, 1)],
            "other": [shows(seen[2 * i + side], _read(texts[2 * i + 1 - side])) for side in (0, 1)],
        }
        for i, kind in enumerate(kinds)
    ]


def describe_contradicting(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the share of images that satisfy the other text, by the thing that differs."""
    kinds = [pair["kind"] for pair in pairs for _ in (0, 1)]
    other = [satisfied for pair in pairs for satisfied in pair["other"]]
    return {
        "satisfies the other text": share(other),
        "by kind": share_by(kinds, other),
        "the image of the text that contradicts its prompt satisfies the prompt's text": share(
            [pair["other"][1] for pair in pairs]
        ),
        "shows the text that meets its prompt": share([pair["own"][0] for pair in pairs]),
        "shows the text that contradicts its prompt": share([pair["own"][1] for pair in pairs]),
    }


def shows(seen: Sequence[Seen], text: Text) -> bool:
    """Return True if every named object is there as often as named, in its colour, at its place, and nothing else."""
    return not find_faults(seen, text)


def find_faults(seen: Sequence[Seen], text: Text) -> list[str]:
    """Return the kinds of faults of an image: object, number, color, place. Colours and places left open are free."""
    named = _by_name(text.items)
    found: dict[str, list[Seen]] = {}
    for one in seen:
        found.setdefault(one.name, []).append(one)
    faults: list[str] = []
    if set(named) != set(found):
        faults.append("object")
    for name in named.keys() & found.keys():
        wanted, there = named[name], found[name]
        if len(wanted) != len(there):
            faults.append("number")
            continue
        orders = [list(zip(order, there, strict=True)) for order in permutations(wanted)]
        if not any(all(_has_color(item, one) for item, one in pairs) for pairs in orders):
            faults.append("color")
        elif not any(all(_has_color(item, one) and _has_place(item, one) for item, one in pairs) for pairs in orders):
            faults.append("place")
    return sorted(set(faults))


def places_of(box: tuple[float, float, float, float]) -> set[str]:
    """Return the words for the regions in which the centre of a found box may be: one, or those that it is next to."""
    x, y = (box[0] + box[2]) / 2 / TOKEN, (box[1] + box[3]) / 2 / TOKEN
    return {region(y + dy, x + dx) for dy, dx in product((-_NEAR, 0.0, _NEAR), repeat=2)}


def _compare(seen: Sequence[Seen], text: Text) -> dict[str, Any]:
    """Return whether an image shows its text, the kinds of its faults, and the number of objects that are named."""
    faults = find_faults(seen, text)
    return {"shown": not faults, "faults": faults, "objects": len(text.items)}


def _has_color(item: Named, seen: Seen) -> bool:
    return item.color in (None, seen.color)


def _has_place(item: Named, seen: Seen) -> bool:
    return item.place is None or item.place in places_of(seen.box)


def _by_name(items: Sequence[Named]) -> dict[str, list[Named]]:
    named: dict[str, list[Named]] = {}
    for item in items:
        named.setdefault(item.name, []).append(item)
    return named


def _read(text: str) -> Text:
    read = read_text(text)
    assert read is not None, f"a text that cannot be read: {text}"
    return read


def _draw(studio: Studio, tasks: Sequence[Task], texts: Sequence[str], label: str) -> list[list[Seen]]:
    drawn = studio.draw(tasks, [Reasoning(text, ()) for text in texts], label)
    return studio.look([drawing.image for drawing in drawn])
