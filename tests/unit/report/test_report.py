"""The report: the paper's tables and figures with our runs, failures, and one page that needs no other file."""

from __future__ import annotations

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from milr.cli.main import main
from milr.report.failures import KINDS, diagnose, entropy, measure_image, measure_text
from milr.report.figures import Figure, make_figures
from milr.report.page import draw_page, report_tables
from milr.report.paper import paper_tables
from milr.report.published import read_published
from milr.report.sections import Section, finished, make_sections
from milr.report.statistics import OVERALL
from milr.report.tables import Table
from milr.runs import Run, read_run
from milr.types import Score, Task
from tests.support.report_runs import CATEGORIES, make_run, make_tasks


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Return runs for every table and figure: icons with several settings, T2I-CompBench and riddles with one."""
    root, tasks = tmp_path_factory.mktemp("runs"), make_tasks(6)
    settings: dict[str, dict[str, object]] = {
        "half": {"text_ratio": 0.5},
        "joint": {},
        "zero": {"gradient": "zero"},
        "one": {"method": "one-shot"},
        "no-image": {"image_ratio": 0.0},
        "no-text": {"text_ratio": 0.0},
        "all-image": {"image_ratio": 1.0},
        "l2": {"l2": 0.5},
        "contrast": {"reward": "contrast@1"},
        "categories": {"benchmark": "t2i-compbench", "tasks": make_tasks(6, CATEGORIES)},
        "riddles": {"benchmark": "riddles", "tasks": make_tasks(2, ["cultural wording"]), "embedded": True},
    }
    return [
        read_run(make_run(root / name, **{"tasks": tasks, "steps": 2, **given}))  # type: ignore[arg-type]
        for name, given in settings.items()
    ]


@pytest.fixture(scope="module")
def sections(runs: list[Run]) -> list[Section]:
    return make_sections(runs)


def ours(table: Table) -> list[str]:
    return [row.name for row in table.rows if row.kind == "ours"]


def by_key(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.key: figure for figure in figures}


def test_the_published_tables_are_the_papers() -> None:
    columns, rows = read_published("geneval")
    assert (columns[0], columns[-1], len(rows)) == ("Single Object", "Overall", 22)
    last = rows[-1]
    assert (last.name, last.group, last.cells[-1].text) == ("Janus-Pro-7B+MILR", "Test-time Reasoning Models", "0.95")
    columns, rows = read_published("t2i_compbench_wise")
    assert (columns[-1], len(rows)) == ("WISE", 16)
    assert rows[2].cells[-1].value is None and rows[-1].cells[0].text == "0.8508"
    assert [row.name for row in read_published("ablation")[1]][1:] == ["w/o MILR", "w/o Image", "w/o Text"]
    assert [row.cells[-1].text for row in read_published("geneval_rewards")[1]][-2:] == ["0.87", "0.95"]
    assert len(read_published("t2i_compbench_rewards")[1]) == 6


def test_published_rows_have_their_number_of_prompts_and_no_interval() -> None:
    tables = {table.key: table for table in paper_tables([])}
    shown = {key: table.cells(table.rows[0])[0].text for key, table in tables.items()}
    assert shown == {
        "table-1": "553",
        "table-2": "1,800 + 1,000",
        "table-3": "553 + 1,800 + 1,000",
        "table-6": "553",
        "table-7": "1,800",
    }
    assert tables["table-2"].cells(tables["table-2"].rows[2])[0].text == "1,800"  # DALL-E 3 has no number for WISE
    counts = [cell.prompts for cell in tables["table-1"].rows[0].cells]
    assert counts == [80, 99, 80, 94, 100, 100, 553]
    assert not any(cell.beside for table in tables.values() for row in table.rows for cell in table.cells(row))
    figure = by_key(make_figures([]))["figure-6"]
    assert figure.as_table().rows[0].cells[0].text == "0.780" and figure.as_table().rows[0].prompts == 553


def test_only_the_papers_edition_of_wise_fills_its_column(tmp_path: Path) -> None:
    tasks = [Task(prompt="x", tag="Time"), Task(prompt="y", tag="Space")]
    runs = [
        make_run(tmp_path / name, method="one-shot", tasks=tasks, benchmark=name, steps=1)
        for name in ("wise", "wise-legacy")
    ]
    table = next(one for one in paper_tables(make_sections(list(map(read_run, runs)))) if one.key == "table-2")
    groups = [row.group for row in table.rows if row.kind == "ours"]
    assert groups == ["Ours, measured here: wise-legacy, evaluated by even@1"]
    assert any("published numbers are of its set of 2025, wise-legacy" in note for note in table.notes)


@pytest.mark.slow
def test_sections_depend_on_the_runs_contents(sections: list[Section]) -> None:
    icons, compbench, riddles = sections
    assert (icons.name, len(icons.entries)) == ("icons, evaluated by even@1", 9)
    assert icons.reference is not None and icons.reference.runs[0].folder.name == "joint"
    assert icons.entries[0] is icons.reference
    assert {entry.runs[0].folder.name for entry in icons.variants("image_ratio")} == {"joint", "no-image", "all-image"}
    assert (compbench.benchmark, riddles.benchmark) == ("t2i-compbench", "riddles")


@pytest.mark.slow
def test_our_rows_are_in_the_papers_tables(sections: list[Section]) -> None:
    tables = {table.key: table for table in paper_tables(sections)}
    assert list(tables) == ["table-1", "table-2", "table-3", "table-6", "table-7"]
    assert ours(tables["table-1"]) == ["fake + milr", "fake + one-shot"]
    assert ours(tables["table-2"]) == ["fake + milr", "fake + milr (embedded model)"]
    names = [name.partition(": ")[2] for name in ours(tables["table-3"])]
    assert names == ["MILR", "w/o MILR", "w/o Image", "w/o Text, reasons first", "MILR", "MILR"]
    assert ours(tables["table-6"]) == ["Baseline", "bright@1", "contrast@1"]
    assert ours(tables["table-7"]) == [] and "no run given: milr ablate rewards-compbench" in tables["table-7"].notes
    icons = sections[0]
    row = next(row for row in tables["table-1"].rows if row.name == "fake + one-shot")
    entry = icons.of_method("one-shot")[0]
    scores = [one.evaluator for task in entry.runs[0].tasks for one in task.images]
    values = [score.value for score in scores if isinstance(score, Score)]
    assert [cell.value for cell in row.cells] == pytest.approx([*values, np.mean(values)])
    assert any("icons has prompts of its own" in note for note in tables["table-1"].notes)
    assert any("riddles stands in WISE's column" in note for note in tables["table-2"].notes)
    assert {len(row.cells) for table in tables.values() for row in table.rows} == {7, 8, 9}


def test_without_runs_the_tables_say_which_command_makes_them() -> None:
    assert all(table.notes[-1].startswith("no run given: milr ablate") for table in paper_tables([]))
    assert all(figure.told.startswith("no run given: milr ablate") for figure in make_figures([]))


def test_figures_are_computed_from_the_runs(sections: list[Section]) -> None:
    figures, icons = by_key(make_figures(sections)), sections[0]
    assert all(not figure.told for figure in figures.values())
    steps = figures["figure-4"]
    assert steps.positions == ("0", "1", "2") and len(steps.series) == 3
    assert icons.reference is not None
    at_end = icons.at_end(icons.reference, OVERALL)
    last = steps.series[0].estimates[-1]
    assert last is not None and at_end is not None and last.value == pytest.approx(at_end.value)
    assert figures["figure-5-text"].positions == ("0", "0.2", "0.5")
    assert figures["figure-5-image"].positions == ("0", "0.1", "1")
    assert figures["figure-5-counts"].positions == ("2", "25")  # of 25 tokens, a tenth and all
    assert figures["figure-6"].positions[-3:] == ("OracleReward", "bright@1", "contrast@1")
    assert len(figures["l2"].series) == 2 and figures["l2"].positions == ("0", "0.5")
    table = figures["figure-5-text"].as_table()
    assert table.columns == ("text_ratio (lambda_t) 0", "text_ratio (lambda_t) 0.2", "text_ratio (lambda_t) 0.5")


@pytest.mark.slow
def test_curves_show_the_methods_that_lead_and_no_ablation(tmp_path: Path) -> None:
    """The zero-gradient control is always shown with its search, after any number of ablations."""
    settings: list[dict[str, object]] = [
        {},
        {"gradient": "zero"},
        *({"text_ratio": ratio / 10} for ratio in range(3, 9)),
    ]
    settings += [{"method": name} for name in ("one-shot", "best-of-n", "best-of-n-sampled", "parm", "consensus")]
    settings += [{"strategy": name} for name in ("alt", "t2v", "steer")]
    made = [make_run(tmp_path / str(i), tasks=make_tasks(6), steps=1, **one) for i, one in enumerate(settings)]  # type: ignore[arg-type]
    (section,) = make_sections([read_run(folder) for folder in made])
    figure = by_key(make_figures([section]))["curves-icons--evaluated-by-even-1"]
    labels = [series.label for series in figure.series]
    steer = "milr, strategy steer, text ratio 1, learning rate 0.015"  # the strategy has its own defaults
    methods = ["milr, strategy alt", "milr, strategy t2v", steer]
    methods += ["best-of-n", "best-of-n-sampled", "parm", "consensus"]  # no one-shot: a single drawing has no curve
    areas = {name: section.comparison.scores[name][OVERALL]["area"].value for name in methods}
    assert labels[:2] == ["milr", "milr, gradient zero"] and len(labels) == 8
    assert [areas[name] for name in labels[2:]] == sorted(areas.values(), reverse=True)[:6]
    assert figure.notes[0].startswith(f"The methods that lead by area; {len(settings) - 8} more entries")


def test_a_sweep_of_one_value_is_not_a_line(tmp_path: Path) -> None:
    made = [make_run(tmp_path / str(ratio), tasks=make_tasks(6), steps=1, image_ratio=ratio) for ratio in (0.0, 0.1)]
    figures = by_key(make_figures(make_sections([read_run(folder) for folder in made])))
    assert figures["figure-5-image"].positions == ("0", "0.1")
    assert not figures["figure-5-counts"].series and figures["figure-5-counts"].told.startswith("no run given")


def test_an_unfinished_run_is_in_no_figure_and_no_table_of_the_paper(tmp_path: Path) -> None:
    """Prompts that are solved at once finish first, so an unfinished run looks too good."""
    made = {
        ratio: make_run(tmp_path / str(ratio), tasks=make_tasks(6), steps=1, text_ratio=ratio) for ratio in (0.2, 0.4)
    }
    (tmp_path / "0.4" / "run.json").write_text(
        (tmp_path / "0.4" / "run.json").read_text().replace('"finished"', '"running"', 1)
    )
    sections = make_sections([read_run(folder) for folder in made.values()])
    assert len(sections[0].entries) == 2  # still compared, with a warning
    assert any("is not finished" in flag for flag in sections[0].comparison.flags)
    whole = finished(sections)
    assert [entry.settings.get("text_ratio") for entry in whole[0].entries] == [0.2]
    assert finished(whole)[0] is whole[0]
    tables = {table.key: table for table in report_tables([read_run(folder) for folder in made.values()])}
    assert ours(tables["table-1"]) == ["fake + milr"]
    assert "figure-5-text" not in tables
    assert "Figure 5 (milr ablate text-ratio)" in tables["runs"].notes[-1]


@pytest.mark.slow
def test_a_sweep_under_another_reward_has_its_figure(tmp_path: Path) -> None:
    """The L2 weight is varied under a weaker reward than the rest, as in a report of the whole matrix."""
    settings: list[dict[str, object]] = [{}, {"gradient": "zero"}, {"strategy": "alt"}, {"reward": "contrast@1"}]
    settings += [{"reward": "contrast@1", "l2": weight} for weight in (0.5, 1.0)]
    made = [make_run(tmp_path / str(i), tasks=make_tasks(6), steps=1, **one) for i, one in enumerate(settings)]  # type: ignore[arg-type]
    sections = make_sections([read_run(folder) for folder in made])
    assert sections[0].reference is not None and sections[0].reference.runs[0].folder.name == "0"
    figure = by_key(make_figures(sections))["l2"]
    assert figure.positions == ("0", "0.5", "1") and not figure.told
    assert [series.label.partition(": ")[2] for series in figure.series] == ["reward contrast@1", "evaluator even@1"]
    assert all(None not in series.estimates for series in figure.series)


@pytest.mark.slow
def test_our_strategies_are_listed_among_the_methods_with_their_own_settings(tmp_path: Path) -> None:
    settings: list[dict[str, object]] = [{}, {"gradient": "zero"}, {"text_ratio": 0.5}]
    settings += [{"strategy": "steer", "text_ratio": 1.0, "learning_rate": 0.01}]
    made = [make_run(tmp_path / str(i), tasks=make_tasks(6), steps=1, **one) for i, one in enumerate(settings)]  # type: ignore[arg-type]
    table = paper_tables(make_sections([read_run(folder) for folder in made]))[0]
    assert [name.partition(", strategy ")[2][:5] for name in ours(table)] == ["", "steer"]


def test_measures_of_text_and_image_equal_values_computed_by_hand() -> None:
    assert entropy("aabb") == 1 and entropy("aaaa") == 0 and entropy("") == 0
    collapsed = measure_text("beige glove beige glove beige glove")
    assert (collapsed.words, collapsed.repetition, collapsed.entropy) == (6, pytest.approx(0.6), 1)
    assert measure_text("") == measure_text(" ") and measure_text("one").repetition == 0
    grey = np.array([[0, 255], [0, 255]], dtype=np.uint8)
    found = measure_image([1, 1, 1, 2], grey)
    assert (found.repetition, found.variance) == (pytest.approx(2 / 3), 0.25)
    assert found.entropy == pytest.approx(0.811, abs=1e-3)


def test_hacking_is_a_reward_far_above_its_evaluator(tmp_path: Path) -> None:
    entries = make_sections([read_run(make_run(tmp_path / "run", reward="contrast@1", tasks=make_tasks(6)))])[0].entries
    for one in diagnose(entries[0]):
        reward, evaluator = one.task.answer.reward, one.task.answer.evaluator
        assert isinstance(reward, Score) and isinstance(evaluator, Score)
        assert one.gap[1] == pytest.approx(reward.value - evaluator.value)
        assert (KINDS[2] in one.failures) == (reward.value - evaluator.value > 0.5)


class Page(HTMLParser):
    """A parser that collects a page's references."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.images += [found] if tag == "img" else []


@pytest.mark.slow
def test_the_page_needs_no_other_file(runs: list[Run]) -> None:
    pytest.importorskip("matplotlib", reason='the page\'s figures need pip install "milr[report]"')
    text = draw_page(runs)
    page = Page(text)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not set(page.tags) & {"script", "iframe", "object", "embed"} and "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert len(page.images) >= 12
    for image in page.images:
        head, _, data = (image["src"] or "").partition(",")
        assert head == "data:image/png;base64" and base64.b64decode(data).startswith(b"\x89PNG") and image["alt"]
    assert page.tags.count("svg") == len(make_figures(make_sections(runs)))
    assert "(embedded model)" in text and "prefers-color-scheme: dark" in text
    for number in (1, 2, 3, 6):
        assert f"Table {number}:" in text
    assert "Table 7:" not in text and "Table 7 (milr ablate rewards-compbench)" in text
    assert text.index("Our runs, compared</h2>") < text.index("Table 1:")
    assert text == draw_page(runs)  # nothing in it depends on time or chance


@pytest.mark.slow
def test_prompts_cannot_write_into_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason='the page\'s figures need pip install "milr[report]"')
    tasks = [task.model_copy(update={"prompt": "<script>alert(1)</script> & co"}) for task in make_tasks(1)]
    text = draw_page([read_run(make_run(tmp_path / "run", tasks=tasks))])
    assert "<script" not in text and "&lt;script&gt;" in text


@pytest.mark.slow
def test_the_command_writes_a_page_or_tables(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(run.folder) for run in runs]
    assert main(["report", *folders, "--format", "json"]) == 0
    keys = [table["key"] for table in json.loads(capsys.readouterr().out)]
    papers = [key for key in keys if key.startswith("table-")]
    assert papers == ["table-1", "table-2", "table-3", "table-6"] and keys[-1] == "runs"  # no run fills Table 7
    assert keys.index("scores") < keys.index("table-1")  # own measurements come first
    assert main(["report", *folders]) == 2
    assert "--out report.html" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", *folders, "--out", str(tmp_path / "page.html")]) == 2
    assert 'pip install "milr[report]"' in capsys.readouterr().err and not (tmp_path / "page.html").exists()
    assert main(["report", *folders, "--out", str(tmp_path / "tables.md"), "--format", "md"]) == 0  # leaves it out
    assert "## Table 1: GenEval" in (tmp_path / "tables.md").read_text()


def test_a_run_without_a_finished_task_is_left_out_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, begun = make_run(tmp_path / "done", tasks=make_tasks(2), steps=0), make_run(tmp_path / "begun", tasks=[])
    for command in (["compare"], ["report", "--format", "md"]):
        assert main([*command, str(done), str(begun)]) == 0
        captured = capsys.readouterr()
        assert f"left out: {begun} has no finished task yet" in captured.err
        assert main([*command, str(begun)]) == 2
        assert f"{begun} has no finished task yet: wait" in capsys.readouterr().err


def test_every_number_of_the_page_is_in_the_tables(runs: list[Run]) -> None:
    tables = report_tables(runs)
    folders = next(table for table in tables if table.key == "runs")
    assert {row.cells[0].value for row in folders.rows} == {str(run.folder) for run in runs}
    assert sum(table.key == "scores" for table in tables) == 3
