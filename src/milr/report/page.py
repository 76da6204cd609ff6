"""A page in one file, with tables, figures and images; and the same tables without a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from milr._version import __version__
from milr.errors import UsageError
from milr.report.comparison_tables import comparison_tables
from milr.report.entries import Entry
from milr.report.failures import diagnose_all, failures_table
from milr.report.figures import Figure, make_figures
from milr.report.gallery import Exhibit, choose_exhibits, show_failures
from milr.report.paper import paper_tables
from milr.report.plots import INSTALL, draw_figure, need_matplotlib
from milr.report.sections import Section, finished, make_sections
from milr.report.summary import summarise
from milr.report.tables import BOLD_FROM, Cell, Row, Table
from milr.runs import Run

_TEMPLATES = Path(__file__).parent / "templates"


def report_tables(runs: Sequence[Run]) -> list[Table]:
    """Return all tables of a report: the paper's, comparisons, figures as tables, failures, and the runs."""
    sections = make_sections(runs)
    compared = [table for section in sections for table in comparison_tables(section.comparison)]
    whole = finished(sections)
    figures = [figure.as_table() for figure in make_figures([section for section in whole if not section.own])]
    failed = [failures_table(section, diagnose_all(section)) for section in sections]
    shown = [*compared, *paper_tables(whole), *figures, *failed, runs_table(sections)]
    kept, left = leave_empty_out(shown)
    return [*_summary_table(sections), *kept[:-1], replace(kept[-1], notes=(*kept[-1].notes, *left))]


def leave_empty_out(tables: Sequence[Table]) -> tuple[list[Table], tuple[str, ...]]:
    """Return the tables with runs of ours, and a line that names the commands for the others."""
    told = [table for table in tables if table.notes and table.notes[-1].startswith("no run given")]
    left = [f"{table.title.partition(':')[0]} ({table.notes[-1].partition(': ')[2]})" for table in told]
    line = (f"Left out, no run given: {', '.join(dict.fromkeys(left))}",) if left else ()
    return [table for table in tables if table not in told], line


def _summary_table(sections: Sequence[Section]) -> list[Table]:
    """Return the sentences of the summary as a table without rows; none if there is nothing to say."""
    said = tuple(line for section in sections if (line := summarise(section)))
    return [Table("Summary by milr", (), (), said, key="summary")] if said else []


def draw_page(runs: Sequence[Run]) -> str:
    """Return the report as HTML.

    Raises:
        UsageError: matplotlib or jinja2 is missing.
    """
    need_matplotlib()
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise UsageError(f"an HTML report is filled in by jinja2: {INSTALL}, or --format md") from None
    room: Any = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = make_sections(runs)
    whole = finished(sections)
    paper, no_paper = leave_empty_out(paper_tables(whole))
    drawn = make_figures([section for section in whole if not section.own])
    figures, no_figures = leave_empty_out([figure.as_table() for figure in drawn])
    kept = {figure.key for figure in figures}
    page: str = room.get_template("page.html.jinja").render(
        version=__version__,
        bold_from=BOLD_FROM,
        sections=sections,
        embedded=any(entry.embedded for section in sections for entry in section.entries),
        summary=[table.notes for table in _summary_table(sections)],
        paper=paper,
        left_out=[*no_paper, *no_figures],
        compared=[(section, comparison_tables(section.comparison)) for section in sections],
        figures=[(figure, _draw(figure)) for figure in drawn if figure.key in kept],
        failures=[_failures(section) for section in sections],
        gallery=[(section, choose_exhibits(section)) for section in sections],
        runs=runs_table(sections),
    )
    return page


def _failures(section: Section) -> tuple[Table, list[tuple[str, list[Exhibit]]]]:
    found = diagnose_all(section)
    return failures_table(section, found), show_failures(section, found)


def _draw(figure: Figure) -> str:
    """Return the figure's SVG; an empty string if there is no run to draw."""
    return draw_figure(figure) if figure.series and figure.positions else ""


def runs_table(sections: Sequence[Section]) -> Table:
    """Return the table of runs: settings, machine, and cost of each."""
    columns = ("folder", "status", "model", "reward", "evaluator", "seeds", "K", "searches", "drawings", "tokens")
    columns += ("reward calls", "wall time (s)", "evaluator's time (s)", "VLM calls", "machine", "versions")
    rows = [
        Row(entry.label, tuple(_run_cells(run)), group=section.name)
        for section in sections
        for entry in section.entries
        for run in _in_order(entry)
    ]
    return Table("Runs", columns, tuple(rows), key="runs")


def _in_order(entry: Entry) -> list[Run]:
    return sorted(entry.runs, key=lambda run: (run.manifest.settings.run.seed, str(run.folder)))


def _run_cells(run: Run) -> list[Cell]:
    manifest = run.manifest
    seeds = sorted({manifest.settings.run.seed + task.image for task in run.tasks})
    calls = manifest.vlm_usage.get("calls") if manifest.vlm_usage else None
    words = [
        str(run.folder),
        manifest.status,
        manifest.model,
        manifest.reward,
        manifest.evaluator,
        ", ".join(map(str, seeds)),
    ]
    steps: int | None = manifest.settings.get("steps")
    numbers = [float(len(run.tasks)), float(manifest.drawings), float(manifest.tokens), float(manifest.reward_calls)]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return [
        *map(Cell, words),
        Cell(None if steps is None else str(steps)),
        *(Cell(number, digits=0) for number in numbers),
        Cell(manifest.seconds, digits=0),
        Cell(manifest.evaluator_seconds, digits=0),
        Cell(None if calls is None else str(calls)),
        Cell(manifest.platform),
        Cell(versions),
    ]
