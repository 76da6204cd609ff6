"""Official folder layouts: the images that a benchmark's own scorer finds, and the result files that it writes."""

from __future__ import annotations

from collections.abc import Mapping

from milr.benchmarks.layouts.base import FoundPicture, Layout, Scored
from milr.registry import Entry, find, load

__all__ = ["LAYOUTS", "FoundPicture", "Layout", "Scored", "load_layout"]

LAYOUTS: Mapping[str, Entry] = {
    "geneval": Entry(
        "milr.benchmarks.layouts.geneval:GenEvalLayout", "00000/metadata.jsonl and 00000/samples/0000.png"
    ),
    "wise": Entry("milr.benchmarks.layouts.wise:WiseLayout", "1.png to 1000.png, prompts by --prompts"),
    "wise-legacy": Entry("milr.benchmarks.layouts.wise:WiseLegacyLayout", "the same, prompts of 2025"),
    "t2i-compbench": Entry(
        "milr.benchmarks.layouts.t2i_compbench:T2ICompBenchLayout", "samples/<prompt>_000000.png, one category"
    ),
    "geneval2": Entry("milr.benchmarks.layouts.checklists:GenEval2Layout", "image_paths.json: prompts and images"),
    "t2i-corebench": Entry(
        "milr.benchmarks.layouts.checklists:CoReBenchLayout", "C-MI/C-MI-001-0.png, a folder per dimension"
    ),
}
"""Benchmark -> its layout. A layout is one file and one line here."""


def load_layout(name: str) -> Layout:
    """Return the layout of that benchmark.

    Raises:
        UsageError: There is no such benchmark.
    """
    layout: Layout = load(find("benchmark", name, LAYOUTS))()
    return layout
