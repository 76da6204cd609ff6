"""Tables of a comparison, for `milr compare`, `milr ablate` and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from milr.benchmarks import is_benchmark, load_benchmark
from milr.benchmarks.base import ALL_ITEMS
from milr.benchmarks.tables import answers_of, summarise_items
from milr.report.comparison import END, Comparison, Summary, compare, evaluator_of, mark
from milr.report.controls import find_control, needs_control
from milr.report.entries import Entry, name_prompts
from milr.report.statistics import OVERALL
from milr.report.tables import BOLD_FROM, INTERVALS, NOTHING, Cell, Row, Table

PAIRED = f"On the page a difference is bold if its 95 % interval excludes zero and n is {BOLD_FROM} or more."
"""Note on differences."""


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return tables of scores, paired differences, gains from latents, tags, differences at equal wall-clock time."""
    base, evaluator = comparison.baseline, evaluator_of(comparison.baseline)
    where = f"{name_prompts(base.manifest)}, evaluated by {evaluator}"
    heads = [f"after {column}" if column.isdigit() else column for column in comparison.columns]
    scores = Table(
        f"Scores after so many drawings: {where}",
        tuple(heads),
        tuple(
            Row(mark(entry), tuple(_cells(comparison.scores[entry.label], comparison.columns)))
            for entry in comparison.entries
        ),
        (
            INTERVALS,
            f"area: the mean score over log2 of the number of drawings, {_reaches(comparison)}, as far as all its "
            f"searches are known; end: the images that the searches ended with.",
            *[
                f"{entry.label}: the mean over all subsets of its pool of {entry.outcomes.spent.shape[1]} drawings."
                for entry in comparison.entries
                if entry.pooled
            ],
            *comparison.flags,
        ),
        key="scores",
    )
    spent = Table(
        f"What was spent: {where}",
        ("searches", "drawings", "tokens", "reward calls", "s a drawing"),
        tuple(Row(mark(entry), tuple(_spent(entry))) for entry in comparison.entries),
        (
            "Drawings, tokens and reward calls: the mean of a search. Seconds: the run's wall-clock time without the "
            "evaluator's, divided by its drawings.",
        ),
        key="spent",
    )
    tables = [scores, spent]
    if comparison.differences:
        rows = [(mark(e), comparison.differences[e.label]) for e in comparison.entries if e is not base]
        tables.append(
            Table(
                f"Paired differences to {mark(base)}: {where}",
                tuple(heads),
                tuple(Row(name, tuple(_cells(summary, comparison.columns, signed=True))) for name, summary in rows),
                (
                    "Differences are taken prompt by prompt and averaged as the benchmark averages scores; areas go to "
                    "the smaller number of drawings of the two.",
                    PAIRED,
                ),
                key="differences",
            )
        )
    tables += _what_latents_add(comparison, where, heads)
    tables += [_by_tag(comparison, where), *_by_question(comparison, where)]
    if comparison.on_the_clock:
        budgets = [column for column in comparison.columns if column.isdigit()]
        tables.append(
            Table(
                f"Paired differences to {mark(base)} at equal wall-clock time: {where}",
                tuple(f"the time of {budget}" for budget in budgets),
                tuple(
                    Row(mark(e), tuple(_cells(comparison.on_the_clock[e.label], budgets, signed=True)))
                    for e in comparison.entries
                    if e.label in comparison.on_the_clock
                ),
                (
                    f"The time of 4: the time in which {base.label} makes 4 drawings. Each row counts its own drawings "
                    f"in that time, at its run's seconds a drawing; a search that has ended keeps its image. These "
                    f"numbers are only as exact as the measured seconds: run on a quiet machine. {NOTHING}: not even "
                    f"one drawing fits into that time.",
                ),
                key="wall-clock",
            )
        )
    return tables


def _reaches(comparison: Comparison) -> str:
    """Return a note on the drawings up to which areas are taken: most entries' first, then the others by name."""
    usual = Counter(comparison.area_to.values()).most_common(1)[0][0]
    others = [f"{label} to {reach}" for label, reach in comparison.area_to.items() if reach != usual]
    return f"to {usual} drawings" + (f" ({', '.join(others)})" if others else "")


def _what_latents_add(comparison: Comparison, where: str, heads: Sequence[str]) -> list[Table]:
    """Return each search with the reward's gradient minus its controls; nothing if there is no such search."""
    rows: list[Row] = []
    for entry in filter(needs_control, comparison.entries):
        for gradient in ("zero", "random", "negated"):
            control = find_control(entry, comparison.entries, gradient)
            if control is not None:
                found = compare((control, entry)).differences[entry.label]
                cells = [Cell.of(found[OVERALL].get(column), signed=True) for column in comparison.columns]
                rows.append(Row(f"{mark(entry)} - gradient {gradient}", tuple(cells)))
    if not rows:
        return []
    note = "Every step draws the image again, which helps by itself: what the latents add is in these differences."
    return [Table(f"What the latents add, paired: {where}", tuple(heads), tuple(rows), (note,), key="latents")]


def _by_tag(comparison: Comparison, where: str) -> Table:
    """Return each tag's score at the end, and its difference to the baseline."""
    tags = list(dict.fromkeys(tag for summary in comparison.scores.values() for tag in summary if tag != OVERALL))
    rows: list[Row] = []
    for entry in comparison.entries:
        summary = comparison.scores[entry.label]
        cells = [Cell.of(summary[tag][END] if tag in summary else None) for tag in (*tags, OVERALL)]
        rows.append(Row(mark(entry), tuple(cells), group="score"))
    for entry in comparison.entries:
        summary = comparison.differences.get(entry.label, {})
        cells = [Cell.of(summary[tag][END] if tag in summary else None, signed=True) for tag in (*tags, OVERALL)]
        rows += [Row(mark(entry), tuple(cells), group="difference")] if summary else []
    columns = (*(tag or "no tag" for tag in tags), OVERALL)
    return Table(f"By tag, at the end: {where}", columns, tuple(rows), (INTERVALS,), key="tags")


def _by_question(comparison: Comparison, where: str) -> list[Table]:
    """Return the answers' means over checklist items by tag, as `milr benchmark` prints them; nothing without items."""
    name = comparison.baseline.manifest.benchmark
    if not is_benchmark(name):
        return []
    benchmark = load_benchmark(name)
    found = {
        mark(entry): {
            column.name: Cell(column.mean, column.low, column.high, prompts=column.prompts)
            for column in summarise_items(benchmark, [answer for run in entry.runs for answer in answers_of(run)])
        }
        for entry in comparison.entries
    }
    columns = [tag for tag in (*benchmark.items, ALL_ITEMS) if any(tag in cells for cells in found.values())]
    if not columns:
        return []
    rows = [Row(name, tuple(cells.get(tag, Cell()) for tag in columns)) for name, cells in found.items()]
    note = f"Arithmetic means over the questions about the searches' answers; {ALL_ITEMS!r}: first within each prompt."
    return [Table(f"By question, at the end: {where}", tuple(columns), tuple(rows), (INTERVALS, note), key="questions")]


def _cells(summary: Summary, columns: Sequence[str], signed: bool = False) -> list[Cell]:
    return [Cell.of(summary[OVERALL][column], signed=signed) for column in columns]


def _spent(entry: Entry) -> list[Cell]:
    searches = len(entry.outcomes.prompts)
    return [
        Cell(float(searches), digits=0),
        Cell(entry.drawings, digits=1),
        Cell(entry.tokens, digits=0),
        Cell(entry.reward_calls, digits=1),
        Cell(entry.seconds, digits=2),
    ]
