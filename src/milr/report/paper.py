"""The paper's Tables 1, 2, 3, 6 and 7: published rows, and our rows in the same columns."""

from __future__ import annotations

from collections.abc import Sequence

from milr.report.entries import Entry
from milr.report.published import SOURCE, read_published
from milr.report.sections import COMPBENCH, GENEVAL, Columns, Section
from milr.report.statistics import OVERALL
from milr.report.tables import INTERVALS, Cell, Row, Table

RIDDLES = "riddles"
_WISE_COLUMN = ("wise-legacy", RIDDLES)
"""Benchmarks that fill WISE's column: its set of 2025, which the published rows used, and the icon world's stand-in."""
_WISE_NOTE = "WISE's published numbers are of its set of 2025, wise-legacy; runs of wise, the set of 2026, have no row."
_NOTES = (f"Published rows: {SOURCE}, not measured here; of whole benchmarks, without intervals.", INTERVALS)


def paper_tables(sections: Sequence[Section]) -> list[Table]:
    """Return all five tables; a table without rows of ours names the command that makes them."""
    return [_methods(sections), _compbench_and_wise(sections), _ablation(sections), *_rewards(sections)]


def missing(recipe: str, benchmark: str = "") -> str:
    """Return a row that stands for missing runs."""
    return f"no run given: milr ablate {recipe}" + (f" --benchmark {benchmark}" if benchmark else "")


def _methods(sections: Sequence[Section]) -> Table:
    columns, rows = read_published("geneval")
    notes: list[str] = []
    for section in sections:
        if section.like(GENEVAL):
            shown = [entry for entry in section.entries if section.is_method(entry)]
            rows += [_row(section, entry, GENEVAL, 2) for entry in shown]
            notes += _stand_ins(section)
    return _table("Table 1: GenEval", "table-1", columns, rows, missing("methods", "geneval"), *notes)


def _compbench_and_wise(sections: Sequence[Section]) -> Table:
    columns, rows = read_published("t2i_compbench_wise")
    notes: list[str] = []
    for section in sections:
        if section.like(COMPBENCH) or section.benchmark in _WISE_COLUMN:
            shown = [entry for entry in section.entries if section.is_method(entry)]
            rows += [Row(section.row_name(one), tuple(_both(section, one)), group=_group(section)) for one in shown]
            notes += _stand_ins(section)
    told = missing("methods", "t2i-compbench")
    return _table("Table 2: T2I-CompBench and WISE", "table-2", columns, rows, told, _WISE_NOTE, *notes)


def _both(section: Section, entry: Entry) -> list[Cell]:
    """Return T2I-CompBench's and WISE's columns; a benchmark fills its own."""
    if section.like(COMPBENCH):
        return [*_cells(section, entry, COMPBENCH, 4), Cell()]
    return [*[Cell()] * (len(COMPBENCH) + 1), Cell.of(section.at_end(entry, OVERALL))]


def _stand_ins(section: Section) -> list[str]:
    """Return a note on a section that stands in for the paper's benchmark."""
    if section.benchmark == RIDDLES:
        return [*section.notes, f"{RIDDLES} stands in WISE's column and compares with nothing of WISE's."]
    if section.like(GENEVAL) and section.benchmark != "geneval":
        return [
            *section.notes,
            f"{section.benchmark} has prompts of its own: its rows and the published ones differ in that too.",
        ]
    return list(section.notes)


def _ablation(sections: Sequence[Section]) -> Table:
    columns, rows = read_published("ablation")
    for section in sections:
        for name, entry in ablations(section):
            cells = _in_ablation(section, entry)
            if cells:
                rows.append(Row(f"{section.row_name(entry)}: {name}", tuple(cells), group=_group(section)))
    notes = [note for section in sections if ablations(section) for note in _stand_ins(section)]
    return _table("Table 3: what each part adds", "table-3", columns, rows, missing("parts"), _WISE_NOTE, *notes)


def _in_ablation(section: Section, entry: Entry) -> list[Cell]:
    """Return GenEval's columns, T2I-CompBench's overall score or WISE's; nothing for another kind of benchmark."""
    overall = section.at_end(entry, OVERALL)
    if section.like(GENEVAL):
        return [*_cells(section, entry, GENEVAL, 2), Cell(), Cell()]
    blank = [Cell()] * (len(GENEVAL) + 1)
    if section.like(COMPBENCH):
        return [*blank, Cell.of(overall, 4), Cell()]
    return [*blank, Cell(), Cell.of(overall)] if section.benchmark in _WISE_COLUMN else []


def ablations(section: Section) -> list[tuple[str, Entry]]:
    """Return the paper's four rows, as far as there are runs: full, without MILR, without image, without text."""
    found: list[tuple[str, Entry]] = []
    if section.reference is not None:
        found.append(("MILR", section.reference))
    found += [("w/o MILR", entry) for entry in section.of_method("one-shot")[:1]]
    for name, setting, value in (
        ("w/o Image", "image_ratio", 0),
        ("w/o Text", "strategy", "no-text"),  # as the authors ran it; the next row reasons before it draws
        ("w/o Text, reasons first", "text_ratio", 0),
    ):
        found += [(name, entry) for entry in section.variants(setting) if entry.settings.get(setting) == value]
    return found


def _rewards(sections: Sequence[Section]) -> list[Table]:
    tables: list[Table] = []
    for number, name, tags, digits, title in (
        (6, "geneval_rewards", GENEVAL, 2, "GenEval by reward"),
        (7, "t2i_compbench_rewards", COMPBENCH, 4, "T2I-CompBench by reward"),
    ):
        columns, rows = read_published(name)
        notes: list[str] = []
        for section in sections:
            if section.like(tags) and by_reward(section):
                notes += _stand_ins(section)
                rows += [
                    Row(shown, tuple(_cells(section, entry, tags, digits)), group=_group(section))
                    for shown, entry in by_reward(section)
                ]
        told = missing("rewards-geneval" if number == 6 else "rewards-compbench")
        tables.append(_table(f"Table {number}: {title}", f"table-{number}", columns, rows, told, *notes))
    return tables


def by_reward(section: Section) -> list[tuple[str, Entry]]:
    """Return the one-shot baseline and the same search under every reward, if there are two rewards or more."""
    found = section.variants("reward", "stop_at")
    if len({entry.manifest.reward for entry in found}) < 2:
        return []
    base = [("Baseline", entry) for entry in section.of_method("one-shot")[:1]]
    return [
        (f"{name} (embedded model)" if entry.embedded else name, entry)
        for name, entry in [*base, *((entry.manifest.reward, entry) for entry in found)]
    ]


def _row(section: Section, entry: Entry, columns: Columns, digits: int) -> Row:
    return Row(section.row_name(entry), tuple(_cells(section, entry, columns, digits)), group=_group(section))


def _cells(section: Section, entry: Entry, columns: Columns, digits: int) -> list[Cell]:
    return [Cell.of(section.in_column(entry, tags), digits) for tags in (*columns.values(), (OVERALL,))]


def _group(section: Section) -> str:
    return f"Ours, measured here: {section.name}"


def _table(title: str, key: str, columns: Sequence[str], rows: Sequence[Row], told: str, *notes: str) -> Table:
    ours = any(row.kind == "ours" for row in rows)
    return Table(
        title, tuple(columns), tuple(rows), (*_NOTES, *dict.fromkeys(notes), *([] if ours else [told])), key=key
    )
