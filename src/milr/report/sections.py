"""Sections of a report: runs sorted by benchmark and evaluator, and around one reference search.

An ablation is an entry that differs from the reference in one setting. So tables and figures depend on the settings of
the runs, not on the names of their folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from milr.benchmarks import is_benchmark, load_benchmark
from milr.benchmarks.intervals import Estimate
from milr.report.comparison import END, Comparison, compare, mark
from milr.report.entries import Entry, make_entries, name_prompts, settings_of
from milr.runs import Run

Columns = Mapping[str, tuple[str, ...]]
"""A column of the paper -> the tags that count for it."""

GENEVAL: Columns = {
    "Single Object": ("single_object",),
    "Two Object": ("two_object",),
    "Counting": ("counting",),
    "Colors": ("colors",),
    "Position": ("position",),
    "Attribute Binding": ("color_attr",),
}
"""GenEval's tags, which benchmarks of other prompts may have too."""
COMPBENCH: Columns = {
    "Color": ("color", "attribute (icon world)"),
    "Shape": ("shape",),
    "Texture": ("texture",),
    "Spatial": ("spatial", "spatial (icon world)"),
    "Non-Spatial": ("non_spatial", "non-spatial (icon world)"),
    "Complex": ("complex", "complex (icon world)"),
}
"""T2I-CompBench's categories, and the icon world's stand-ins for them."""
_PAPERS = ("joint", "alt", "t2v")
"""Strategies of the paper."""


@dataclass(frozen=True)
class Section:
    """All entries of one benchmark under one evaluator."""

    benchmark: str
    evaluator: str
    entries: tuple[Entry, ...]
    """The reference first, then other methods, gradients, strategies, and everything else."""
    reference: Entry | None
    """The search to which the others are compared: the paper's JOINT with the reward's gradient; None if there is none.
    """

    @property
    def name(self) -> str:
        """Return the heading of its rows."""
        return f"{self.benchmark}, evaluated by {self.evaluator}"

    @property
    def own(self) -> bool:
        """Return true if the prompts are the user's own."""
        return self.entries[0].manifest.benchmark is None

    @property
    def tags(self) -> frozenset[str]:
        """Return the tags of all prompts."""
        return frozenset(tag for entry in self.entries for tag in entry.outcomes.tags)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes to print beside the benchmark's numbers."""
        return load_benchmark(self.benchmark).notes if is_benchmark(self.benchmark) else ()

    def like(self, columns: Columns) -> bool:
        """Return true if its tags are in those columns."""
        return bool(self.tags) and self.tags <= {tag for tags in columns.values() for tag in tags}

    def in_column(self, entry: Entry, tags: Sequence[str]) -> Estimate | None:
        """Return the score of the first of those tags for which the entry has prompts."""
        return next((found for tag in tags if (found := self.at_end(entry, tag)) is not None), None)

    @cached_property
    def comparison(self) -> Comparison:
        """Return the comparison of every entry with the reference, or with the first entry."""
        return compare(self.entries, (self.reference or self.entries[0]).label)

    def at_end(self, entry: Entry, tag: str) -> Estimate | None:
        """Return the score of its answers for one tag, or overall; None for a tag without prompts."""
        summary = self.comparison.scores[entry.label]
        return summary[tag][END] if tag in summary else None

    def variants(self, *settings: str) -> list[Entry]:
        """Return the reference and the entries that differ from it only in these settings."""
        if self.reference is None:
            return []
        return [entry for entry in self.entries if self.differences(entry) <= set(settings)]

    def sweep(self, setting: str) -> list[Entry]:
        """Return a plain search and the entries that differ from it only in this setting, that search first.

        It is the reference if that has such entries; else the search with most of them, for instance one for another
        reward.
        """
        found = {
            plain.label: [plain, *(one for one in self.entries if differing(one, plain) == {setting})]
            for plain in _plain(self.entries)
        }
        own = [] if self.reference is None else found[self.reference.label]
        return own if len(own) > 1 else max(found.values(), key=len, default=own)

    def differences(self, entry: Entry) -> set[str]:
        """Return the settings in which an entry differs from the reference; a reward has its own stop value."""
        return set() if self.reference is None else differing(entry, self.reference)

    def of_method(self, method: str) -> list[Entry]:
        """Return the entries of that method with the reference's reward and model."""
        return [entry for entry in self.entries if entry.manifest.method == method and self._beside(entry)]

    def is_method(self, entry: Entry) -> bool:
        """Return true for methods and the search's strategies; ablations of it have their own tables and figures.

        A strategy that is not the paper's may have its own settings.
        """
        if entry.manifest.method != "milr" or self.reference is None:
            return True
        papers = entry.settings.get("strategy") in _PAPERS
        own = set[str]() if papers else {"text_ratio", "image_ratio", "learning_rate"}
        return self.differences(entry) <= {"strategy", "model", *own}

    def _beside(self, entry: Entry) -> bool:
        if self.reference is None:
            return True
        ours, theirs = entry.manifest, self.reference.manifest
        return (ours.model, ours.reward) == (theirs.model, theirs.reward)

    def row_name(self, entry: Entry) -> str:
        """Return the name in tables: "janus:x + milr", marked if the embedded model drew."""
        return f"{entry.manifest.model} + {mark(entry).replace(f', model {entry.manifest.model}', '', 1)}"


def make_sections(runs: Sequence[Run]) -> list[Section]:
    """Sort runs by benchmark and evaluator, in the order of their first run."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        manifest = run.manifest
        key = (name_prompts(manifest), manifest.evaluator or f"its own reward {manifest.reward}")
        groups.setdefault(key, []).append(run)
    sections: list[Section] = []
    for (benchmark, evaluator), group in groups.items():
        entries = make_entries(group)
        reference = _find_reference(entries)
        ordered = sorted(entries, key=lambda entry: _telling(entry, reference))
        sections.append(Section(benchmark, evaluator, tuple(ordered), reference))
    return sections


def finished(sections: Sequence[Section]) -> list[Section]:
    """Return the sections without unfinished runs: easy prompts come first, so their scores are too high."""
    kept: list[Section] = []
    for section in sections:
        whole = [entry for entry in section.entries if all(run.manifest.status == "finished" for run in entry.runs)]
        same = len(whole) == len(section.entries)
        kept += [section] if same else make_sections([run for entry in whole for run in entry.runs])
    return kept


def _telling(entry: Entry, reference: Entry | None) -> int:
    """Return the sorting key of an entry."""
    if entry is reference:
        return 0
    if entry.manifest.method != "milr" or reference is None:
        return 1
    changed = differing(entry, reference)
    return 2 if changed == {"gradient"} else 3 if changed == {"strategy"} else 4


def differing(entry: Entry, other: Entry) -> set[str]:
    """Return the settings in which two entries differ; a setting that a method does not read does not count."""
    ours, theirs = settings_of(entry.manifest), settings_of(other.manifest)
    return {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}


def _plain(entries: Sequence[Entry]) -> list[Entry]:
    """Return the searches with the default value of everything that the paper ablates."""
    plain = {"strategy": "joint", "gradient": "reward", "noise": "fresh", "l2": 0}
    return [
        entry
        for entry in entries
        if entry.manifest.method == "milr"
        and all(entry.settings.get(name) == value for name, value in plain.items())
        and entry.settings.get("text_ratio") > 0
        and entry.settings.get("image_ratio") > 0
    ]


def _find_reference(entries: Sequence[Entry]) -> Entry | None:
    """Return the plain search with most entries that differ from it in one setting."""

    def neighbours(entry: Entry) -> int:
        return sum(len(differing(entry, other)) == 1 for other in entries)

    return max(_plain(entries), key=neighbours, default=None)
