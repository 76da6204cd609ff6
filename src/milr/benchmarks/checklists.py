"""Benchmarks of checklists: GenEval 2 and T2I-CoReBench. `milr.tasks.checklists` reads their files.

Sources: facebookresearch/GenEval2, commit a6e82d2: 800 prompts of 3 to 10 atoms, 100 each; the prompt level is the
geometric mean of a prompt's items (Soft-TIFA GM), by number of atoms; the atom level is the arithmetic mean over items,
by skill (soft_tifa_analysis.py). KwaiVGI/T2I-CoReBench, commit 5d523d3: 12 dimensions of 90 prompts; an image's score
is the share of its questions that are answered yes, a dimension's the mean over its images, the overall score the mean
of the dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from milr.benchmarks.base import Benchmark
from milr.sources import SOURCES
from milr.tasks.checklists import read_checklist
from milr.tasks.prompt_files import read_rows
from milr.types import Task

GENEVAL2_COLUMNS = {f"{atoms} atoms": 100 for atoms in range(3, 11)}
SKILLS: Mapping[str, int] = {"object": 800, "attribute": 721, "count": 800, "position": 519, "verb": 82}
"""Skill -> number of prompts with a question about it, in the order of the official analysis."""
COREBENCH_COLUMNS: Mapping[str, int] = dict.fromkeys(
    ("C-MI", "C-MA", "C-MR", "C-TR", "R-LR", "R-BR", "R-HR", "R-PR", "R-GR", "R-AR", "R-CR", "R-RR"), 90
)


def _read_geneval2(folder: Path | None) -> list[Task]:
    source = SOURCES["geneval2"]
    rows = _read(source.find(folder) / source.files[0].name)
    return [make_task(row, "prompt", f"{row['atom_count']} atoms") for row in rows]


def _read_corebench(folder: Path | None) -> list[Task]:
    where = SOURCES["t2i-corebench"].find(folder)
    return [make_task(row, "Prompt", tag) for tag in COREBENCH_COLUMNS for row in _read(where / f"{tag}.json")]


def _read(path: Path) -> list[Mapping[str, object]]:
    return [row.content for row in read_rows(path) if not isinstance(row.content, str)]


def make_task(row: Mapping[str, object], prompt: str, tag: str) -> Task:
    """Return a row's task: its prompt as it is, not read by the icon world's grammar."""
    checklist, _ = read_checklist(row)
    return Task(prompt=str(row[prompt]), tag=tag, checklist=checklist)


def _make(name: str, title: str, columns: Mapping[str, int], **fields: Any) -> Benchmark:
    weights = {tag: 1 / len(columns) for tag in columns}
    return Benchmark(name=name, title=title, columns=columns, weights=weights, reward=name, layout=name, **fields)


GENEVAL2 = _make("geneval2", "GenEval 2", GENEVAL2_COLUMNS, read=_read_geneval2, items=SKILLS)
COREBENCH = _make("t2i-corebench", "T2I-CoReBench", COREBENCH_COLUMNS, read=_read_corebench)
