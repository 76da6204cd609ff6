"""Benchmarks: their lists, their aggregation on hand-made cases, the tasks of a run."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.benchmarks import BENCHMARKS, load_benchmark
from milr.benchmarks.base import Answer, Benchmark
from milr.benchmarks.intervals import wilson
from milr.benchmarks.layouts.geneval import write_metadata
from milr.benchmarks.selection import select
from milr.benchmarks.tables import summarise
from milr.errors import UsageError
from milr.rewards.geneval.rules import apply_rules
from milr.tasks import OBJECT_NAMES, check_task, parse_prompt, read_tasks
from milr.types import Task
from training import benchmarks as makers
from training.prompt_lists import RIDDLES_FILE, read_forbidden, read_geneval_hashes, request_hash

FOLDERS = {
    "geneval": "geneval",
    "t2i-compbench": "t2i_compbench",
    "wise-legacy": "wise/legacy",
    "wise": "wise/verified",
}
OURS = [name for name in BENCHMARKS if name not in {*FOLDERS, "geneval2", "t2i-corebench"}]


def answers(tag: str, values: Sequence[float | None], images: int = 1, first: int = 0) -> list[Answer]:
    """Return answers of one tag, with all images of each prompt."""
    return [
        Answer(Task(prompt=f"{tag} {first + i // images}", tag=tag), first + i // images, i % images, value)
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_published_lists_are_read_whole_and_in_order(name: str, shared_data: Path) -> None:
    benchmark = load_benchmark(name)
    tasks = benchmark.read(shared_data / FOLDERS[name])
    assert Counter(task.tag for task in tasks) == benchmark.columns
    assert (
        len({task.key for task in tasks}) == benchmark.prompts
    )  # a task's folder and random streams depend on its key


def test_the_published_lists_are_numbered_as_their_scorers_do(shared_data: Path) -> None:
    prompts = (shared_data / "geneval" / "generation_prompts.txt").read_text().splitlines()
    assert [task.prompt for task in load_benchmark("geneval").read(shared_data / "geneval")] == prompts
    wise = load_benchmark("wise-legacy").read(shared_data / "wise/legacy")
    listed = json.loads((shared_data / "wise/legacy/spatio-temporal_reasoning.json").read_text())
    for prompt in (listed[0], listed[-1]):
        task = wise[prompt["prompt_id"] - 1]
        assert (task.prompt, task.explanation) == (prompt["Prompt"], prompt["Explanation"])
    assert [wise[i - 1].tag for i in (400, 401, 567, 568, 700, 701)] == [
        *("Cultural", "Time", "Time", "Space", "Space", "Biology"),
    ]


@pytest.mark.parametrize("name", OURS)
def test_our_lists_are_complete_and_can_be_scored(name: str) -> None:
    benchmark = load_benchmark(name)
    tasks = benchmark.read(None)
    assert Counter(task.tag for task in tasks) == benchmark.columns
    assert len({task.key for task in tasks}) == benchmark.prompts
    for task in tasks:
        check_task(task)
        if name != "riddles":
            read = parse_prompt(task.prompt)
            assert (read.include, read.exclude) == (task.include, task.exclude)


def test_our_lists_are_what_their_program_makes(tmp_path: Path) -> None:
    makers.write_lists(tmp_path, tmp_path / "hashes.txt")
    for path in makers.ASSETS.glob("*.jsonl"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "hashes.txt").read_bytes() == makers.BENCHMARK_HASHES_FILE.read_bytes()


def test_our_lists_share_no_prompt_with_geneval_and_no_request_with_training(shared_data: Path) -> None:
    genevals = {task.prompt for task in read_tasks(shared_data / "geneval" / "evaluation_metadata.jsonl")}
    asked: list[str] = []
    for name in ("icons", "icons-hard", "icons-compbench"):
        tasks = load_benchmark(name).read(None)
        assert not genevals & {task.prompt for task in tasks}
        asked += [request_hash(task) for task in tasks if task.tag != "single_object"]
    assert len(set(asked)) == len(asked)
    assert not set(asked) & read_geneval_hashes()
    assert set(asked) <= read_forbidden()


def test_every_object_has_riddles_that_do_not_name_it_and_are_not_in_training() -> None:
    with RIDDLES_FILE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    splits = {name: {row["split"] for row in rows if row["object"] == name} for name in OBJECT_NAMES}
    assert set(map(frozenset, splits.values())) == {frozenset({"train", "wording"}), frozenset({"fact"})}
    assert sum(split == {"fact"} for split in splits.values()) == 20
    assert min(Counter(row["object"] for row in rows).values()) >= 3
    assert len({row["text"] for row in rows}) == len(rows)
    for row in rows:
        words = row["text"].lower().replace(",", " ").split()
        assert not {w for name in row["object"].split() for w in (name, f"{name}s")} & set(words), row
    told = {row["text"] for row in rows if row["split"] == "train"}
    assert not told & {task.prompt for task in load_benchmark("riddles").read(None)}


def test_a_colored_count_is_exact_by_the_counting_threshold() -> None:
    task = next(t for t in load_benchmark("icons-hard").read(None) if t.tag == "colored_counting" and not t.include[1:])
    item = task.include[0]
    seen = [(20.0 * i, 0.0, 20.0 * i + 15, 15.0, 0.95, item.color) for i in range(item.count)]
    doubtful = (90.0, 90.0, 99.0, 99.0, 0.5, item.color)
    assert apply_rules({item.name: [*seen, doubtful]}, task).correct
    assert not apply_rules({item.name: [*seen, (*doubtful[:4], 0.95, item.color)]}, task).correct
    assert not apply_rules({item.name: seen[1:]}, task).correct


def test_written_metadata_equals_genevals_own_lines(shared_data: Path) -> None:
    for line in (shared_data / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines():
        assert write_metadata(Task.model_validate_json(line)) == json.loads(line)


def test_genevals_score_is_the_plain_mean_over_tags() -> None:
    geneval = load_benchmark("geneval")
    given = answers("single_object", [1, 1, 1, 0]) + answers("counting", [0, 1], first=10)
    table = summarise(geneval, given)
    assert [(column.name, column.mean, column.prompts, column.of) for column in table.columns] == [
        ("single_object", 0.75, 4, 80),
        ("counting", 0.5, 2, 80),
    ]
    assert table.overall is not None
    assert table.overall.mean == pytest.approx((0.75 + 0.5) / 2)  # not 4 / 6


def test_several_images_of_a_prompt_are_pooled_for_the_mean_and_one_observation_for_the_interval() -> None:
    geneval = load_benchmark("geneval")
    column = summarise(geneval, answers("colors", [1, 0, 1, 1, 0, 0, 0, 1], images=4)).columns[0]
    assert (column.mean, column.prompts) == (0.5, 2)
    assert (column.low, column.high) == pytest.approx(wilson(0.5, 2))


def test_t2i_compbenchs_overall_is_the_mean_of_its_categories() -> None:
    """The paper's row: Janus-Pro-7B has 0.3921 overall in Table 2."""
    row = {
        "color": 0.6359,
        "shape": 0.3528,
        "texture": 0.4936,
        "spatial": 0.2061,
        "non_spatial": 0.3085,
        "complex": 0.3559,
    }
    given = [one for i, (tag, value) in enumerate(row.items()) for one in answers(tag, [value] * 3, first=10 * i)]
    overall = summarise(load_benchmark("t2i-compbench"), given).overall
    assert overall is not None and round(overall.mean, 4) == 0.3921


def test_wise_weighs_its_groups_and_gives_no_overall_score_of_a_part() -> None:
    """The row of Janus-Pro-7B on WISE's leaderboard: .30 .37 .49 .36 .42 .26, overall .35."""
    wise = load_benchmark("wise-legacy")
    row = dict(zip(wise.columns, (0.30, 0.37, 0.49, 0.36, 0.42, 0.26), strict=True))
    first, given = 0, list[Answer]()
    for tag, many in wise.columns.items():
        given += answers(tag, [row[tag]] * many, first=first)
        first += many
    overall = summarise(wise, given).overall
    assert overall is not None
    assert overall.mean == pytest.approx(0.4 * 0.30 + 0.167 * 0.37 + 0.133 * 0.49 + 0.1 * (0.36 + 0.42 + 0.26))
    assert round(overall.mean, 2) == 0.35
    part = summarise(wise, given[:-1])
    assert part.overall is None and part.running is not None
    assert "none: the official scorer asks for all prompts (999 are here)" in str(part)


def test_verified_groups_have_weights_of_their_own() -> None:
    verified = load_benchmark("wise")
    assert verified.weights == {
        "Culture": 0.4,
        **dict.fromkeys(["Time", "Space", "Biology", "Physics", "Chemistry"], 0.12),
    }
    assert "compare with nothing" in str(summarise(verified, answers("Time", [1.0])))


def test_one_columns_overall_score_is_that_column() -> None:
    table = summarise(load_benchmark("geneval"), answers("counting", [1, 1, 1, 0.5]))
    (column,) = table.columns
    assert table.overall is not None and table.running is not None
    for name in ("mean", "low", "high", "prompts"):
        assert getattr(table.overall, name) == getattr(column, name)
    assert table.running.write(2) == "0.88 [0.40, 0.99], n = 4"


def test_unscored_images_are_left_out_and_counted() -> None:
    table = summarise(load_benchmark("geneval"), answers("colors", [1, None, 0]))
    assert (table.columns[0].mean, table.columns[0].prompts, table.unscored) == (0.5, 2, 1)
    assert "unscored, left out above: 1 pictures" in str(table)
    assert summarise(load_benchmark("geneval"), answers("colors", [None])).overall is None


def test_an_image_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="prompt 0 of geneval is there twice"):
        summarise(load_benchmark("geneval"), answers("colors", [1]) * 2)
    with pytest.raises(UsageError, match="has the tag 'shape', which geneval does not know"):
        summarise(load_benchmark("geneval"), answers("shape", [1]))


TOY = Benchmark(
    name="toy",
    title="toy",
    columns={"a": 6, "b": 2},
    weights={"a": 0.5, "b": 0.5},
    read=lambda folder: [Task(prompt=f"{tag}{i}", tag=tag) for tag, many in (("a", 6), ("b", 2)) for i in range(many)],
    reward="fake",
)


def chosen(**options: object) -> list[str]:
    """Return the prompts of a selection."""
    return [task.prompt for _, task in select(TOY, TOY.read(None), **options)]  # type: ignore[arg-type]


def test_a_limit_is_spread_over_the_tags() -> None:
    assert chosen(limit=4) == ["a0", "a1", "b0", "b1"]
    assert chosen(limit=6) == ["a0", "a1", "a2", "a3", "b0", "b1"]
    assert chosen(limit=100) == chosen()


@given(st.integers(1, 9), st.none() | st.integers(1, 9))
def test_all_shards_together_take_every_task_once(many: int, limit: int | None) -> None:
    taken: list[str] = []
    for number in range(1, many + 1):
        try:
            taken += chosen(shard=f"{number}/{many}", limit=limit)
        except UsageError as error:
            assert "no prompts of toy are left" in str(error)
    assert sorted(taken) == sorted(chosen(limit=limit))


def test_tags_shards_and_limits_are_selected_or_refused() -> None:
    assert [place for place, _ in select(TOY, TOY.read(None), tags=["b"])] == [6, 7]
    with pytest.raises(UsageError, match="unknown tag 'c'"):
        chosen(tags=["c"])
    for shard in ("0/2", "3/2", "2", "1/0", "a/b"):
        with pytest.raises(UsageError, match="give i/n"):
            chosen(shard=shard)
    with pytest.raises(UsageError, match="--limit 0: give 1 or more"):
        chosen(limit=0)


def test_missing_or_unofficial_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILR_DATA", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="do not come with milr; type milr data get geneval"):
        load_benchmark("geneval").read(None)
    (tmp_path / "evaluation_metadata.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="is not the file of djghosh13/geneval at af4902f24d3c"):
        load_benchmark("geneval").read(tmp_path)
    with pytest.raises(UsageError, match="come with milr: leave --data out"):
        load_benchmark("icons").read(tmp_path)
    with pytest.raises(UsageError, match="unknown benchmark 'icon': did you mean 'icons'"):
        load_benchmark("icon")
