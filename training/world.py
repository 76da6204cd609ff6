"""The icon world: requests (prompts), scenes that fulfil them, and what texts name of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from milr.tasks import COLORS, OBJECT_NAMES, RELATIONS, Phrase, parse_prompt, write_prompt
from milr.types import Requirement, Task
from training.grounds import CAMERAS, GRID, GROUNDS, HORIZONS
from training.prompt_lists import HeldOut, read_forbidden, read_held_out, read_riddles, request_hash
from training.scenes import MOST_OBJECTS, SIZES, STYLES, Item, Mentions, Scene, overlap

LARGE = {"near": 0.8, "far": 0.15}
"""Chance that an object is large, by the scene's camera."""
_TRIES = 300  # placements of all objects before a smaller share of them is large
_RESTARTS = 40  # of a scene: the camera and the order of objects are chosen again


class World:
    """Samples requests and scenes from one random generator."""

    def __init__(
        self,
        random: np.random.Generator,
        held_out: HeldOut,
        forbidden: frozenset[str],
        *,
        phrases: Sequence[float] = (0.3, 0.4, 0.3),
        counted: float = 0.5,
        colored: float = 1.0,
        related: float = 0.5,
        shuffled: float = 0.3,
        riddled: float = 0.0,
        placed: float = 0.5,
        sized: float = 0.3,
        styled: float = 0.3,
        grounded: float = 0.5,
    ) -> None:
        """Open a world.

        Args:
            random: The source of chance.
            held_out: Combinations that no request makes.
            forbidden: Hashes of requests that are never made.
            phrases: Chances of one, two and three object phrases.
            counted: Chance that a phrase alone asks for more than one object.
            colored: The higher, the more objects have a colour, 0 to 1.
            related: Chance that two or three phrases have a relation.
            shuffled: Chance that a text does not keep the prompt's order.
            riddled: Chance that a request is a riddle of those that training tells.
            placed: Share of objects whose place a text names. In half of the other texts no place is named.
            sized: Likewise of sizes.
            styled: Chance that a text names the style.
            grounded: Chance that a text names the ground.
        """
        self.random, self.held_out, self.forbidden = random, held_out, forbidden
        self.phrases, self.counted, self.colored, self.related = tuple(phrases), counted, colored, related
        self.shuffled, self.riddled = shuffled, riddled
        self.placed, self.sized, self.styled, self.grounded = placed, sized, styled, grounded
        self.riddles = [riddle for riddle in read_riddles() if riddle.split == "train"] if riddled else []

    def request(self) -> Task:
        """Return a prompt that training may show, as a task."""
        if self.riddled and self.random.random() < self.riddled:
            riddle = self.riddles[self.random.integers(len(self.riddles))]
            return Task(prompt=riddle.text, include=(Requirement.model_validate({"class": riddle.name}),))
        while True:
            phrases, joiners = self._phrases()
            task = self.allow(phrases, joiners)
            if task is not None:
                return task

    def allow(self, phrases: Sequence[Phrase], joiners: Sequence[str]) -> Task | None:
        """Return phrases as a task; None if training may not show it."""
        if self.held_out.holds(phrases):
            return None
        task = parse_prompt(write_prompt(phrases, joiners, photo=self.random.random() < 0.6))
        return None if request_hash(task) in self.forbidden else task

    def _phrases(self) -> tuple[list[Phrase], list[str]]:
        draw = self.random
        number = int(draw.choice([1, 2, 3], p=self.phrases))
        names = [OBJECT_NAMES[int(i)] for i in draw.choice(len(OBJECT_NAMES), number, replace=False)]
        colored = draw.random(number) < (0.5 if draw.random() < 0.6 else 1.0) * self.colored
        colors = [COLORS[int(draw.integers(len(COLORS)))] if c else None for c in colored]
        joiners = [" and "] if number == 2 else [", ", " and "][: number - 1]
        counts = [1] * number
        if number == 1:
            counts = [int(draw.integers(2, 5)) if draw.random() < self.counted else 1]
        elif draw.random() < self.related:
            joiners[int(draw.integers(number - 1))] = str(draw.choice(RELATIONS))
        elif draw.random() < 0.3:
            most = MOST_OBJECTS - number + 1
            counts[int(draw.integers(number))] = int(draw.integers(2, min(4, most) + 1))
        return [Phrase(n, k, c) for n, k, c in zip(names, counts, colors, strict=True)], joiners

    def reduce(self, task: Task) -> Task:
        """Return a prompt that asks for one of a task's objects alone; the task if training may not show that."""
        need = task.include[self.random.integers(len(task.include))]
        return self.allow([Phrase(need.name, 1, need.color)], []) or task

    def scene(self, task: Task) -> Scene:
        """Return one of the many scenes that fulfil a task: free order, places, sizes, camera, style and ground."""
        for _ in range(_RESTARTS):
            scene = self._try_scene(task)
            if scene is not None:
                return scene
        raise RuntimeError(f"no room for {task.prompt!r}")

    def _try_scene(self, task: Task) -> Scene | None:
        random = self.random
        ground, camera, style = (str(random.choice(choices)) for choices in (GROUNDS, CAMERAS, STYLES))
        horizon = int(random.choice(HORIZONS))
        order = np.arange(len(task.include))
        if random.random() < self.shuffled:
            random.shuffle(order)
        indices: list[int] = order.tolist()
        total = sum(need.count for need in task.include)
        for attempt in range(_TRIES):
            chance = LARGE[camera] * (1 - attempt / _TRIES)
            sizes = ["large" if large else "small" for large in random.random(total) < chance]
            corners = random.random((total, 2))
            placed: dict[int, list[Item]] = {}
            taken: list[tuple[int, int, int, int]] = []
            for index in indices:
                need = task.include[index]
                placed[index] = []
                for _ in range(need.count):
                    size = sizes[len(taken)]
                    top, left = (int(part * (GRID - SIZES[size] + 1)) for part in corners[len(taken)])
                    item = Item(need.name, need.color, top, left, size, STYLES.index(style))
                    if any(overlap(item.box, other) for other in taken):
                        break
                    placed[index].append(item)
                    taken.append(item.box)
                if len(placed[index]) < need.count:
                    break
            if len(taken) == total and _relations_hold(task, placed):
                items = tuple(item for index in indices for item in placed[index])
                return Scene(items, ground, camera, horizon, style)
        return None

    def mention(self, scene: Scene) -> Mentions:
        """Choose what a text names of a scene: places and sizes of all objects, of some or of none."""
        placed, sized = (self._some(len(scene.items), share) for share in (self.placed, self.sized))
        style, ground = self.random.random(2) < (self.styled, self.grounded)
        return Mentions(placed, sized, bool(style), bool(ground))

    def _some(self, number: int, share: float) -> tuple[bool, ...]:
        """Choose items: all with three quarters of the chance ``share``, each for itself in a quarter of texts."""
        kind = self.random.random()
        if kind < 0.75:
            return (bool(self.random.random() < share),) * number
        return tuple(bool(chosen) for chosen in self.random.random(number) < share)


def open_world(seed: int, **settings: Any) -> World:
    """Open the world that the generator may see: without held-out combinations and any benchmark's prompts."""
    return World(np.random.default_rng(seed), read_held_out(), read_forbidden(), **settings)


def _relations_hold(task: Task, placed: dict[int, list[Item]]) -> bool:
    return all(
        related(a.box, b.box, need.position[0])
        for index, need in enumerate(task.include)
        if need.position
        for a in placed[index]
        for b in placed[need.position[1]]
    )


def related(a: tuple[int, int, int, int], b: tuple[int, int, int, int], relation: str, least: float = 0.62) -> bool:
    """Return True if GenEval's position rule holds for two token boxes, with a margin.

    The margin is needed because detected boxes are a little smaller than an icon's cells.

    Args:
        a: Top, left, bottom, right.
        b: The reference.
        relation: "left of", "right of", "above" or "below".
        least: Least value of the rule's normalised offset; GenEval's own is 0.5.
    """
    dy, dx = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    length = (dx * dx + dy * dy) ** 0.5
    if not length:
        return False
    x = _shrink(dx, 0.1 * (a[3] - a[1] + b[3] - b[1])) / length
    y = _shrink(dy, 0.1 * (a[2] - a[0] + b[2] - b[0])) / length
    return {"left of": -x, "right of": x, "above": -y, "below": y}[relation] > least


def _shrink(value: float, by: float) -> float:
    return max(abs(value) - by, 0.0) * (1 if value > 0 else -1)
