"""Comparison of entries with a baseline, prompt by prompt, for `milr compare` and the report.

A difference between two methods is a result only together with its interval, the drawings spent and the evaluator's
name. A search over latents also needs its zero-gradient control: the image is drawn again at every step, so a search
that learns nothing gains too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from milr.benchmarks import is_benchmark, load_benchmark
from milr.benchmarks.intervals import Estimate
from milr.errors import UsageError, unknown_name
from milr.report.controls import find_control, needs_control
from milr.report.entries import Entry, name_prompts
from milr.report.statistics import Floats, area, estimate, mean_by_prompt
from milr.types import say_count

BUDGETS = (1, 2, 4, 8, 21, 64)
"""Numbers of drawings at which curves are read."""
AREA, END = "area", "end"
"""Columns beside the budgets: the area under the curve, and the answer at the end of a search."""

Summary = Mapping[str, Mapping[str, Estimate]]
"""Tag (or `OVERALL`) -> column -> estimate."""


@dataclass(frozen=True)
class Comparison:
    """Entries of one benchmark and one evaluator."""

    baseline: Entry
    entries: tuple[Entry, ...]
    """All entries, the baseline included, in the given order."""
    columns: tuple[str, ...]
    """"1", "2", ... for budgets, then `AREA` and `END`."""
    area_to: Mapping[str, int]
    """Label -> number of drawings up to which the area is taken; 1 if there is no area."""
    scores: Mapping[str, Summary]
    """Label -> scores over the entry's own prompts."""
    differences: Mapping[str, Summary]
    """Label -> entry minus baseline over the prompts that both have, without the baseline's own."""
    on_the_clock: Mapping[str, Summary]
    """The same, with each entry at the wall-clock time that the baseline took for this many drawings."""
    flags: tuple[str, ...]
    """Warnings that forbid reading the numbers as a result."""


def compare(entries: Sequence[Entry], baseline: str | None = None) -> Comparison:
    """Compare all entries with one of them.

    Args:
        entries: At least one.
        baseline: An entry's label, with or without its mark, or the name of one of its runs' folders; None takes the
            first entry.

    Raises:
        UsageError: No such baseline, or an entry that cannot be compared with it: another benchmark, another evaluator,
            or no prompt in common.
    """
    base = _find_baseline(entries, baseline)
    for entry in entries:
        _check_pair(entry, base)
    budgets = _budgets(entries)
    scores: dict[str, Summary] = {}
    differences: dict[str, Summary] = {}
    on_the_clock: dict[str, Summary] = {}
    area_to: dict[str, int] = {}
    for entry in entries:
        reach = area_to[entry.label] = _reach(entry)
        own = list(dict.fromkeys(entry.outcomes.prompts))
        scores[entry.label] = _summarise(entry, own, _curve(entry, own, budgets, reach), budgets)
        if entry is base:
            continue
        common = [prompt for prompt in own if prompt in set(base.outcomes.prompts)]
        reach = min(reach, _reach(base))
        of_base = _curve(base, common, budgets, reach)
        gap = _curve(entry, common, budgets, reach) - of_base
        differences[entry.label] = _summarise(entry, common, gap, budgets, paired=True)
        pace = base.seconds / entry.seconds if entry.seconds > 0 else float("nan")
        if np.isfinite(pace):
            afforded = [min(budget * pace, entry.outcomes.limit) for budget in budgets]
            found = mean_by_prompt(entry.answers(afforded), entry.outcomes.prompts, common)
            rest = np.full((len(common), 2), np.nan)  # neither an area nor an end has its own time
            gap = np.concatenate([found - of_base[:, : len(budgets)], rest], axis=1)
            on_the_clock[entry.label] = _summarise(entry, common, gap, budgets, paired=True)
    columns = (*map(str, budgets), AREA, END)
    flags = tuple(_flags(entries, base))
    return Comparison(base, tuple(entries), columns, area_to, scores, differences, on_the_clock, flags)


def tag_weights(benchmark: str | None, tags: Sequence[str]) -> Mapping[str, float] | None:
    """Return a benchmark's weights of its tags; None, which means the plain mean, for the user's own prompts."""
    if benchmark is None:
        return None
    if is_benchmark(benchmark):
        return load_benchmark(benchmark).weights
    return dict.fromkeys(tags, 1.0)


def _find_baseline(entries: Sequence[Entry], name: str | None) -> Entry:
    if not entries:
        raise UsageError("no runs given: name the folders of at least one run")
    if name is None:
        return entries[0]
    for entry in entries:
        if name in (entry.label, mark(entry)) or any(name in (run.folder.name, str(run.folder)) for run in entry.runs):
            return entry
    names = [run.folder.name for entry in entries for run in entry.runs]
    raise unknown_name("baseline", name, [*(entry.label for entry in entries), *names])


def _check_pair(entry: Entry, base: Entry) -> None:
    """Refuse entries that cannot be compared."""
    where = f"{entry.runs[0].folder} and {base.runs[0].folder}"
    if entry.manifest.benchmark != base.manifest.benchmark:
        ours, theirs = name_prompts(entry.manifest), name_prompts(base.manifest)
        raise UsageError(f"{where} ran different benchmarks ({ours} and {theirs}): compare runs of one benchmark")
    if evaluator_of(entry) != evaluator_of(base):
        raise UsageError(
            f"{where} have different evaluators ({evaluator_of(entry)} and {evaluator_of(base)}), whose numbers do not "
            "compare: let one evaluator score both: milr evaluate RUN --evaluator NAME"
        )
    if not set(entry.outcomes.prompts) & set(base.outcomes.prompts):
        raise UsageError(f"{where} have no prompt in common: compare runs of the same prompts")


def evaluator_of(entry: Entry) -> str:
    """Return the name of the source of the headline numbers."""
    manifest = entry.manifest
    return manifest.reward if manifest.evaluator is None else manifest.evaluator


def _budgets(entries: Sequence[Entry]) -> list[int]:
    """Return the values of `BUDGETS` that some entry paid for."""
    most = max(float(entry.outcomes.last_spent.max()) for entry in entries)
    return [budget for budget in BUDGETS if budget <= most] or [1]


def _reach(entry: Entry) -> int:
    """Return the number of drawings up to which the area is taken: the last that is known, at most the last budget."""
    limit = entry.outcomes.limit
    return int(min(limit, BUDGETS[-1]) if np.isfinite(limit) else BUDGETS[-1])


def _curve(entry: Entry, prompts: Sequence[str], budgets: Sequence[int], reach: int) -> Floats:
    """Return (P, B + 2): each prompt's score after each budget, the area to `reach`, and the score at the end."""
    counts = [*budgets, *range(1, reach + 1), float("inf")]
    found = mean_by_prompt(entry.answers(counts), entry.outcomes.prompts, prompts)
    dense = found[:, len(budgets) : -1]
    whole = area(dense) if reach > 1 else np.full(len(prompts), np.nan)
    return np.concatenate([found[:, : len(budgets)], whole[:, None], found[:, -1:]], axis=1)


def _summarise(
    entry: Entry, prompts: Sequence[str], values: Floats, budgets: Sequence[int], paired: bool = False
) -> Summary:
    tag_of = dict(zip(entry.outcomes.prompts, entry.outcomes.tags, strict=True))
    tags = [tag_of[prompt] for prompt in prompts]
    found = estimate(values, tags, tag_weights(entry.manifest.benchmark, tags), paired=paired)
    columns = [*map(str, budgets), AREA, END]
    return {tag: dict(zip(columns, estimates, strict=True)) for tag, estimates in found.items()}


def _flags(entries: Sequence[Entry], base: Entry) -> list[str]:
    """Return warnings for the reader; entries with the same warning share a line."""
    said: dict[str, list[str]] = {}
    for entry in entries:
        for flag in _flags_of(entry, entries, base):
            said.setdefault(flag, []).append(entry.label)
    return [f"{flag}: {'; '.join(labels)}" for flag, labels in said.items()]


def _flags_of(entry: Entry, entries: Sequence[Entry], base: Entry) -> Iterator[str]:
    manifest = entry.manifest
    if needs_control(entry) and find_control(entry, entries) is None:
        yield (
            "not a result yet: no run here is its zero-gradient control (same settings, --gradient zero), so a gain "
            "from the latents cannot be told from a gain from redrawing"
        )
    for run in entry.runs:
        if run.manifest.status != "finished":
            yield f"{run.folder} is not finished ({run.manifest.status}, {say_count(len(run.tasks), 'search')} in it)"
    if not entry.evaluated:
        yield f"scored by its own reward {manifest.reward} alone: a search can raise that score without a better image"
    elif manifest.evaluator == manifest.reward:
        yield f"the evaluator is the reward {manifest.reward} itself, so the score is that of an oracle"
    missing = int(np.isnan(entry.answers([float("inf")])).sum())
    if missing:
        yield f"{missing} of {len(entry.outcomes.prompts)} answers could not be evaluated and are left out"
    if entry is base:
        return
    if manifest.reward != base.manifest.reward:
        yield f"its reward is {manifest.reward}, that of {base.label} is {base.manifest.reward}"
    ours, theirs = (set(one.outcomes.prompts) for one in (entry, base))
    if ours != theirs:
        shared = say_count(len(ours & theirs), "prompt")
        yield f"differences are over the {shared} that it ({len(ours)}) and {base.label} ({len(theirs)}) both have"
    if seeds_by_prompt(entry, ours & theirs) != seeds_by_prompt(base, ours & theirs):
        yield f"its seeds are not those of {base.label}, so the two do not share their random numbers"
    if manifest.versions.get("milr") != base.manifest.versions.get("milr"):
        yield f"drawn by another version of milr than {base.label}"


def seeds_by_prompt(entry: Entry, prompts: set[str]) -> dict[str, list[int]]:
    """Return the seeds of each prompt's searches."""
    found: dict[str, list[int]] = {}
    for prompt, seed in sorted(zip(entry.outcomes.prompts, entry.outcomes.seeds, strict=True)):
        if prompt in prompts:
            found.setdefault(prompt, []).append(seed)
    return found


def mark(entry: Entry) -> str:
    """Return the label, marked if the numbers are the embedded model's."""
    return f"{entry.label} (embedded model)" if entry.embedded else entry.label
