"""Recipes: what they plan, what they refuse, and that finished runs are not made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milr.benchmarks.runner import BenchmarkSettings
from milr.cli import main
from milr.errors import UsageError
from milr.methods import METHODS, POOLED
from milr.models import embedded_folder
from milr.report.ablation import (
    PLAN,
    UNMEASURED,
    PlannedRun,
    Recipe,
    plan_runs,
    read_recipe,
    recipe_names,
    run_plan,
    start_or_resume,
)
from milr.runs import read_run
from tests.report_runs import make_run, make_tasks

ICON_WORLD = [name for name in recipe_names() if read_recipe(name).benchmark == "icons"]
BASE = {"title": "t", "hardware": "h"}


def test_every_ablation_of_the_paper_has_a_recipe_of_at_most_fifteen_lines() -> None:
    assert {"strategies", "parts", "credits", "noise", "text-ratio", "image-ratio", "image-latents"} <= set(
        recipe_names()
    )
    assert {"steps", "l2", "rewards", "rewards-geneval", "rewards-compbench", "methods"} <= set(recipe_names())
    folder = embedded_folder().parent / "recipes"
    for name in recipe_names():
        lines = (folder / f"{name}.toml").read_text().splitlines()
        assert len(lines) <= 15 and lines[0].startswith(f"# milr ablate {name}") and max(map(len, lines)) <= 120
        recipe = read_recipe(name)
        assert recipe.hardware and recipe.duration and recipe.expected


def test_no_recipe_promises_a_score_without_naming_its_run() -> None:
    for name in recipe_names():
        expected = read_recipe(name).expected
        assert expected == UNMEASURED or "[" in expected and "run" in expected


@pytest.mark.parametrize("name", ICON_WORLD)
def test_every_recipe_of_the_icon_world_can_be_planned(name: str) -> None:
    planned = plan_runs(read_recipe(name))
    assert len({one.name for one in planned}) == len(planned)
    searches = [one.settings for one in planned if (one.settings.method or "milr") == "milr"]
    credits = [settings.search.get("credit", "reward") for settings in searches]
    assert "zero" in credits  # what a result needs


def test_recipes_on_published_benchmarks_can_be_planned(shared_data: Path) -> None:
    for name, folder in (("rewards-geneval", "geneval"), ("rewards-compbench", "t2i_compbench")):
        planned = plan_runs(read_recipe(name), {"data": shared_data / folder, "model": "some/janus-pro"})
        assert {one.settings.judge for one in planned} == {read_recipe(name).benchmark}


def test_each_search_gets_its_twin_and_nothing_else_does() -> None:
    recipe = Recipe(**BASE, twins=True, runs=({}, {"method": "one-shot"}, {"noise": "fixed"}, {"credit": "random"}))
    names = [one.name for one in plan_runs(recipe)]
    assert names == [
        "default",
        "credit-zero",
        "method-one-shot",
        "noise-fixed",
        "noise-fixed_credit-zero",
        "credit-random",
    ]
    assert len(plan_runs(recipe, twins=False)) == 4


def test_what_the_user_says_goes_before_the_recipe_and_behind_the_sweep() -> None:
    recipe = Recipe(**BASE, settings={"steps": 30, "judge": "icons"}, runs=({}, {"steps": 5}))
    given = {"steps": 10, "seed": 3, "benchmark": "icons-hard", "limit": 7}
    first, second = plan_runs(recipe, given)
    assert (first.settings.search, second.settings.search) == ({"steps": 10, "seed": 3}, {"steps": 5, "seed": 3})
    assert (first.settings.benchmark, first.settings.limit, first.settings.judge) == ("icons-hard", 7, "icons")


def test_every_method_and_pools_where_drawings_are_independent() -> None:
    planned = plan_runs(Recipe(**BASE, runs=({"method": "milr"}, {"method": "*"})), {"steps": 20})
    assert sorted(str(one.settings.method) for one in planned) == sorted(METHODS)
    pool = next(one.settings for one in planned if one.settings.method == "best-of-n")
    assert (pool.pool, pool.search) == (21, {})
    assert all(one.settings.pool is None for one in planned if not str(one.settings.method).startswith("best-of-n"))


def test_pools_are_drawn_by_the_methods_that_they_are_cut_from() -> None:
    assert set(POOLED) == {"best-of-n", "best-of-n-sampled"}


def test_image_latents_are_counted_by_the_models_own_tokens() -> None:
    planned = plan_runs(Recipe(**BASE, runs=({"image_latents": 11}, {"image_latents": "all"})))
    assert [one.settings.search for one in planned] == [{"image_ratio": 11 / 256}, {"image_ratio": 1.0}]
    with pytest.raises(UsageError, match="image_latents 257: give a number from 0 to 256"):
        plan_runs(Recipe(**BASE, runs=({"image_latents": 257},)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stratgy": "alt"}, "unknown setting 'stratgy': did you mean 'strategy'"),
        ({"strategy": "sideways"}, "strategy 'sideways'"),
        ({"method": "best"}, "unknown method 'best'"),
        ({"text_ratio": 2}, "text_ratio 2"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan_runs(Recipe(**BASE, runs=({}, change)))


def test_a_wrong_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'credit': did you mean 'credits'"):
        read_recipe("credit")
    path = tmp_path / "mine.toml"
    extra = 'title = "x"\nhardware = "h"\nruns = [{}]\nsweep = 1'
    for text, said in (
        ("title = ", "is no TOML"),
        ('title = "x"', "hardware: Field required"),
        (extra, "sweep: Extra"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=said):
            read_recipe(str(path))


def test_finished_runs_are_not_made_again(tmp_path: Path) -> None:
    planned = [PlannedRun(name, BenchmarkSettings(benchmark="icons")) for name in ("a", "b", "c")]
    made: list[str] = []

    def run(settings: BenchmarkSettings, folder: Path) -> None:
        if folder.name == "b" and "b" not in made:
            made.append("b")
            raise KeyboardInterrupt
        made.append(folder.name)
        make_run(folder, tasks=make_tasks(1), steps=0)

    with pytest.raises(KeyboardInterrupt):
        list(run_plan(planned, tmp_path / "out", run))
    assert made == ["a", "b"]
    done = [(one.name, done) for one, _, done in run_plan(planned, tmp_path / "out", run)]
    assert made == ["a", "b", "b", "c"] and done == [("a", True), ("b", False), ("c", False)]
    assert set(json.loads((tmp_path / "out" / PLAN).read_text())) == {"a", "b", "c"}
    with pytest.raises(UsageError, match="holds a sweep of other settings"):
        list(run_plan(planned[:2], tmp_path / "out", run))


def test_the_command_lists_and_plans(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ablate"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == recipe_names()
    assert main(["ablate", "credits", "--plan", "--limit", "3", "--steps", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"credit-{name}" for name in ("reward", "zero", "random", "negated")
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_runs_on_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    given = ["ablate", "noise", "--no-twins", "--limit", "1", "--steps", "1", "--rows", "1", "--out", str(out)]
    assert main(given) == 0
    first = capsys.readouterr().out
    assert "Paired differences to milr (embedded model): icons, judged by icons-judge@" in first
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(given) == 0
    assert capsys.readouterr().out == first and {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert {read_run(folder).manifest.config.noise for folder in out.iterdir() if folder.is_dir()} == {"fresh", "fixed"}


def test_an_unfinished_run_is_resumed_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    job = "milr.report.ablation.BenchmarkJob"
    monkeypatch.setattr(f"{job}.begin", lambda *given, **more: called.append("begin"))
    monkeypatch.setattr(f"{job}.resume", lambda *given, **more: called.append("resume"))
    start_or_resume(BenchmarkSettings(benchmark="icons"), tmp_path / "new")
    start_or_resume(BenchmarkSettings(benchmark="icons"), make_run(tmp_path / "old", tasks=make_tasks(1), steps=0))
    assert called == ["begin", "resume"]
