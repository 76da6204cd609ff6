"""Prompts that training never shows: GenEval's, our benchmarks', held-out combinations; and the riddles."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from milr.tasks import COLORS, OBJECT_NAMES, Phrase
from milr.types import Task

HELD_OUT_FILE = Path(__file__).with_name("held_out.csv")
GENEVAL_HASHES_FILE = Path(__file__).with_name("geneval_hashes.txt")
BENCHMARK_HASHES_FILE = Path(__file__).with_name("benchmark_hashes.txt")
RIDDLES_FILE = Path(__file__).with_name("riddles.csv")


@dataclass(frozen=True)
class HeldOut:
    """Combinations that no training data shows: (colour, name) and (count, name)."""

    colors: frozenset[tuple[str, str]]
    counts: frozenset[tuple[int, str]]

    def holds(self, phrases: Iterable[Phrase]) -> bool:
        """Return True if any phrase is held out."""
        return any((p.color, p.name) in self.colors or (p.count, p.name) in self.counts for p in phrases)


def choose_held_out(seed: int = 20261123, colors: int = 40, counts: int = 16) -> HeldOut:
    """Choose the combinations that `held_out.csv` lists, from a seed."""
    random = np.random.default_rng(seed)
    color_pairs = [(c, n) for c in COLORS for n in OBJECT_NAMES]
    count_pairs = [(k, n) for k in (2, 3, 4) for n in OBJECT_NAMES]
    picked_colors: list[int] = random.choice(len(color_pairs), colors, replace=False).tolist()
    picked_counts: list[int] = random.choice(len(count_pairs), counts, replace=False).tolist()
    return HeldOut(frozenset(color_pairs[i] for i in picked_colors), frozenset(count_pairs[i] for i in picked_counts))


def read_held_out(path: Path = HELD_OUT_FILE) -> HeldOut:
    """Read the committed list; its columns are kind (color or count), value, class."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return HeldOut(
        frozenset((r["value"], r["class"]) for r in rows if r["kind"] == "color"),
        frozenset((int(r["value"]), r["class"]) for r in rows if r["kind"] == "count"),
    )


def request_hash(task: Task) -> str:
    """Return a hash of what a prompt asks for, the same for every wording and order of it."""
    named = [r.name for r in task.include]
    parts = sorted(
        f"{r.name}|{r.count}|{r.color}|" + (f"{r.position[0]} {named[r.position[1]]}" if r.position else "")
        for r in task.include
    )
    return hashlib.sha256(";".join(parts).encode()).hexdigest()[:16]


def read_geneval_hashes(path: Path = GENEVAL_HASHES_FILE) -> frozenset[str]:
    """Read the hashes of GenEval's 473 prompts that are not one bare object; the 80 bare ones cannot be avoided."""
    return frozenset(path.read_text().split())


def read_forbidden() -> frozenset[str]:
    """Read the hashes of all requests that no training shows: GenEval's and our own benchmarks'."""
    return read_geneval_hashes() | frozenset(BENCHMARK_HASHES_FILE.read_text().split())


class Riddle(NamedTuple):
    """A description of one object that does not name it."""

    name: str
    kind: str
    """cultural, temporal or geometric."""
    split: str
    """train: told in training; wording: the same facts in other words; fact: never told."""
    text: str


def read_riddles(path: Path = RIDDLES_FILE) -> list[Riddle]:
    """Read the committed list of all three splits; its columns are object, kind, split, text."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Riddle(r["object"], r["kind"], r["split"], r["text"]) for r in csv.DictReader(file)]


def write_lists(geneval_metadata: Sequence[str]) -> None:
    """Write `held_out.csv` and `geneval_hashes.txt`; done once, the files are committed.

    Args:
        geneval_metadata: The lines of GenEval's `evaluation_metadata.jsonl`.
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
