"""Recipes: their plans, their refusals, and that finished runs are not made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from milr.benchmarks.runner import BenchmarkJob, BenchmarkSettings
from milr.cli.main import main
from milr.errors import MilrError, UsageError
from milr.methods import METHODS, POOLED
from milr.methods.latents import count_latents
from milr.models import embedded_folder, read_capabilities
from milr.report import ablation
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
from milr.settings import MilrSettings
from tests.support.fake_benchmark import fakes
from tests.support.forks import ForkServer
from tests.support.paths import ROOT
from tests.support.report_runs import make_run, make_tasks

ICON_WORLD = [name for name in recipe_names() if read_recipe(name).benchmark.startswith("icons")]
HERE = ROOT
BASE = {"title": "t", "hardware": "h"}
TOKENS = read_capabilities(embedded_folder()).image_tokens


def test_every_ablation_of_the_paper_has_a_recipe_of_at_most_fifteen_lines() -> None:
    assert {"strategies", "parts", "gradients", "noise", "text-ratio", "image-ratio"} <= set(recipe_names())
    assert {"steps", "l2", "rewards", "rewards-geneval", "rewards-compbench", "methods"} <= set(recipe_names())
    assert {"matrix", "pools"} <= set(recipe_names())
    folder = Path(ablation.__file__).parent / "recipes"
    for name in recipe_names():
        lines = (folder / f"{name}.toml").read_text().splitlines()
        assert len(lines) <= 15 and lines[0].startswith(f"# milr ablate {name}") and max(map(len, lines)) <= 120
        recipe = read_recipe(name)
        assert recipe.hardware and recipe.duration and recipe.expected


def test_no_recipe_promises_a_score_without_naming_its_run() -> None:
    for name in recipe_names():
        expected = read_recipe(name).expected
        assert expected == UNMEASURED or "[" in expected and "run" in expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ICON_WORLD)
def test_every_recipe_of_the_icon_world_can_be_planned(name: str) -> None:
    planned = plan_runs(read_recipe(name))
    assert len({one.name for one in planned}) == len(planned)
    searches = [one.settings for one in planned if (one.settings.method or "milr") == "milr"]
    gradients = [settings.settings.get("gradient", "reward") for settings in searches]
    assert "zero" in gradients or not searches  # needed for a result


@pytest.mark.slow
def test_recipes_on_published_benchmarks_can_be_planned(shared_data: Path) -> None:
    for name, folder in (("rewards-geneval", "geneval"), ("rewards-compbench", "t2i_compbench")):
        planned = plan_runs(read_recipe(name), {"data": shared_data / folder, "model": "some/janus-pro"})
        assert {one.settings.evaluator for one in planned} == {read_recipe(name).benchmark}


def test_each_search_gets_its_control_and_nothing_else_does() -> None:
    recipe = Recipe(
        **BASE, controls=True, runs=({}, {"method": "one-shot"}, {"noise": "fixed"}, {"gradient": "random"})
    )
    names = [one.name for one in plan_runs(recipe)]
    assert names == [
        "default",
        "gradient-zero",
        "method-one-shot",
        "noise-fixed",
        "noise-fixed_gradient-zero",
        "gradient-random",
    ]
    assert len(plan_runs(recipe, controls=False)) == 4


@pytest.mark.slow
def test_searches_with_equal_zero_gradient_controls_share_one() -> None:
    changes = ({}, {"strategy": "alt"}, {"text_ratio": 0.0}, {"l2": 1.0}, {"image_ratio": 0.0}, {"strategy": "steer"})
    recipe = Recipe(**BASE, controls=True, runs=(*changes, {"steps": 5}))
    names = [one.name for one in plan_runs(recipe)]
    assert names == [
        *("default", "gradient-zero", "strategy-alt", "text_ratio-0.0", "l2-1.0"),
        *("image_ratio-0.0", "image_ratio-0.0_gradient-zero", "strategy-steer", "steps-5", "steps-5_gradient-zero"),
    ]
    # Another model's text may be sampled again if it may move.
    assert len(plan_runs(recipe, {"model": "some/janus-pro"})) == 14
    # A run that the recipe names is made, control or not.
    own = Recipe(**BASE, controls=True, runs=({}, {"strategy": "alt", "gradient": "zero"}))
    assert [one.name for one in plan_runs(own)] == ["default", "gradient-zero", "strategy-alt_gradient-zero"]


def test_all_runs_of_the_first_seed_come_before_those_of_the_next() -> None:
    recipe = Recipe(**BASE, seeds=2, then=("noise",), settings={"evaluator": "icons"}, runs=({}, {"gradient": "zero"}))
    planned = plan_runs(recipe, {"seed": 5, "benchmark": "icons-hard"})
    assert [one.name for one in planned] == [
        *("default", "gradient-zero"),
        *("evaluator-icons-judge_noise-fresh", "evaluator-icons-judge_noise-fresh_gradient-zero"),
        *("evaluator-icons-judge_noise-fixed", "evaluator-icons-judge_noise-fixed_gradient-zero"),
        *("seed-6", "gradient-zero_seed-6"),
    ]
    assert {one.settings.benchmark for one in planned} == {"icons-hard"}
    assert [one.settings.settings.get("seed") for one in planned] == [5] * 6 + [6] * 2
    assert len(plan_runs(recipe, seeds=1)) == 6


def test_a_following_recipe_adds_no_existing_run() -> None:
    recipe = Recipe(**BASE, then=("gradients",), settings={"evaluator": "icons-judge"}, runs=({"gradient": "reward"},))
    assert [one.name for one in plan_runs(recipe)] == [f"gradient-{x}" for x in ("reward", "zero", "random", "negated")]


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["icons-hard", "geneval"])
def test_the_matrix_holds_every_comparison_of_the_issue_the_most_important_first(
    benchmark: str, shared_data: Path
) -> None:
    given = {"benchmark": benchmark, **({"data": shared_data / "geneval"} if benchmark == "geneval" else {})}
    planned = plan_runs(read_recipe("matrix"), {**given, "pool": 64}, seeds=None if benchmark == "icons-hard" else 1)
    settings = [one.settings for one in planned]
    assert {one.evaluator for one in settings} == {"icons-judge"} and {one.benchmark for one in settings} == {benchmark}
    assert {one.method or "milr" for one in settings} == set(METHODS)
    assert {one.settings.get("steps", 20) for one in settings} == {20, 30}
    searched = [one.settings for one in settings if one.method is None and one.reward == "icons"]
    for name, values in {
        "strategy": {"alt", "t2v", "no-text", "steer", "steer-both"},
        "gradient": {"zero", "random", "negated"},
        "noise": {"fixed"},
        "text_ratio": {0.0, 0.1, 0.4, 0.6, 0.8, 1.0},
        "image_ratio": {0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0},
        "learning_rate": {0.01, 0.03, 0.1, 0.3},
    }.items():
        assert values <= {search[name] for search in searched if name in search}
    assert {"icons", "icons-soft", "self:p-yes"} <= {one.reward for one in settings}
    assert {one.settings["l2"] for one in settings if "l2" in one.settings} == {0.001, 0.01, 0.1, 1.0, 10.0}
    assert [one.pool for one in settings if one.pool] == [64, 64]
    parts = ("image_ratio-0.0", "text_ratio-0.0", "strategy-no-text")  # the gain of each space over its own control
    controlled = [name for part in ("default", *parts) for name in (part, f"{part}_gradient-zero")]
    assert [one.name for one in planned[:8]] == ["default", "gradient-zero", *controlled[2:]]
    assert {one.settings.get("seed", 0) for one in settings} == ({0, 1, 2} if benchmark == "icons-hard" else {0})


def test_options_override_the_recipes_settings_but_not_its_runs() -> None:
    recipe = Recipe(**BASE, settings={"steps": 30, "evaluator": "icons"}, runs=({}, {"steps": 5}))
    given = {"steps": 10, "seed": 3, "benchmark": "icons-hard", "limit": 7}
    first, second = plan_runs(recipe, given)
    assert (first.settings.settings, second.settings.settings) == ({"steps": 10, "seed": 3}, {"steps": 5, "seed": 3})
    assert (first.settings.benchmark, first.settings.limit, first.settings.evaluator) == ("icons-hard", 7, "icons")


@pytest.mark.slow
def test_a_run_ignores_common_settings_that_its_method_does_not_read() -> None:
    common = {"steps": 5, "learning_rate": 0.1, "image_latents": 11, "temperature": 0.5}
    changes = ({}, {"method": "one-shot"}, {"method": "best-of-n"}, {"strategy": "steer"}, {"method": "*", "l2": 1.0})
    planned = plan_runs(Recipe(**BASE, settings=common, runs=changes), {"noise": "fixed"})
    found = {one.name: one.settings.settings for one in planned}
    whole = {"steps": 5, "learning_rate": 0.1, "temperature": 0.5, "noise": "fixed", "image_ratio": 11 / TOKENS}
    assert found["default"] == whole
    assert found["method-one-shot"] == {"temperature": 0.5}
    assert found["method-best-of-n"] == {"steps": 5, "temperature": 0.5}
    assert found["strategy-steer"] == {k: v for k, v in whole.items() if k != "image_ratio"} | {"strategy": "steer"}
    # With every method, a change applies only to methods that read it.
    assert found["method-milr_l2-1.0"] == whole | {"l2": 1.0}
    assert found["method-parm"] == {"steps": 5, "temperature": 0.5}
    # A following recipe has only settings that its runs read.
    then = Recipe(**BASE, settings={"steps": 5}, then=("steps",), runs=({"method": "one-shot"},))
    assert [one.name for one in plan_runs(then)][:2] == ["method-one-shot", "evaluator-icons-judge_steps-30"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "one-shot", "steps": 3}, "the method 'one-shot' does not read the setting 'steps'; best-of-n, "),
        ({"method": "best-of-n", "gradient": "zero"}, "the method 'best-of-n' does not read the setting 'gradient'"),
        ({"method": "consensus", "image_latents": 11}, "does not read the setting 'image_ratio'; milr does"),
        ({"strategy": "steer", "image_ratio": 0.5}, "the strategy 'steer' has no image latents"),
    ],
)
def test_a_setting_of_a_run_that_its_method_does_not_read_is_an_error(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan_runs(Recipe(**BASE, runs=({}, change)))


def test_a_star_plans_every_method_and_one_pool() -> None:
    planned = plan_runs(Recipe(**BASE, runs=({"method": "milr"}, {"method": "*"})), {"steps": 20})
    assert sorted(str(one.settings.method) for one in planned) == sorted(METHODS)
    pool = next(one.settings for one in planned if one.settings.method == "best-of-n")
    assert (pool.pool, pool.settings) == (21, {})
    assert all(one.settings.pool is None for one in planned if not str(one.settings.method).startswith("best-of-n"))


def test_only_best_of_n_methods_have_pools() -> None:
    assert set(POOLED) == {"best-of-n", "best-of-n-sampled"}


def test_image_latents_are_counted_by_the_models_own_tokens() -> None:
    planned = plan_runs(Recipe(**BASE, runs=({"image_latents": 11}, {"image_latents": "all"})))
    assert [one.settings.settings for one in planned] == [{"image_ratio": 11 / TOKENS}, {"image_ratio": 1.0}]
    usual_number, _ = count_latents(MilrSettings().image_ratio, TOKENS)
    (usual,) = plan_runs(Recipe(**BASE, runs=({}, {"image_latents": usual_number})))
    assert usual.settings.settings == {}
    with pytest.raises(UsageError, match=f"image_latents {TOKENS + 1}: give a number from 0 to {TOKENS}"):
        plan_runs(Recipe(**BASE, runs=({"image_latents": TOKENS + 1},)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stratgy": "alt"}, "unknown setting 'stratgy': did you mean 'strategy'"),
        ({"strategy": "sideways"}, "unknown strategy 'sideways'"),
        ({"method": "best"}, "unknown method 'best'"),
        ({"text_ratio": 2}, "text_ratio 2: must be in"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan_runs(Recipe(**BASE, runs=({}, change)))


def test_a_wrong_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'gradient': did you mean 'gradients'"):
        read_recipe("gradient")
    path = tmp_path / "mine.toml"
    extra = 'title = "x"\nhardware = "h"\nruns = [{}]\nsweep = 1'
    for text, said in (
        ("title = ", "is no TOML"),
        ('title = "x"', "hardware: is missing"),
        (extra, "sweep: is unknown; a recipe has"),
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
    # A sweep may grow or be made in part; one name never has two settings.
    more = [planned[1], PlannedRun("d", planned[0].settings)]
    assert [(one.name, done) for one, _, done in run_plan(more, tmp_path / "out", run)] == [("b", True), ("d", False)]
    assert set(json.loads((tmp_path / "out" / PLAN).read_text())) == {"a", "b", "c", "d"}
    with pytest.raises(UsageError, match="holds a with other settings"):
        list(run_plan([PlannedRun("a", BenchmarkSettings(benchmark="riddles"))], tmp_path / "out", run))


def test_two_processes_make_different_runs(tmp_path: Path) -> None:
    planned = [PlannedRun(name, BenchmarkSettings(benchmark="icons")) for name in ("a", "b", "c")]
    made: list[str] = []

    def run(settings: BenchmarkSettings, folder: Path) -> None:
        made.append(folder.name)
        make_run(folder, tasks=make_tasks(1), steps=0)

    first = run_plan(planned, tmp_path / "out", run)
    assert next(first)[0].name == "a"  # and holds the lock
    assert [one.name for one, _, _ in run_plan(planned, tmp_path / "out", run)] == ["b", "c"]
    assert [(one.name, done) for one, _, done in first] == [("b", True), ("c", True)]
    assert made == ["b", "c", "a"]


@pytest.mark.slow
def test_the_other_process_takes_a_killed_processs_run(tmp_path: Path, forks: ForkServer) -> None:
    """Two processes share a sweep, one is killed; then the same command is run again."""
    out = tmp_path / "sweep"
    command = [str(forks.caller("fake", "tests.support.fake_benchmark")), "ablate", "gradients"]
    command += ["--limit", "60", "--steps", "2"]
    command += ["--batch-size", "2", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": f"{HERE}/src{os.pathsep}{HERE}"}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    with start() as killed, start() as other:
        assert killed.stderr and any(" so far " in line for line in killed.stderr)
        killed.send_signal(signal.SIGKILL)
        other.communicate()
    assert (killed.returncode, other.returncode) == (-signal.SIGKILL, 0)
    with start() as last:
        printed, _ = last.communicate()
    assert last.returncode == 0 and "Paired differences to milr" in printed
    runs = [read_run(out / f"gradient-{gradient}") for gradient in ("reward", "zero", "random", "negated")]
    assert [(len(run.tasks), run.manifest.status) for run in runs] == [(60, "finished")] * 4
    assert sorted(len(run.manifest.sessions) for run in runs) == [1, 1, 1, 2]


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = BenchmarkJob.begin

    def fail(settings: BenchmarkSettings, folder: Path, **more: Any) -> BenchmarkJob:
        if settings.settings["gradient"] == "zero":
            raise MilrError("no such luck")
        return begin(settings, folder, **more)

    monkeypatch.setattr(BenchmarkJob, "begin", fail)
    with fakes():
        words = ["ablate", "gradients", "--limit", "2", "--steps", "1", "--out", str(tmp_path / "out")]
        assert main(words) == 2
        captured = capsys.readouterr()
        said = captured.err.splitlines()
        assert "error: gradient-zero: no such luck" in said
        assert said[-1].startswith("error: 1 of 4 runs failed (gradient-zero): type the same command to go on in ")
        assert "milr, gradient negated" in captured.out
        monkeypatch.undo()
        with fakes():
            assert main(words) == 0
    assert read_run(tmp_path / "out" / "gradient-zero").manifest.status == "finished"


def test_an_evaluator_that_cannot_score_is_refused_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["ablate", "gradients", "--limit", "2", "--evaluator", "wise", "--out", str(out)]) == 2
    assert "'wise' needs an explanation" in capsys.readouterr().err and not out.exists()


def test_the_command_lists_and_plans(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ablate"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == recipe_names()
    assert main(["ablate", "gradients", "--plan", "--limit", "3", "--steps", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"gradient-{name}" for name in ("reward", "zero", "random", "negated")
    ]
    assert main(["ablate", "gradients", "--plan", "--first", "2"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "gradient-reward",
        "gradient-zero",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_runs_on_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    given = ["ablate", "noise", "--no-controls", "--limit", "1", "--steps", "1", "--batch-size", "1", "--out", str(out)]
    assert main(given) == 0
    first = capsys.readouterr().out
    assert "Paired differences to milr (embedded model): icons-hard, evaluated by icons-judge@" in first
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(given) == 0
    assert capsys.readouterr().out == first and {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert {read_run(folder).manifest.settings.get("noise") for folder in out.iterdir() if folder.is_dir()} == {
        "fresh",
        "fixed",
    }


def test_an_unfinished_run_is_resumed_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    job = "milr.report.ablation.BenchmarkJob"
    monkeypatch.setattr(f"{job}.begin", lambda *given, **more: called.append("begin"))
    monkeypatch.setattr(f"{job}.resume", lambda *given, **more: called.append("resume"))
    start_or_resume(BenchmarkSettings(benchmark="icons"), tmp_path / "new")
    start_or_resume(BenchmarkSettings(benchmark="icons"), make_run(tmp_path / "old", tasks=make_tasks(1), steps=0))
    assert called == ["begin", "resume"]
