"""The icon world: requests (prompts), scenes that fulfil them, the plan in words, questions, pixels and tokens.

A scene is what the reasoning states: for each object its place, size, colour and name, and the ground. Places are a
3 x 3 grid of names; an object of s tokens starts at token 0, (9 - s) // 2 or 9 - s of its row and column. The
model sees words and tokens alone; this module only makes its training data.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from milr.tasks import (
    COLORS,
    COUNT_WORDS,
    OBJECT_NAMES,
    RELATIONS,
    Phrase,
    parse_prompt,
    plural,
    with_article,
    write_prompt,
)
from milr.types import Requirement, Task
from training.icons import GROUNDS, NATURAL, compose

GRID = 9  # image tokens a side
TOKEN = 16  # pixels a token's side
SIZES = {"small": 3, "large": 4}  # tokens a side
PLACES = {
    f"{row} {column}".strip() or "middle": (r, c)
    for r, row in enumerate(("top", "", "bottom"))
    for c, column in enumerate(("left", "", "right"))
}
MOST_OBJECTS = 5
GROUND_TOKENS = {ground: number for number, ground in enumerate(GROUNDS)}  # the codebook begins with them
AIR = -1  # the token of an icon's empty patches: whatever the ground has
HELD_OUT_FILE = Path(__file__).with_name("held_out.csv")
GENEVAL_HASHES_FILE = Path(__file__).with_name("geneval_hashes.txt")
BENCHMARK_HASHES_FILE = Path(__file__).with_name("benchmark_hashes.txt")
RIDDLES_FILE = Path(__file__).with_name("riddles.csv")


@dataclass(frozen=True)
class Item:
    """One object of a scene."""

    name: str
    color: str | None
    place: str
    size: str
    variant: int = 0

    @property
    def words(self) -> str:
        """What a plan says of it."""
        return " ".join(filter(None, (self.place, self.size, self.color, self.name)))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right in tokens; bottom and right excluded."""
        side = SIZES[self.size]
        starts = (0, (GRID - side) // 2, GRID - side)
        row, column = PLACES[self.place]
        return starts[row], starts[column], starts[row] + side, starts[column] + side


@dataclass(frozen=True)
class Scene:
    """Objects on a ground, in the order in which the plan names them."""

    items: tuple[Item, ...]
    ground: str

    @property
    def plan(self) -> str:
        """The reasoning: what stands where, then the ground."""
        return ", ".join([*(item.words for item in self.items), f"{self.ground} ground"])

    @property
    def description(self) -> str:
        """What a look at the picture can tell: the plan, its objects in reading order of their places."""
        order = list(PLACES)
        return Scene(tuple(sorted(self.items, key=lambda item: order.index(item.place))), self.ground).plan


@dataclass(frozen=True)
class HeldOut:
    """Combinations that no training data shows: (colour, name) and (count, name)."""

    colors: frozenset[tuple[str, str]]
    counts: frozenset[tuple[int, str]]

    def holds(self, phrases: Iterable[Phrase]) -> bool:
        """Whether any phrase is held out."""
        return any((p.color, p.name) in self.colors or (p.count, p.name) in self.counts for p in phrases)


def choose_held_out(seed: int = 20261123, colors: int = 40, counts: int = 16) -> HeldOut:
    """The seeded choice that `held_out.csv` was written from."""
    random = np.random.default_rng(seed)
    color_pairs = [(c, n) for c in COLORS for n in OBJECT_NAMES]
    count_pairs = [(k, n) for k in (2, 3, 4) for n in OBJECT_NAMES]
    picked_colors = random.choice(len(color_pairs), colors, replace=False)
    picked_counts = random.choice(len(count_pairs), counts, replace=False)
    return HeldOut(frozenset(color_pairs[i] for i in picked_colors), frozenset(count_pairs[i] for i in picked_counts))


def read_held_out(path: Path = HELD_OUT_FILE) -> HeldOut:
    """The committed list; columns kind (color or count), value, class."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return HeldOut(
        frozenset((r["value"], r["class"]) for r in rows if r["kind"] == "color"),
        frozenset((int(r["value"]), r["class"]) for r in rows if r["kind"] == "count"),
    )


def request_hash(task: Task) -> str:
    """A hash of what a prompt asks, whatever its wording and order: how GenEval's prompts are kept out of training."""
    named = [r.name for r in task.include]
    parts = sorted(
        f"{r.name}|{r.count}|{r.color}|" + (f"{r.position[0]} {named[r.position[1]]}" if r.position else "")
        for r in task.include
    )
    return hashlib.sha256(";".join(parts).encode()).hexdigest()[:16]


def read_geneval_hashes(path: Path = GENEVAL_HASHES_FILE) -> frozenset[str]:
    """Hashes of GenEval's 473 prompts that are not one bare object; the 80 bare ones cannot be avoided."""
    return frozenset(path.read_text().split())


class Riddle(NamedTuple):
    """One object, said without its name."""

    name: str
    kind: str
    """cultural, temporal or geometric."""
    split: str
    """train: told in training; wording: the same facts in other words; fact: never told."""
    text: str


def read_riddles(path: Path = RIDDLES_FILE) -> list[Riddle]:
    """The committed list of all three splits; columns object, kind, split, text."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Riddle(r["object"], r["kind"], r["split"], r["text"]) for r in csv.DictReader(file)]


class Question(NamedTuple):
    """A yes/no question about a picture."""

    kind: str
    """object, color, count or relation."""
    text: str
    truth: bool
    names: tuple[tuple[str, str], ...]
    """The objects it asks about, in order: as the text spells them, and GenEval's names."""


def read_forbidden() -> frozenset[str]:
    """Hashes of all requests that no training shows: GenEval's, and our own benchmarks' (`training/benchmarks.py`)."""
    return read_geneval_hashes() | frozenset(BENCHMARK_HASHES_FILE.read_text().split())


class World:
    """Samples requests and scenes from one random generator."""

    def __init__(
        self,
        random: np.random.Generator,
        held_out: HeldOut,
        forbidden: frozenset[str],
        *,
        large: float = 1.0,
        phrases: Sequence[float] = (0.24, 0.50, 0.26),
        counted: float = 0.54,
        colored: float = 1.0,
        shuffled: float = 1.0,
        riddled: float = 0.0,
    ) -> None:
        """A world.

        Args:
            random: The source of chance.
            held_out: Combinations that no request makes.
            forbidden: Hashes of requests that are never made.
            large: How readily objects are large, 0 to 1.
            phrases: Chances of one, two and three object phrases.
            counted: Chance that a lone phrase asks for more than one.
            colored: How readily objects have a colour, 0 to 1.
            shuffled: Chance that a plan does not keep the prompt's order.
            riddled: Chance that a request is a riddle of those that training tells.
        """
        self.riddled = riddled
        self.riddles = [riddle for riddle in read_riddles() if riddle.split == "train"] if riddled else []
        self.random = random
        self.large, self.phrases, self.counted, self.colored = large, tuple(phrases), counted, colored
        self.shuffled = shuffled
        self.held_out = held_out
        self.forbidden = forbidden

    def request(self) -> Task:
        """A prompt that the training may show, as a task."""
        if self.riddled and self.random.random() < self.riddled:
            riddle = self.riddles[self.random.integers(len(self.riddles))]
            return Task(prompt=riddle.text, include=(Requirement.model_validate({"class": riddle.name}),))
        while True:
            phrases, joiners = self._phrases()
            if self.held_out.holds(phrases):
                continue
            prompt = write_prompt(phrases, joiners, photo=self.random.random() < 0.6)
            task = parse_prompt(prompt)
            if request_hash(task) not in self.forbidden:
                return task

    def _phrases(self) -> tuple[list[Phrase], list[str]]:
        draw = self.random
        number = int(draw.choice([1, 2, 3], p=self.phrases))
        names = [OBJECT_NAMES[i] for i in draw.choice(len(OBJECT_NAMES), number, replace=False)]
        colored = draw.random(number) < (0.5 if draw.random() < 0.7 else 1.0) * self.colored
        colors = [COLORS[int(draw.integers(len(COLORS)))] if c else None for c in colored]
        joiners = [" and "] if number == 2 else [", ", " and "][: number - 1]
        counts = [1] * number
        if number == 1:
            counts = [int(draw.integers(2, 5)) if draw.random() < self.counted else 1]
        elif draw.random() < 0.5:
            joiners[int(draw.integers(number - 1))] = str(draw.choice(RELATIONS))
        elif draw.random() < 0.3:
            most = MOST_OBJECTS - number + 1
            counts[int(draw.integers(number))] = int(draw.integers(2, min(4, most) + 1))
        return [Phrase(n, k, c) for n, k, c in zip(names, counts, colors, strict=True)], joiners

    def scene(self, task: Task) -> Scene:
        """One of the many scenes that fulfil a task: free order, places, sizes and ground."""
        ground = list(GROUNDS)[self.random.integers(len(GROUNDS))]
        order = np.arange(len(task.include))
        if self.random.random() < self.shuffled:
            self.random.shuffle(order)
        total = sum(r.count for r in task.include)
        chance = {1: 0.8, 2: 0.7, 3: 0.45, 4: 0.3}.get(total, 0.0) * self.large
        for attempt in range(400):
            placed: dict[int, list[Item]] = {}
            taken: list[Item] = []
            for index in order:
                need = task.include[index]
                placed[index] = []
                for _ in range(need.count):
                    size = "large" if self.random.random() < chance * (1 - attempt / 400) else "small"
                    item = Item(need.name, need.color, list(PLACES)[self.random.integers(9)], size)
                    if any(overlap(item.box, other.box) for other in taken):
                        break
                    taken.append(item)
                    placed[index].append(item)
            if len(taken) == total and all(
                _related(a.box, b.box, need.position[0])
                for index, need in enumerate(task.include)
                if need.position
                for a in placed[index]
                for b in placed[need.position[1]]
            ):
                return Scene(tuple(i for index in order for i in placed[index]), ground)
        raise RuntimeError(f"no room for {task.prompt!r}")

    def questions(self, scene: Scene, number: int) -> list[Question]:
        """Yes/no questions about a scene, of all kinds alike, about half of them with one thing changed."""
        return [self._question(scene, bool(self.random.integers(2))) for _ in range(number)]

    def _question(self, scene: Scene, truth: bool) -> Question:
        draw = self.random
        items = scene.items
        colored = [i for i in items if i.color]
        kinds = ["object", "count", *(["color"] if colored else []), *(["relation"] if len(items) > 1 else [])]
        kind = kinds[draw.integers(len(kinds))]
        asked_about = colored if kind == "color" else items
        item = asked_about[draw.integers(len(asked_about))]
        present = {i.name for i in items}
        if kind == "object":
            absent = [n for n in OBJECT_NAMES if n not in present]
            name = item.name if truth else absent[draw.integers(len(absent))]
            return Question(kind, f"is there {with_article(name)}?", truth, ((name, name),))
        if kind == "color":
            same = {i.color for i in items if i.name == item.name}
            others = [c for c in COLORS if c not in same]
            color = item.color if truth else others[draw.integers(len(others))]
            asked = with_article(f"{color} {item.name}")
            return Question(kind, f"is there {asked}?", truth, ((item.name, item.name),))
        if kind == "count":
            number = sum(i.name == item.name for i in items)
            others = [k for k in (1, 2, 3, 4) if k != number]
            asked = number if truth and number <= 4 else others[draw.integers(len(others))]
            many = plural(item.name)
            text = f"is the number of {many} {_word(asked)}?"
            return Question(kind, text, asked == number, ((many, item.name),))
        singles = [i for i in items if sum(j.name == i.name for j in items) == 1]
        if len(singles) < 2:
            return self._question(scene, truth)
        a, b = (singles[i] for i in draw.choice(len(singles), 2, replace=False))
        holding = [r for r in RELATIONS if _related(a.box, b.box, r)]
        if not holding:
            return self._question(scene, truth)
        opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
        relation = holding[draw.integers(len(holding))]
        relation = relation if truth else opposite[relation]
        names = ((a.name, a.name), (b.name, b.name))
        return Question(kind, f"is the {a.name} {relation} the {b.name}?", truth, names)


def _word(count: int) -> str:
    return next(word for word, value in COUNT_WORDS.items() if value == count)


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two boxes, top, left, bottom, right, share a token."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _related(a: tuple[int, int, int, int], b: tuple[int, int, int, int], relation: str, least: float = 0.62) -> bool:
    """GenEval's position rule on token boxes, with a margin: drawn boxes are a little smaller than their place."""
    offset = np.array([(a[1] + a[3] - b[1] - b[3]) / 2, (a[0] + a[2] - b[0] - b[2]) / 2])
    sides = np.array([a[3] - a[1] + b[3] - b[1], a[2] - a[0] + b[2] - b[0]])
    if not offset.any():
        return False
    x, y = np.sign(offset) * np.maximum(np.abs(offset) - 0.1 * sides, 0) / np.linalg.norm(offset)
    return bool({"left of": -x, "right of": x, "above": -y, "below": y}[relation] > least)


def render(scene: Scene, library: dict[tuple[str, int, str, str], np.ndarray]) -> np.ndarray:
    """Scene -> (144, 144, 3) float32 in [0, 255]: training's ground truth, never used in drawing."""
    canvas = np.empty((GRID * TOKEN, GRID * TOKEN, 3), np.float32)
    canvas[:] = GROUNDS[scene.ground]
    for item in scene.items:
        top, left, _, _ = item.box
        compose(canvas, library[item.name, item.variant, item.color or NATURAL, item.size], top * TOKEN, left * TOKEN)
    return canvas


def token_grid(scene: Scene, bank: dict[tuple[str, int, str, str], np.ndarray]) -> np.ndarray:
    """Scene -> image tokens (9, 9) int64, pasted from each icon's own: the same wherever it stands, on any ground."""
    grid = np.full((GRID, GRID), GROUND_TOKENS[scene.ground], np.int64)
    for item in scene.items:
        top, left, bottom, right = item.box
        paste(grid[top:bottom, left:right], bank[item.name, item.variant, item.color or NATURAL, item.size])
    return grid


def paste(cells: np.ndarray, icon: np.ndarray) -> None:
    """Lay an icon's tokens (s, s) over cells (s, s), in place; where it is all air, the ground stays."""
    np.copyto(cells, icon, where=icon != AIR)


def write_lists(geneval_metadata: Sequence[str]) -> None:
    """Write `held_out.csv` and `geneval_hashes.txt`; done once, the files are committed.

    Args:
        geneval_metadata: the lines of GenEval's `evaluation_metadata.jsonl`.
    """
    held_out = choose_held_out()
    with HELD_OUT_FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kind", "value", "class"])
        writer.writerows(("color", c, n) for c, n in sorted(held_out.colors))
        writer.writerows(("count", k, n) for k, n in sorted(held_out.counts))
    tasks = [Task.model_validate_json(line) for line in geneval_metadata]
    hashes = sorted({request_hash(t) for t in tasks if t.tag != "single_object"})
    GENEVAL_HASHES_FILE.write_text("\n".join(hashes) + "\n")
