"""Entries and comparisons: joining, pairing, refusals, warnings, and the forms of a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from milr.benchmarks import load_benchmark
from milr.benchmarks.base import Answer
from milr.benchmarks.intervals import estimate_difference
from milr.benchmarks.tables import answers_of, summarise
from milr.cli.main import main
from milr.errors import UsageError
from milr.methods import METHODS
from milr.report.comparison import END, compare, mark, tag_weights
from milr.report.comparison_tables import comparison_tables
from milr.report.controls import find_control, needs_control
from milr.report.entries import read_entries
from milr.report.sections import make_sections
from milr.report.statistics import OVERALL, answers
from milr.report.tables import BOLD_FROM, Cell, Row, Table, write_tables
from milr.rewards.vlm.wise import LEGACY_WEIGHTS
from milr.runs import read_run
from milr.types import Score
from tests.support.report_runs import make_run, make_tasks

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a search, its zero-gradient control, and a pool, with four prompts each."""
    root, tasks = tmp_path_factory.mktemp("runs"), make_tasks(4)
    return {
        "joint": make_run(root / "joint", tasks=tasks),
        "zero": make_run(root / "zero", tasks=tasks, gradient="zero"),
        "pool": make_run(root / "pool", tasks=tasks, method="best-of-n", stop_at=1.0),
    }


def test_an_entry_has_all_values_of_its_runs(runs: dict[str, Path]) -> None:
    (entry,), run = read_entries([runs["joint"]]), read_run(runs["joint"])
    outcomes = entry.outcomes
    assert (entry.label, entry.evaluated, entry.embedded, entry.pooled) == ("milr", True, False, False)
    assert outcomes.prompts == tuple(task.task.key for task in run.tasks)
    for row, task in enumerate(run.tasks):
        many = len(task.images)
        assert outcomes.spent[row, :many].tolist() == list(range(1, many + 1))
        assert np.isinf(outcomes.spent[row, many:]).all() and np.isnan(outcomes.evaluator[row, many:]).all()
        assert outcomes.met[row] == (task.last.finished == "met")
        answer = task.answer.evaluator
        assert isinstance(answer, Score)
        assert entry.answers([float("inf")])[row, 0] == answer.value
    assert entry.drawings == np.mean([task.last.drawings_spent for task in run.tasks])
    assert entry.reward_calls == np.mean([task.last.reward_calls for task in run.tasks])


def test_equal_rewards_are_decided_as_in_the_search(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "parts", tasks=make_tasks(4), reward="parts@1", method="best-of-n")
    (entry,), run = read_entries([folder]), read_run(folder)
    assert any(task.answer != task.images[0] for task in run.tasks)
    found = [task.answer.evaluator for task in run.tasks]
    scores = [one.value for one in found if isinstance(one, Score)]
    outcomes = entry.outcomes
    assert answers(outcomes.spent, outcomes.rank, outcomes.evaluator, [np.inf])[:, 0].tolist() == scores


@pytest.mark.slow
def test_seeds_and_shards_are_joined_and_settings_are_not(tmp_path: Path, runs: dict[str, Path]) -> None:
    tasks = make_tasks(4)
    other = make_run(tmp_path / "seed", tasks=tasks, seed=5)
    first, zero = read_entries([runs["joint"], runs["zero"], other])
    assert len(first.runs) == 2 and len(first.outcomes.prompts) == 8 and set(first.outcomes.seeds) == {0, 5}
    assert (first.label, zero.label) == ("milr", "milr, gradient zero")
    assert [entry.label for entry in read_entries([runs["zero"], runs["joint"]])] == ["milr, gradient zero", "milr"]
    halves = [make_run(tmp_path / f"{i}", tasks=tasks[i::2]) for i in (0, 1)]
    (whole,) = read_entries(halves)
    mean = compare([whole]).scores["milr"][OVERALL][END].value
    assert mean == pytest.approx(compare(read_entries([runs["joint"]])).scores["milr"][OVERALL][END].value)
    with pytest.raises(UsageError, match="under seed 0 is in .* and .*: leave one of the runs out"):
        read_entries([runs["joint"], runs["joint"]])


def test_differences_are_paired_by_prompt(runs: dict[str, Path]) -> None:
    joint, zero = entries = read_entries([runs["joint"], runs["zero"]])
    found = compare(entries)
    ends = [entry.answers([float("inf")])[:, 0] for entry in (joint, zero)]
    by_tag = [float(np.mean((ends[1] - ends[0])[np.array(joint.outcomes.tags) == tag])) for tag in joint.outcomes.tags]
    assert found.differences["milr, gradient zero"][OVERALL][END].value == pytest.approx(np.mean(by_tag))
    first = found.differences["milr, gradient zero"][OVERALL]["1"]
    assert first.value == 0 and first.prompts == 4  # the first image is the same
    assert first.low < -0.3 and first.high > 0.3  # four prompts do not prove this for others
    assert compare(entries, "zero").baseline is zero
    assert compare(entries, str(runs["zero"])).baseline is zero
    turned = compare(entries, "zero").differences["milr"][OVERALL][END]
    assert turned.value == pytest.approx(-found.differences["milr, gradient zero"][OVERALL][END].value)
    with pytest.raises(UsageError, match="unknown baseline 'zeros': did you mean 'zero'"):
        compare(entries, "zeros")
    assert compare(entries, "milr, gradient zero").baseline is zero
    with pytest.raises(UsageError) as refused:
        compare(entries, "milr, gradient zeros")
    assert str(refused.value) == (
        "unknown baseline 'milr, gradient zeros': did you mean 'milr, gradient zero'? "
        "known: joint, milr, 'milr, gradient zero', zero"  # with quotes where a shell needs them
    )


def test_a_baseline_is_found_by_the_name_that_the_tables_show(tmp_path: Path) -> None:
    made = [make_run(tmp_path / name, gradient=name, tasks=make_tasks(2), embedded=True) for name in ("reward", "zero")]
    found = compare(read_entries(made), "milr, gradient zero (embedded model)")
    assert found.baseline.runs[0].folder == made[1] and mark(found.baseline) == "milr, gradient zero (embedded model)"


def test_a_pool_gives_every_best_of_n(runs: dict[str, Path]) -> None:
    (pool,) = read_entries([runs["pool"]])
    assert pool.pooled
    found = pool.answers([1, 4, 5, float("inf")])
    np.testing.assert_allclose(found[:, 0], pool.outcomes.evaluator.mean(axis=1))  # best of one: any of them
    best = pool.outcomes.evaluator[np.arange(4), pool.outcomes.reward.argmax(axis=1)]
    np.testing.assert_allclose(found[:, 1], best)
    np.testing.assert_allclose(found[:, 3], best)
    assert np.isnan(found[:, 2]).all()


def test_values_beyond_a_runs_budget_are_unknown(tmp_path: Path) -> None:
    short = make_run(tmp_path / "short", tasks=make_tasks(2), steps=1, stop_at=1.0)
    (entry,) = read_entries([short])
    found = entry.answers([1, 2, 4])
    assert not np.isnan(found[:, :2]).any() and np.isnan(found[:, 2]).all()
    stopped = make_run(tmp_path / "stopped", tasks=make_tasks(2), stop_at=0.0)
    (entry,) = read_entries([stopped])
    assert not np.isnan(entry.answers([1, 64])).any()  # all met: each keeps its answer


@pytest.mark.slow
def test_different_runs_are_refused_and_unusual_ones_flagged(tmp_path: Path, runs: dict[str, Path]) -> None:
    tasks = make_tasks(4)

    def beside(name: str, **settings: object) -> tuple[str, ...]:
        return compare(read_entries([runs["joint"], make_run(tmp_path / name, **{"tasks": tasks, **settings})])).flags  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="different evaluators"):
        beside("evaluator", evaluator="other@1")
    with pytest.raises(UsageError, match="different benchmarks"):
        beside("benchmark", benchmark="geneval")
    with pytest.raises(UsageError, match="no prompt in common"):
        beside("prompts", tasks=make_tasks(8)[4:], gradient="zero")
    assert any("its seeds are not those of milr" in flag for flag in beside("seed", gradient="zero", seed=9))
    assert any("its reward is contrast@1, that of milr is" in flag for flag in beside("reward", reward="contrast@1"))
    said = "differences are over the 2 prompts that it (2) and milr (4) both have"
    assert any(said in flag for flag in beside("few", tasks=tasks[:2], l2=1))
    (alone,) = read_entries([make_run(tmp_path / "alone", tasks=tasks, evaluator=None)])
    assert any("scored by its own reward bright@1 alone" in flag for flag in compare([alone]).flags)
    assert any(
        "the evaluator is the reward even@1" in flag for flag in beside("oracle", reward="even@1", gradient="zero")
    )


def test_a_search_without_its_control_is_not_a_result(runs: dict[str, Path]) -> None:
    joint, zero, pool = read_entries(runs.values())
    assert needs_control(joint) and not needs_control(zero) and not needs_control(pool)
    assert find_control(joint, [pool, zero]) is zero and find_control(joint, [pool]) is None
    assert any(flag.startswith("not a result") and flag.endswith(": milr") for flag in compare([joint, pool]).flags)
    assert not any("not a result" in flag for flag in compare([joint, zero, pool]).flags)
    titles = [table.title.partition(":")[0] for table in comparison_tables(compare([joint, zero, pool]))]
    assert "What the latents add, paired" in titles
    assert "What the latents add, paired" not in [
        table.title.partition(":")[0] for table in comparison_tables(compare([joint, pool]))
    ]


@pytest.mark.slow
def test_one_zero_gradient_search_is_the_control_of_all_searches_that_would_draw_the_same(tmp_path: Path) -> None:
    tasks = make_tasks(2)
    settings: dict[str, dict[str, object]] = {"joint": {}, "zero": {"gradient": "zero"}, "alt": {"strategy": "alt"}}
    settings |= {"text": {"text_ratio": 0.5}, "fixed": {"noise": "fixed"}, "image": {"image_ratio": 0.0}}
    settings |= {"still": {"image_ratio": 0.0, "gradient": "zero"}, "steer": {"strategy": "steer"}}
    settings |= {"both": {"strategy": "steer-both"}}
    for embedded in (True, False):
        root = tmp_path / str(embedded)
        made = [make_run(root / name, tasks=tasks, embedded=embedded, **given) for name, given in settings.items()]  # type: ignore[arg-type]
        joint, zero, alt, text, fixed, image, still, steer, both = entries = read_entries(made)
        assert find_control(joint, entries) is zero
        shared = zero if embedded else None  # another model's text may be sampled again if it may move
        assert (find_control(alt, entries), find_control(text, entries)) == (shared, shared)
        assert find_control(image, entries) is still
        assert find_control(steer, entries) is (still if embedded else None)  # it has no image latents
        assert find_control(both, entries) is (still if embedded else None)  # offsets of zero change no image
        assert find_control(fixed, entries) is None
        assert find_control(alt, entries, "random") is None


@pytest.mark.slow
def test_every_method_can_be_compared(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, tasks=make_tasks(2), method=name, stop_at=1.0) for name in METHODS]
    entries = read_entries(folders)
    assert [entry.label for entry in entries] == list(METHODS)
    for entry in entries:
        first, most, end = entry.answers([1, entry.outcomes.limit, float("inf")]).T
        assert not np.isnan(most).any() and (most == end).all()
        assert entry.outcomes.limit in (1, 4) and entry.drawings <= 4  # K is 3
        assert entry.pooled == (entry.label in ("best-of-n", "best-of-n-sampled"))
        assert not np.isnan(first).any() or entry.label in ("grid-prune", "parm")
    assert len(comparison_tables(compare(entries))[0].rows) == len(METHODS)


def test_tags_are_pooled_as_the_benchmark_does() -> None:
    weights = tag_weights("geneval", [])
    assert weights is not None and set(weights.values()) == {1 / 6} and "color_attr" in weights
    assert tag_weights("somebody's", ["a", "b"]) == {"a": 1, "b": 1}
    assert tag_weights("wise-legacy", ["Cultural"]) is LEGACY_WEIGHTS
    assert tag_weights(None, ["a"]) is None


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 2])
def test_the_same_number_has_the_same_interval_in_every_command(
    images: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = make_tasks(20)
    folders = [make_run(tmp_path / f"run{seed}", tasks=tasks, seed=seed) for seed in range(images)]
    folders.append(make_run(tmp_path / "zero", tasks=tasks, gradient="zero"))
    runs = [read_run(folder) for folder in folders]
    answered = [
        Answer(one.task, one.place, image, one.value)
        for image, run in enumerate(runs[:images])
        for one in answers_of(run)
    ]
    printed = summarise(load_benchmark("icons"), answered)
    assert printed.overall is not None
    compared = compare(read_entries(folders)).scores["milr"]
    section = make_sections(runs)[0]
    assert section.reference is not None
    for column in (*printed.columns, replace(printed.overall, name=OVERALL)):
        expected = (column.mean, column.low, column.high, column.prompts)
        for found in (compared[column.name][END], section.at_end(section.reference, column.name)):
            assert found is not None
            assert (found.value, found.low, found.high, found.prompts) == pytest.approx(expected, abs=1e-12)
    for command in (["compare", *map(str, folders)], ["report", *map(str, folders), "--format", "text"]):
        assert main(command) == 0
        shown = capsys.readouterr().out
        assert printed.overall.write(2).rpartition(",")[0] in shown


def test_every_interval_has_its_number_of_prompts(runs: dict[str, Path]) -> None:
    tables = comparison_tables(compare(read_entries(runs.values())))
    for table in tables:
        if table.key != "spent":
            assert table.heads[0] == "prompts" and table.cells(table.rows[0])[0].text == "4"
    tags = next(table for table in tables if table.key == "tags")
    first, *_, overall = tags.cells(tags.rows[0])[1:]
    assert first.text.endswith(" n=1") and first.interval and " n=" not in overall.text
    assert not any(cell.clear for table in tables for row in table.rows for cell in row.cells)


def test_a_difference_is_clear_from_thirty_prompts_on() -> None:
    assert BOLD_FROM == 30
    for value, prompts, clear in ((1.0, 29, False), (1.0, 30, True), (0.0, 30, False), (-0.5, 40, True)):
        found = estimate_difference([value] * prompts)
        assert Cell.of(found, signed=True).clear == clear
        assert not Cell.of(found).clear


TABLE = Table(
    "A | B",
    ("x", "y|z"),
    (Row("mine", (Cell(0.125, -0.004, 0.25, 2, True), Cell("words, more")), group="g"), Row("none", (Cell(), Cell()))),
    ("a note",),
    key="t",
)


def test_a_table_has_four_forms() -> None:
    assert write_tables([TABLE], "text").splitlines() == [
        "A | B",
        "      x                     y|z",
        "g",
        "mine  +0.12 [+0.00, +0.25]  words, more",
        "none  –                     –",
        "a note",
    ]
    assert "| mine | +0.12 [+0.00, +0.25] | words, more |" in write_tables([TABLE], "md")
    assert "y\\|z" in write_tables([TABLE], "md") and "| *g* | | |" in write_tables([TABLE], "md")
    lines = list(csv.DictReader(io.StringIO(write_tables([TABLE], "csv"))))
    assert len(lines) == 4 and lines[0]["value"] == "0.125" and lines[1]["value"] == "words, more"
    assert lines[2] == {**lines[2], "row": "none", "value": "", "low": ""}
    (data,) = json.loads(write_tables([TABLE], "json"))
    assert data["rows"][0]["cells"][0] == {"value": 0.125, "low": -0.004, "high": 0.25, "prompts": None}
    with pytest.raises(UsageError, match="unknown format 'pdf'"):
        write_tables([TABLE], "pdf")


def test_the_command_prints_and_writes(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(runs["joint"]), str(runs["zero"])]
    assert main(["compare", *folders]) == 0
    assert "Paired differences to milr: icons, evaluated by even@1" in capsys.readouterr().out
    assert (
        main(["compare", *folders, "--baseline", "zero", "--format", "json", "--out", str(tmp_path / "a/t.json")]) == 0
    )
    keys = [table["key"] for table in json.loads((tmp_path / "a" / "t.json").read_text())]
    assert keys == ["scores", "spent", "differences", "latents", "tags", "wall-clock"]
    assert main(["compare", str(tmp_path)]) == 2
    assert main(["compare", *folders, "--format", "pdf"]) == 2
