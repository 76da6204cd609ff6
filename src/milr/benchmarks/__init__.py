"""Benchmarks by name: tasks in, table out. A benchmark is imported when it is first used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

from milr.errors import UsageError
from milr.registry import Entry, find, is_named, load

if TYPE_CHECKING:
    from milr.benchmarks.base import Benchmark

__all__ = ["BENCHMARKS", "is_benchmark", "load_benchmark"]

BENCHMARKS: Mapping[str, Entry] = {
    "geneval": Entry("milr.benchmarks.geneval:GENEVAL", "GenEval's 553 prompts, six tags"),
    "t2i-compbench": Entry("milr.benchmarks.t2i_compbench:T2I_COMPBENCH", "T2I-CompBench's six lists of 300 prompts"),
    "wise": Entry("milr.benchmarks.wise:WISE", "WISE's 1,000 verified prompts of 2026, six groups"),
    "wise-legacy": Entry("milr.benchmarks.wise:WISE_LEGACY", "the prompts and protocol of 2025, not comparable"),
    "geneval2": Entry("milr.benchmarks.checklists:GENEVAL2", "GenEval 2's 800 prompts of 3 to 10 atoms, by questions"),
    "t2i-corebench": Entry(
        "milr.benchmarks.checklists:COREBENCH", "T2I-CoReBench's 12 dimensions of 90 prompts, by questions"
    ),
    "icons": Entry("milr.benchmarks.icons:ICONS", "553 fresh prompts of GenEval's six kinds"),
    "icons-hard": Entry(
        "milr.benchmarks.icons:ICONS_HARD", "150 prompts: three objects, counts and places with colours"
    ),
    "icons-compbench": Entry(
        "milr.benchmarks.icons:ICONS_COMPBENCH", "the icon world's stand-ins for T2I-CompBench's columns, 4 x 50"
    ),
    "riddles": Entry(
        "milr.benchmarks.icons:RIDDLES", "180 riddles about 80 objects: known facts in new words, untold ones"
    ),
}
"""Name -> entry. A benchmark is one file and one line here."""


def load_benchmark(name: str) -> Benchmark:
    """Return the benchmark of that name.

    Args:
        name: One of `BENCHMARKS`, of an installed package, or ``package.module:attribute``, ``./file.py:attribute``: a
            `milr.benchmarks.base.Benchmark`.

    Raises:
        UsageError: There is no such benchmark, or the object is not a benchmark.
    """
    from milr.benchmarks.base import Benchmark

    made = load(find("benchmark", name, BENCHMARKS))
    if not isinstance(made, Benchmark):
        raise UsageError(f"the benchmark {name!r} is a {type(made).__name__}: name a milr.benchmarks.base.Benchmark")
    return made


def is_benchmark(name: str | None) -> TypeGuard[str]:
    """Return true if milr or an installed package has a benchmark of that name; a run may name any other."""
    return name is not None and is_named("benchmark", name, BENCHMARKS)
