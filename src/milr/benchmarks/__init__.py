"""Benchmarks by name: tasks in, table out. One is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from milr.registry import Entry, find, load

if TYPE_CHECKING:
    from milr.benchmarks.base import Benchmark

__all__ = ["BENCHMARKS", "load_benchmark"]

BENCHMARKS: Mapping[str, Entry] = {
    "geneval": Entry("milr.benchmarks.geneval:GENEVAL", "GenEval's 553 prompts, six tags"),
    "t2i-compbench": Entry("milr.benchmarks.t2i_compbench:T2I_COMPBENCH", "T2I-CompBench's six lists of 300 prompts"),
    "wise": Entry("milr.benchmarks.wise:WISE", "WISE's 1,000 prompts, six groups; the protocol of 2025"),
    "wise-verified": Entry("milr.benchmarks.wise:WISE_VERIFIED", "the prompts and protocol of 2026, not comparable"),
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
    """The benchmark of that name.

    Raises:
        UsageError: No benchmark has that name.
    """
    made: Benchmark = load(find("benchmark", name, BENCHMARKS))
    return made
