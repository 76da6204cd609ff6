"""The runs of a report, sorted: by benchmark and evaluator, and within these around one reference search.

An ablation is every entry that differs from the reference in one setting; so a report finds its tables and figures by
what runs are, whatever their folders are called.
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
"""A column of the paper -> the tags that may stand in it."""

GENEVAL: Columns = {
    "Single Object": ("single_object",),
    "Two Object": ("two_object",),
    "Counting": ("counting",),
    "Colors": ("colors",),
    "Position": ("position",),
    "Attribute Binding": ("color_attr",),
}
"""Benchmarks of other prompts may have GenEval's tags."""
COMPBENCH: Columns = {
    "Color": ("color", "attribute (icon world)"),
    "Shape": ("shape",),
    "Texture": ("texture",),
    "Spatial": ("spatial", "spatial (icon world)"),
    "Non-Spatial": ("non_spatial", "non-spatial (icon world)"),
    "Complex": ("complex", "complex (icon world)"),
}
"""T2I-CompBench's, and the icon world's stand-ins for them."""
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
    """The search that the others are seen beside: the paper's JOINT with the reward's gradient; None without one."""

    @property
    def name(self) -> str:
        """What stands above its rows."""
        return f"{self.benchmark}, evaluated by {self.evaluator}"

    @property
    def own(self) -> bool:
        """Whether the prompts are the user's own."""
        return self.entries[0].manifest.benchmark is None

    @property
    def tags(self) -> frozenset[str]:
        """Of all prompts."""
        return frozenset(tag for entry in self.entries for tag in entry.outcomes.tags)

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said beside the benchmark's numbers."""
        return load_benchmark(self.benchmark).notes if is_benchmark(self.benchmark) else ()

    def like(self, columns: Columns) -> bool:
        """Whether its tags stand in those columns."""
        return bool(self.tags) and self.tags <= {tag for tags in columns.values() for tag in tags}

    def in_column(self, entry: Entry, tags: Sequence[str]) -> Estimate | None:
        """The score of the first of those tags that the entry has prompts of."""
        return next((found for tag in tags if (found := self.at_end(entry, tag)) is not None), None)

    @cached_property
    def comparison(self) -> Comparison:
        """Every entry beside the reference, or beside the first entry."""
        return compare(self.entries, (self.reference or self.entries[0]).label)

    def at_end(self, entry: Entry, tag: str) -> Estimate | None:
        """The score of its answers for one tag, or overall; None for a tag that it has no prompts of."""
        summary = self.comparison.scores[entry.label]
        return summary[tag][END] if tag in summary else None

    def variants(self, *settings: str) -> list[Entry]:
        """The reference and the entries that differ from it in nothing but these settings."""
        if self.reference is None:
            return []
        return [entry for entry in self.entries if self.differences(entry) <= set(settings)]

    def sweep(self, setting: str) -> list[Entry]:
        """A plain search and the entries that differ from it in nothing but this setting, that search first.

        It is the reference where that has any; else the one with most, such as a search for another reward.
        """
        found = {
            plain.label: [plain, *(one for one in self.entries if differing(one, plain) == {setting})]
            for plain in _plain(self.entries)
        }
        own = [] if self.reference is None else found[self.reference.label]
        return own if len(own) > 1 else max(found.values(), key=len, default=own)

    def differences(self, entry: Entry) -> set[str]:
        """The settings in which an entry differs from the reference; a reward brings its own stop value."""
        return set() if self.reference is None else differing(entry, self.reference)

    def of_method(self, method: str) -> list[Entry]:
        """The entries of that method with the reference's reward and model."""
        return [entry for entry in self.entries if entry.manifest.method == method and self._beside(entry)]

    def is_method(self, entry: Entry) -> bool:
        """Methods as such, and the search's strategies; its ablations have tables and figures of their own.

        A strategy that is not the paper's may have settings of its own.
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
        """As tables print it: "janus:x + milr", marked where the embedded model drew."""
        return f"{entry.manifest.model} + {mark(entry)}"


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
    """Sections without entries of which a run is not finished: easy prompts come first, so its score flatters."""
    kept: list[Section] = []
    for section in sections:
        whole = [entry for entry in section.entries if all(run.manifest.status == "finished" for run in entry.runs)]
        same = len(whole) == len(section.entries)
        kept += [section] if same else make_sections([run for entry in whole for run in entry.runs])
    return kept


def _telling(entry: Entry, reference: Entry | None) -> int:
    """Where an entry stands in lists."""
    if entry is reference:
        return 0
    if entry.manifest.method != "milr" or reference is None:
        return 1
    changed = differing(entry, reference)
    return 2 if changed == {"gradient"} else 3 if changed == {"strategy"} else 4


def differing(entry: Entry, other: Entry) -> set[str]:
    """Return the settings in which two entries differ; one that a method does not read is no difference."""
    ours, theirs = settings_of(entry.manifest), settings_of(other.manifest)
    return {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}


def _plain(entries: Sequence[Entry]) -> list[Entry]:
    """The searches that are plain in all that the paper ablates."""
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
    """Of the plain searches, the one with most neighbours that differ in one setting."""

    def neighbours(entry: Entry) -> int:
        return sum(len(differing(entry, other)) == 1 for other in entries)

    return max(_plain(entries), key=neighbours, default=None)
