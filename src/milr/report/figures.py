"""The paper's figures as numbers: data of the plot, and the table for screen readers and programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Literal

import numpy as np

from milr.benchmarks import load_benchmark
from milr.benchmarks.intervals import Estimate
from milr.report.comparison import AREA, BUDGETS, mark, tag_weights
from milr.report.controls import find_control
from milr.report.entries import Entry
from milr.report.paper import by_reward, missing
from milr.report.published import read_published
from milr.report.sections import GENEVAL, Section
from milr.report.statistics import OVERALL, Floats, answers, estimate, mean_by_prompt
from milr.report.tables import INTERVALS, Cell, Row, Table

_LINES = 8
"""Most curves in one figure; the tables have all of them."""


@dataclass(frozen=True)
class Series:
    """One line or one set of points."""

    label: str
    estimates: tuple[Estimate | None, ...]
    """One estimate per position of the figure; None if there is none."""


@dataclass(frozen=True)
class Figure:
    """One figure. Positions have names; numbers are drawn to scale if `scale` is true."""

    key: str
    title: str
    across: str
    """Label of the x axis."""
    positions: tuple[str, ...]
    series: tuple[Series, ...]
    up: str = "score"
    scale: Literal["linear", "log2", "names"] = "linear"
    notes: tuple[str, ...] = ()
    told: str = ""
    """The command that makes a run for it, if there is none."""

    def as_table(self) -> Table:
        """Return the same numbers as a table."""
        rows = [
            Row(series.label, tuple(Cell.of(estimate, digits=3) for estimate in series.estimates))
            for series in self.series
        ]
        columns = tuple(f"{self.across} {position}" for position in self.positions)
        notes = (*self.notes, self.told or INTERVALS)
        return Table(self.title, columns, tuple(rows), notes, key=self.key)


def make_figures(sections: Sequence[Section]) -> list[Figure]:
    """Return figures 4, 5 and 6, the L2 weight, and the curves over drawings spent."""
    figures = [figure for section in sections for figure in _curves(section)]
    figures += [_steps(sections)]
    for setting, name in (("text_ratio", "text_ratio (lambda_t)"), ("image_ratio", "image_ratio (lambda_v)")):
        figures.append(_sweep(sections, setting, name, f"figure-5-{setting.partition('_')[0]}", setting))
    figures += [_counts(sections), _rewards(sections), _l2(sections)]
    return figures


def _curves(section: Section) -> list[Figure]:
    """Return the score after each number of drawings, for the `_LINES` leading methods."""
    most = max(float(entry.outcomes.last_spent.max()) for entry in section.entries)
    budgets = [budget for budget in BUDGETS if budget <= most]
    if len(budgets) < 2:
        return []
    scores = section.comparison.scores
    chosen = _leading(section)
    series = [
        Series(mark(entry), tuple(_known(scores[entry.label][OVERALL][str(budget)]) for budget in budgets))
        for entry in chosen
    ]
    left = len(section.entries) - len(chosen)
    notes = (f"The methods that lead by area; {left} more entries are in the table of scores.",) if left else ()
    return [
        Figure(
            f"curves-{_slug(section.name)}",
            f"Score over drawings spent: {section.name}",
            "drawings",
            tuple(map(str, budgets)),
            tuple(series),
            scale="log2",
            notes=notes,
        )
    ]


def _leading(section: Section) -> list[Entry]:
    """Return the reference, its zero-gradient control, then methods by the area under their curves, largest first.

    Ablations have their own figures; a method of one drawing has no curve.
    """

    def area(entry: Entry) -> float:
        return section.comparison.scores[entry.label][OVERALL][AREA].value

    first = section.entries[0]
    control = find_control(first, section.entries)
    always = [first] if control is None else [first, control]
    others = [one for one in section.entries if section.is_method(one) and one not in always and not isnan(area(one))]
    return [*always, *sorted(others, key=area, reverse=True)][:_LINES]


def _steps(sections: Sequence[Section]) -> Figure:
    """Return figure 4: the score if the search had ended after step k, one run per benchmark."""
    series: list[Series] = []
    longest = 0
    for section in sections:
        if section.reference is not None:
            steps = section.reference.settings.get("steps")
            longest = max(longest, steps)
            outcomes = section.reference.outcomes
            found = answers(outcomes.step, outcomes.rank, outcomes.evaluator, range(steps + 1))
            series.append(Series(f"{section.name}: {mark(section.reference)}", _overall(section.reference, found)))
    positions = tuple(map(str, range(longest + 1)))
    series = [Series(one.label, (*one.estimates, *[None] * (len(positions) - len(one.estimates)))) for one in series]
    return Figure(
        "figure-4",
        "Figure 4: score against K",
        "step",
        positions if series else (),
        tuple(series),
        notes=("Cut from one run a benchmark: the answer that a search of K steps would have ended with.",),
        told="" if series else missing("steps"),
    )


def _sweep(sections: Sequence[Section], setting: str, name: str, key: str, recipe: str) -> Figure:
    """Return figure 5: the score at the end against one setting, all others equal."""
    swept = {section.name: _by_value(section, setting) for section in sections}
    told = missing(recipe.replace("_", "-"))
    return _against(key, f"Figure 5: score against {name}", name, sections, setting, swept, told)


def _counts(sections: Sequence[Section]) -> Figure:
    """Return figure 5 by the number of image latents."""
    swept: dict[str, list[tuple[str, Entry]]] = {}
    for section in sections:
        found = [
            (count, entry) for _, entry in _by_value(section, "image_ratio") if (count := _image_latents(entry)) > 0
        ]
        swept[section.name] = _line([(str(count), entry) for count, entry in sorted(found, key=lambda pair: pair[0])])
    return _against(
        "figure-5-counts",
        "Figure 5: score against the number of image latents",
        "image latents",
        sections,
        "image_ratio",
        swept,
        missing("image-ratio"),
    )


def _image_latents(entry: Entry) -> int:
    trace = entry.runs[0].tasks[0].first.trace
    return 0 if trace is None else trace.image_latents


def _by_value(section: Section, setting: str) -> list[tuple[str, Entry]]:
    """Return a search and its variants in one setting, by value; nothing if there is no variant."""
    found = section.sweep(setting)
    ordered = sorted(found, key=lambda entry: float(entry.settings.get(setting)))
    return _line([(f"{entry.settings.get(setting):.3g}", entry) for entry in ordered])


def _line(points: list[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
    """Return the points; none if there is only one, because a search without a variant gives no line."""
    return points if len(points) > 1 else []


def _against(
    key: str,
    title: str,
    across: str,
    sections: Sequence[Section],
    setting: str,
    swept: dict[str, list[tuple[str, Entry]]],
    told: str,
) -> Figure:
    """Return scores at the end, a line per section, over all values that some section has, evenly spaced."""
    values = sorted({value for pairs in swept.values() for value, _ in pairs}, key=float)
    series: list[Series] = []
    for section in sections:
        pairs = dict(swept.get(section.name, []))
        if pairs:
            estimates = [section.at_end(pairs[value], OVERALL) if value in pairs else None for value in values]
            base = section.sweep(setting)[0]
            series.append(Series(f"{section.name}: {mark(base)}", tuple(map(_known, estimates))))
    return Figure(key, title, across, tuple(values), tuple(series), scale="names", told="" if series else told)


def _rewards(sections: Sequence[Section]) -> Figure:
    """Return figure 6: the score at the end by reward, beside the published one."""
    _, rows = read_published("geneval_rewards")
    published = {row.name: row.cells[-1].value for row in rows}
    found = {section.name: by_reward(section) for section in sections if section.like(GENEVAL)}
    ours = [name for pairs in found.values() for name, _ in pairs]
    positions = tuple(dict.fromkeys([*published, *ours]))
    told = f"published: GenEval, Janus-Pro-7B, n={load_benchmark('geneval').prompts}"
    series = [Series(told, tuple(_point(published.get(name)) for name in positions))]
    for section in sections:
        pairs = dict(found.get(section.name, []))
        if pairs:
            estimates = [section.at_end(pairs[name], OVERALL) if name in pairs else None for name in positions]
            series.append(Series(section.name, tuple(map(_known, estimates))))
    told = "" if len(series) > 1 else missing("rewards")
    return Figure("figure-6", "Figure 6: score by reward", "reward", positions, tuple(series), scale="names", told=told)


def _point(value: float | str | None) -> Estimate | None:
    """Return a published score: without an interval, of the whole benchmark."""
    return Estimate(value, nan, nan, load_benchmark("geneval").prompts) if isinstance(value, float) else None


def _l2(sections: Sequence[Section]) -> Figure:
    """Return the L2 weight against reward hacking: the answers' scores by the reward and by the evaluator."""
    values = sorted({value for section in sections for value, _ in _by_value(section, "l2")}, key=float)
    series: list[Series] = []
    for section in sections:
        pairs = dict(_by_value(section, "l2"))
        if not pairs:
            continue
        base = section.sweep("l2")[0]
        kinds: tuple[tuple[str, Callable[[Entry], Floats]], ...] = (
            (f"reward {base.manifest.reward}", _rewards_at_end),
            (f"evaluator {section.evaluator}", _evaluated_at_end),
        )
        for kind, read in kinds:
            estimates = [_overall(pairs[value], read(pairs[value]))[0] if value in pairs else None for value in values]
            series.append(Series(f"{mark(base)}: {kind}", tuple(estimates)))
    return Figure(
        "l2",
        "The L2 weight against reward hacking",
        "l2",
        tuple(values),
        tuple(series),
        scale="names",
        notes=("Of the same answers: where the reward's line is above the evaluator's, the reward is hacked.",),
        told="" if series else missing("l2"),
    )


def _rewards_at_end(entry: Entry) -> Floats:
    outcomes = entry.outcomes
    return answers(outcomes.spent, outcomes.rank, outcomes.reward, [np.inf])


def _evaluated_at_end(entry: Entry) -> Floats:
    outcomes = entry.outcomes
    return answers(outcomes.spent, outcomes.rank, outcomes.evaluator, [np.inf])


def _overall(entry: Entry, values: Floats) -> tuple[Estimate | None, ...]:
    """Return B overall estimates from (T, B), pooled as the benchmark does."""
    outcomes = entry.outcomes
    names = list(dict.fromkeys(outcomes.prompts))
    tag_of = dict(zip(outcomes.prompts, outcomes.tags, strict=True))
    tags = [tag_of[name] for name in names]
    found = estimate(mean_by_prompt(values, outcomes.prompts, names), tags, tag_weights(entry.manifest.benchmark, tags))
    return tuple(map(_known, found[OVERALL]))


def _known(estimate: Estimate | None) -> Estimate | None:
    return None if estimate is None or np.isnan(estimate.value) else estimate


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower())
