"""Our own benchmarks' prompt lists: `python -m training.benchmarks` writes them, seeded, from the grammar alone.

It writes `icons.jsonl`, `icons-hard.jsonl`, `icons-compbench.jsonl` and `riddles.jsonl` into the package's assets, and
the hashes of what the first three ask into `benchmark_hashes.txt`, so that no later training shows them. No prompt asks
what one of GenEval's 473 composed prompts asks, and none asks what another one here asks. What a list asks of its
pictures stands in GenEval's metadata form.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from milr.benchmarks.geneval import COLUMNS
from milr.benchmarks.icons import COMPBENCH_COLUMNS, HARD_COLUMNS
from milr.benchmarks.layouts.geneval import write_metadata
from milr.tasks import COLORS, OBJECT_NAMES, RELATIONS, Phrase, parse_prompt, plural, write_prompt
from milr.types import Requirement, Task
from training.prompt_lists import BENCHMARK_HASHES_FILE, read_geneval_hashes, read_riddles, request_hash
from training.scenes import MOST_OBJECTS

SEED = 20261124
COUNTED = [name for name in OBJECT_NAMES if plural(name) != name]
"""Skis and scissors are pairs, which GenEval never counts."""
ASSETS = Path(__file__).parents[1] / "src" / "milr" / "assets" / "benchmarks"


class Writer:
    """Makes prompts of each kind, never one that asks what GenEval or an earlier one asks."""

    def __init__(self, seed: int = SEED) -> None:
        """Start from a seed."""
        self.random = np.random.default_rng(seed)
        self.asked = set(read_geneval_hashes())
        self.asked_here: list[str] = []

    def icons(self) -> Iterator[Task]:
        """GenEval's six kinds, as many of each as GenEval has, in its order."""
        # Every bare object is in GenEval's list too; ours differ in their words alone.
        for place in self.random.permutation(len(OBJECT_NAMES)):
            yield parse_prompt(write_prompt([Phrase(OBJECT_NAMES[place])], photo=False))
        makers = {
            "two_object": lambda: (self.phrases(2), [" and "]),
            "counting": lambda: ([self.counted()], []),
            "colors": lambda: (self.phrases(1, colored=1), []),
            "position": lambda: (self.phrases(2), [self.relation()]),
            "color_attr": lambda: (self.phrases(2, colored=2), [" and "]),
        }
        for tag, make in makers.items():
            for _ in range(COLUMNS[tag]):
                yield self.fresh(make, tag)

    def icons_hard(self) -> Iterator[Task]:
        """Three coloured objects; coloured counts, half of them with a second object; coloured places."""
        for _ in range(HARD_COLUMNS["three_objects"]):
            yield self.fresh(lambda: (self.phrases(3, colored=3), [", ", " and "]), "three_objects")
        for place in range(HARD_COLUMNS["colored_counting"]):
            yield self.fresh(lambda alone=place % 2 == 0: self.colored_count(alone), "colored_counting")
        for _ in range(HARD_COLUMNS["colored_position"]):
            yield self.fresh(lambda: (self.phrases(2, colored=2), [self.relation()]), "colored_position")

    def icons_compbench(self) -> Iterator[Task]:
        """Stand-ins: attributes of two objects; a place; objects together without places; all of it at once."""
        makers = (
            lambda: (self.phrases(2, colored=2), [" and "]),
            lambda: (self.phrases(2), [self.relation()]),
            lambda: (self.phrases(3), [", ", " and "]),
            lambda: (self.phrases(3, colored=2), [self.relation(), " and "]),
        )
        for (tag, many), make in zip(COMPBENCH_COLUMNS.items(), makers, strict=True):
            for _ in range(many):
                yield self.fresh(make, tag)

    def fresh(self, make: Callable[[], tuple[list[Phrase], list[str]]], tag: str) -> Task:
        """The next task that nobody has asked for yet, with its tag."""
        while True:
            task = parse_prompt(write_prompt(*make()))
            asked = request_hash(task)
            if asked not in self.asked:
                self.asked.add(asked)
                self.asked_here.append(asked)
                return task.model_copy(update={"tag": tag})

    def phrases(self, number: int, colored: int = 0) -> list[Phrase]:
        """Different objects, the first `colored` of them with a colour."""
        names = [OBJECT_NAMES[i] for i in self.random.choice(len(OBJECT_NAMES), number, replace=False)]
        return [Phrase(name, color=self.color(name) if place < colored else None) for place, name in enumerate(names)]

    def counted(self) -> Phrase:
        """Two to four of an object."""
        return Phrase(str(self.random.choice(COUNTED)), int(self.random.integers(2, 5)))

    def colored_count(self, alone: bool) -> tuple[list[Phrase], list[str]]:
        """Two to four of an object in one colour, alone or beside one coloured object."""
        others = [] if alone else self.phrases(1, colored=1)
        most = MOST_OBJECTS - 1 - len(others)
        name = str(self.random.choice([name for name in COUNTED if name not in [other.name for other in others]]))
        counted = Phrase(name, int(self.random.integers(2, most + 1)), self.color(name))
        return [counted, *others], [" and "] * len(others)

    def color(self, name: str) -> str:
        """One of the ten, never the orange's own name."""
        return str(self.random.choice([color for color in COLORS if color != name]))

    def relation(self) -> str:
        """One of the four."""
        return str(self.random.choice(RELATIONS))


def riddles() -> Iterator[Task]:
    """The riddles that the training is not told: other wordings of facts that it is told, and facts that it is not."""
    for riddle in read_riddles():
        if riddle.split != "train":
            yield Task(
                prompt=riddle.text,
                tag=f"{riddle.kind} {riddle.split}",
                include=(Requirement.model_validate({"class": riddle.name}),),
                explanation=riddle.name,
            )


def write_lists(folder: Path = ASSETS, hashes: Path = BENCHMARK_HASHES_FILE) -> None:
    """Write all four lists and the hashes; done once, the files are committed."""
    writer = Writer()
    lists = {
        "icons": list(writer.icons()),
        "icons-hard": list(writer.icons_hard()),
        "icons-compbench": list(writer.icons_compbench()),
        "riddles": list(riddles()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, tasks in lists.items():
        lines = [json.dumps(write_metadata(task), ensure_ascii=False) + "\n" for task in tasks]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    hashes.write_text("\n".join(sorted(writer.asked_here)) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the lists where they ship, or into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="a folder for the lists and the hashes")
    given = parser.parse_args(argv)
    if given.into:
        write_lists(given.into, given.into / BENCHMARK_HASHES_FILE.name)
    else:
        write_lists()


if __name__ == "__main__":
    main()
