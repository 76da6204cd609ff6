"""Our own benchmarks in the icon world; `training/benchmarks.py` wrote their lists, which come with the package.

* `icons`: new prompts of GenEval's six kinds, the same number of each. None asks for the same as one of GenEval's,
except for the 80 single objects, which cannot be avoided.
* `icons-hard`: three objects with colours, exact counts with colours, places with colours.
* `icons-compbench`: stand-ins for T2I-CompBench's columns from the icon world, named as such. Their numbers cannot be
compared with T2I-CompBench's.
* `riddles`: one object each, by something said of it, cultural, temporal or geometric as in the poster. "wording": the
  training told the fact in other words; "fact": the training never told it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from milr.benchmarks.base import Benchmark
from milr.benchmarks.geneval import COLUMNS
from milr.errors import UsageError
from milr.types import Task

_ASSETS = Path(__file__).parents[1] / "assets" / "benchmarks"

HARD_COLUMNS = {"three_objects": 50, "colored_counting": 50, "colored_position": 50}
COMPBENCH_COLUMNS = {
    "attribute (icon world)": 50,
    "spatial (icon world)": 50,
    "non-spatial (icon world)": 50,
    "complex (icon world)": 50,
}
RIDDLE_COLUMNS = {
    "cultural wording": 42,
    "temporal wording": 36,
    "geometric wording": 42,
    "cultural fact": 20,
    "temporal fact": 20,
    "geometric fact": 20,
}


def _read(name: str, folder: Path | None) -> list[Task]:
    if folder is not None:
        raise UsageError(f"the prompts of {name} come with milr: leave --data out")
    lines = (_ASSETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Task.model_validate_json(line) for line in lines]


def _ours(name: str, title: str, columns: dict[str, int], *notes: str, layout: str | None = None) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        columns=columns,
        weights={tag: 1 / len(columns) for tag in columns},
        read=partial(_read, name),
        reward="icons",
        layout=layout,
        in_icon_world=True,
        notes=notes,
    )


ICONS = _ours("icons", "icons", COLUMNS, layout="geneval")
ICONS_HARD = _ours("icons-hard", "icons-hard", HARD_COLUMNS)
ICONS_COMPBENCH = _ours(
    "icons-compbench",
    "stand-ins for T2I-CompBench from the icon world",
    COMPBENCH_COLUMNS,
    "Stand-ins from the icon world: their numbers compare with nothing of T2I-CompBench's.",
)
RIDDLES = _ours("riddles", "riddles", RIDDLE_COLUMNS)
