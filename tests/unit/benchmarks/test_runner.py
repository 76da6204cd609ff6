"""`milr benchmark`: its runs, its output, and the loss after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from milr import parts
from milr.benchmarks import load_benchmark, runner
from milr.benchmarks.runner import BenchmarkJob, BenchmarkSettings, check_settings
from milr.benchmarks.tables import answers_of, summarise_runs
from milr.cli.main import main
from milr.errors import UsageError
from milr.methods import METHODS
from milr.models import embedded_folder
from milr.models.hub import HubAccess, refuse
from milr.rewards import load_reward
from milr.runs import RunError, read_run
from milr.runs.time_left import TimeLeft
from milr.settings import METHOD_SETTINGS
from milr.testing import FakeReward, brightness
from milr.types import Score, Task, Unscored
from tests.support.fake_benchmark import fakes
from tests.support.forks import ForkServer
from tests.support.measured import write_measured
from tests.support.paths import ROOT
from tests.support.placed_reward import add_placed

HERE = ROOT


@pytest.fixture(autouse=True)
def faked() -> Iterator[None]:
    """Use a fake model, a fake reward `icons-soft` (brightness) and a fake evaluator `icons` (parity)."""
    with fakes():
        yield


def run(folder: Path, **settings: Any) -> Path:
    """Return a whole run of fakes."""
    given = {"benchmark": "icons", "limit": 6, "reward": "icons-soft", "evaluator": "icons", **settings}
    reads_steps = "steps" in METHOD_SETTINGS[str(given.get("method") or "milr")].model_fields
    given["settings"] = {**({"steps": 2} if reads_steps else {}), **given.get("settings", {})}
    job = BenchmarkJob.begin(BenchmarkSettings(**given), folder)
    assert all(True for _ in job.run())
    return folder


def content(folder: Path) -> dict[str, object]:
    """Return everything of a run that must not depend on interruptions: no times, no sessions."""
    kept: dict[str, object] = {}
    for path in sorted((folder / "tasks").rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            assert rows.pop()["end"] == len(rows)
            kept[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        elif path.is_file():
            kept[name] = path.read_bytes()
    return kept


def table(folder: Path, benchmark: str = "icons") -> str:
    """Return the run's table."""
    return str(summarise_runs(load_benchmark(benchmark), [read_run(folder)]))


def test_a_run_takes_every_tag_and_its_table_is_the_evaluators(tmp_path: Path) -> None:
    found = read_run(run(tmp_path / "run"))
    manifest = found.manifest
    assert (manifest.benchmark, manifest.method, manifest.reward, manifest.evaluator) == (
        *("icons", "milr", "icons-soft@1", "icons@1"),
    )
    assert [task.task.tag for task in found.tasks] == list(load_benchmark("icons").columns)
    assert manifest.places == (0, 80, 179, 259, 353, 453)
    listed = load_benchmark("icons").read(None)
    assert [task.task for task in found.tasks] == [listed[place] for place in manifest.places]
    for answer, task in zip(answers_of(found), found.tasks, strict=True):
        best = max((one for one in task.images), key=lambda one: getattr(one.reward, "value", -1))
        assert task.answer == best
        assert isinstance(best.evaluator, Score) and answer.value == best.evaluator.value
    spent = [task.last for task in found.tasks]
    assert (
        manifest.drawings == sum(step.drawings_spent for step in spent) == manifest.evaluated == manifest.reward_calls
    )
    assert manifest.tokens == sum(step.tokens_spent for step in spent)
    assert {"platform", "cpus", "threads"} <= set(manifest.sessions[0].machine)


@pytest.mark.slow
def test_image_n_has_the_seed_plus_n(tmp_path: Path) -> None:
    four = read_run(run(tmp_path / "four", images_per_prompt=2, settings={"seed": 5, "batch_size": 1}))
    other = read_run(run(tmp_path / "other", settings={"seed": 6, "batch_size": 1}))
    assert len(four.tasks) == 2 * len(other.tasks)
    second = [task for task in four.tasks if task.image == 1]
    assert [t.answer.image.tokens for t in second] == [t.answer.image.tokens for t in other.tasks]
    first = [task for task in four.tasks if task.image == 0]
    assert [t.answer.image.tokens for t in second] != [t.answer.image.tokens for t in first]
    assert "2 of 80" not in table(tmp_path / "four")  # images are not prompts


def test_a_pool_never_stops_early_and_begins_like_a_smaller_pool(tmp_path: Path) -> None:
    tokens: dict[int, list[list[tuple[int, ...]]]] = {}
    for many in (3, 5):
        settings = BenchmarkSettings(benchmark="icons", limit=3, reward="icons", pool=many)
        job = BenchmarkJob.begin(settings, tmp_path / f"pool{many}")
        assert all(True for _ in job.run())
        found = read_run(job.folder)
        assert found.manifest.method == "best-of-n"
        assert any(
            isinstance(one.reward, Score) and one.reward.value == 1 for t in found.tasks for one in t.images[:-1]
        )
        assert [len(task.images) for task in found.tasks] == [many] * 3
        tokens[many] = [[one.image.tokens for one in task.images] for task in found.tasks]
    assert tokens[3] == [drawn[:3] for drawn in tokens[5]]


@pytest.mark.slow
def test_shards_together_are_the_whole_run(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", settings={"batch_size": 1})
    shards = [run(tmp_path / str(i), shard=f"{i}/2", settings={"batch_size": 1}) for i in (1, 2)]
    together = summarise_runs(load_benchmark("icons"), [read_run(shard) for shard in shards])
    assert str(together) == table(whole)
    drawn = [
        {(run.manifest.places or ())[task.index]: task.answer.image.tokens for run in runs for task in run.tasks}
        for runs in ([read_run(whole)], [read_run(shard) for shard in shards])
    ]
    assert drawn[0] == drawn[1]


def cut(folder: Path, after: int, **settings: Any) -> BenchmarkJob:
    """Return a run that was interrupted after this many records."""
    given = {"benchmark": "icons", "limit": 6, "reward": "icons-soft", "evaluator": "icons", **settings}
    records = BenchmarkJob.begin(BenchmarkSettings(**given), folder).run()
    for _ in range(after + 1):
        next(records)
    records.close()
    return BenchmarkJob.resume(folder)


@pytest.mark.parametrize("after", [4, *(pytest.param(after, marks=pytest.mark.slow) for after in (0, 1, 7))])
def test_a_run_interrupted_anywhere_ends_like_an_uninterrupted_one(tmp_path: Path, after: int) -> None:
    settings = {"images_per_prompt": 2, "settings": {"steps": 2, "batch_size": 2}}
    whole = run(tmp_path / "whole", **settings)
    again = cut(tmp_path / "cut", after, **settings)
    assert all(True for _ in again.run())
    assert content(tmp_path / "cut") == content(whole)
    assert str(again.table()) == table(whole)
    assert [one.status for one in read_run(tmp_path / "cut").manifest.sessions] == ["interrupted", "finished"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_after_an_interruption_to_equal_results(tmp_path: Path, method: str) -> None:
    """A task's random streams must not depend on its position in the list or on its neighbours."""
    steps = {"steps": 3} if "steps" in METHOD_SETTINGS[method].model_fields else {}
    settings = {"method": method, "limit": 4, "settings": {**steps, "batch_size": 2}}
    whole = run(tmp_path / "whole", **settings)
    records = sum(len(task.steps) for task in read_run(whole).tasks)
    again = cut(tmp_path / "cut", records // 2, **settings)
    assert 0 < len(read_run(tmp_path / "cut").tasks) < 4
    assert all(True for _ in again.run())
    assert content(tmp_path / "cut") == content(whole)


@pytest.mark.slow
def test_a_reward_that_stops_scoring_ends_the_run_and_resuming_draws_those_tasks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spent(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            if self.calls >= 4:
                return [Unscored("the budget is spent", self.name, final=True)] * len(images)
            return super().__call__(images, tasks)

    whole = run(tmp_path / "whole", evaluator=None, settings={"batch_size": 1})
    with monkeypatch.context() as patched:
        patched.setattr(parts, "load_reward", lambda name, **options: Spent(brightness, name=f"{name}@1"))
        with pytest.raises(RunError, match="the budget is spent; icons-soft@1 scores nothing any more"):
            run(tmp_path / "cut", evaluator=None, settings={"batch_size": 1})
    assert 0 < len(read_run(tmp_path / "cut").tasks) < 6
    assert all(True for _ in BenchmarkJob.resume(tmp_path / "cut").run())
    assert content(tmp_path / "cut") == content(whole)


@pytest.mark.slow
def test_a_total_limit_ends_the_run_and_resuming_draws_the_unfinished_tasks(tmp_path: Path) -> None:
    """The limit holds for each command, over both images of a prompt; all sessions equal one whole run."""
    settings = {"limit": 4, "images_per_prompt": 2, "settings": {"steps": 3, "batch_size": 1}}
    whole = run(tmp_path / "whole", **settings)
    everything = read_run(whole).manifest.drawings
    limited = {**settings["settings"], "total_drawings": 6}  # type: ignore[dict-item]
    given = {"benchmark": "icons", "reward": "icons-soft", "evaluator": "icons", **settings, "settings": limited}
    job = BenchmarkJob.begin(BenchmarkSettings.model_validate(given), tmp_path / "cut")
    cut_short = 0
    for record, _, folder in job.run():
        if record.finished in ("out of drawings", "out of time"):
            assert folder is None  # its last record is shown, but not stored as finished
            cut_short += 1
        else:
            assert (folder is not None) == (record.finished is not None)
    assert job.stopped == "out of drawings" and cut_short <= 1
    first = read_run(tmp_path / "cut")
    assert 0 < len(first.tasks) < 8
    assert (first.manifest.status, first.manifest.error) == ("stopped", None)
    assert not [step for task in first.tasks for step in task.steps if step.finished == "out of drawings"]
    for _ in range(8):
        job = BenchmarkJob.resume(tmp_path / "cut")
        assert all(True for _ in job.run())
        if job.stopped is None:
            break
    found = read_run(tmp_path / "cut")
    assert found.manifest.status == "finished"
    assert all(session.drawings <= 6 for session in found.manifest.sessions)
    assert found.manifest.drawings >= everything and len(found.manifest.sessions) >= everything / 6
    assert content(tmp_path / "cut") == content(whole)


def test_a_task_whose_method_ends_as_a_total_is_reached_is_finished(tmp_path: Path) -> None:
    settings = {"steps": 1, "total_drawings": 4, "batch_size": 2, "stop_at": 1.0}
    given = {"benchmark": "icons", "reward": "icons-soft", "limit": 2, "settings": settings}
    job = BenchmarkJob.begin(BenchmarkSettings.model_validate(given), tmp_path / "run")
    assert [record.finished for record, _, _ in job.run() if record.finished] == ["out of steps"] * 2
    assert job.stopped is None and read_run(job.folder).manifest.status == "finished"


def test_a_total_in_which_no_task_can_finish_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", "icons", "--limit", "1", "--reward", "icons-soft", "--stop-at", "1", "--steps", "3"]
    for folder, total in (("a", "2"), ("b", "5")):
        assert main([*words, "--total-drawings", total, "--out", str(tmp_path / folder)]) in (0, 3)
        said = capsys.readouterr().err
        assert ("milr: stopped, out of drawings; no task can finish within it: begin a new run" in said) == (
            total == "2"
        )


def test_a_repeated_prompt_has_its_own_images_also_after_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = load_benchmark("icons")
    twice = replace(benchmark, read=lambda folder: [*benchmark.read(None)[:1]] * 3)
    monkeypatch.setattr(runner, "load_benchmark", lambda name: twice)
    monkeypatch.setattr(runner, "select", lambda chosen, tasks, **limits: list(enumerate(tasks)))
    given = {"benchmark": "icons", "reward": "icons-soft", "settings": {"steps": 1, "batch_size": 1}}
    jobs = [BenchmarkJob.begin(BenchmarkSettings.model_validate(given), tmp_path / name) for name in "ab"]
    assert all(True for _ in jobs[0].run())
    with closing(jobs[1].run()) as records:
        next(record for record, _, _ in records if record.finished)
    assert len(read_run(tmp_path / "b").tasks) == 1
    assert all(True for _ in BenchmarkJob.resume(tmp_path / "b").run())
    assert content(tmp_path / "b") == content(tmp_path / "a")


def test_no_image_is_begun_once_a_total_is_spent(tmp_path: Path) -> None:
    settings = {"steps": 0, "total_reward_calls": 2, "batch_size": 2}
    given = {"benchmark": "icons", "reward": "icons-soft", "limit": 2, "images_per_prompt": 3, "settings": settings}
    job = BenchmarkJob.begin(BenchmarkSettings.model_validate(given), tmp_path / "run")
    assert all(True for _ in job.run())
    assert job.stopped is not None
    assert read_run(job.folder).manifest.reward_calls == 2


def test_a_task_that_ends_by_its_own_limit_is_a_finished_task(tmp_path: Path) -> None:
    found = read_run(run(tmp_path / "run", settings={"steps": 3, "max_drawings": 2}))
    assert found.manifest.status == "finished" and len(found.tasks) == 6
    assert {task.last.finished for task in found.tasks} >= {"out of drawings"}
    assert all(task.last.drawings_spent <= 2 for task in found.tasks)


def test_a_setting_that_the_method_does_not_read_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "load_model", lambda *names, **options: pytest.fail("loaded"))
    for method, settings, said in (
        ("best-of-n", {"noise": "fixed"}, "the method 'best-of-n' does not read the setting 'noise'; milr does"),
        ("one-shot", {"steps": 3}, "the method 'one-shot' does not read the setting 'steps'"),
        ("milr", {"learning_rat": 3}, "unknown setting 'learning_rat': did you mean 'learning_rate'"),
    ):
        given = BenchmarkSettings(benchmark="icons", method=method, settings=settings)
        with pytest.raises(UsageError, match=said):
            BenchmarkJob.begin(given, tmp_path / "run")


@pytest.mark.slow
def test_the_scorer_of_the_icon_world_is_for_models_that_draw_icons(tmp_path: Path, shared_data: Path) -> None:
    """The choice depends on the model's folder, not on its name, and reads no weights."""
    folder = embedded_folder("embedded-small")
    free = tmp_path / "free"
    shutil.copytree(folder, free, ignore=shutil.ignore_patterns("*.safetensors"))
    said = json.loads((free / "milr.json").read_text())
    (free / "milr.json").write_text(json.dumps({**said, "grammar": "free"}))
    shutil.copytree(folder, tmp_path / "icons", ignore=shutil.ignore_patterns("*.safetensors"))

    def own_reward(model: str, benchmark: str = "geneval") -> str:
        data = shared_data / "geneval" if benchmark == "geneval" else None
        _, _, names = check_settings(BenchmarkSettings(benchmark=benchmark, model=model, data=data))
        return names.reward

    assert [own_reward(model) for model in ("embedded", "embedded-small", str(tmp_path / "icons"))] == ["icons"] * 3
    assert own_reward(str(free)) == "geneval"
    with pytest.raises(UsageError, match=r"'icons' reads icons only, .* give --reward one of these: geneval, .*self"):
        own_reward(str(free), "icons")
    natural = {"benchmark": "icons", "model": str(free), "reward": "self"}
    with pytest.raises(UsageError, match=r"'icons-judge' reads icons only, .* give --evaluator one of these: geneval"):
        check_settings(BenchmarkSettings.model_validate({**natural, "evaluator": "icons-judge"}))
    assert check_settings(BenchmarkSettings.model_validate(natural))[2].reward == "self"


@pytest.mark.parametrize("role", ["reward", "evaluator"])
def test_unscorable_tasks_are_refused_before_anything_is_loaded(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("load_model", "load_reward"):
        monkeypatch.setattr(parts, name, lambda *names, **options: pytest.fail("loaded"))
    settings = BenchmarkSettings.model_validate({"benchmark": "icons", "limit": 1, role: "wise"})
    with pytest.raises(UsageError, match=f"'wise' needs an explanation, .* give --{role} one of these: "):
        BenchmarkJob.begin(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_rewards_are_placed_where_the_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_placed(monkeypatch)
    monkeypatch.setattr(parts, "load_reward", load_reward)
    settings = BenchmarkSettings(
        benchmark="icons", limit=1, reward="placed", evaluator="icons", device="meta", dtype="float16"
    )
    job = BenchmarkJob.begin(settings, tmp_path / "run")
    assert len(list(job.run())) > 0
    for manifest in (read_run(tmp_path / "run").manifest, BenchmarkJob.resume(tmp_path / "run").writer.manifest):
        assert manifest.reward == "placed@1/meta/float16"
        machine = manifest.sessions[0].machine
        assert (machine["device"], machine["reward_device"], machine["evaluator_device"]) == ("meta", "meta", "cpu")


def test_a_scorer_that_fails_its_self_test_draws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_reward(name: str, **options: object) -> FakeReward:
        made = FakeReward(lambda image, task: 1.0, name=f"{name}@1")
        made.golden_test = name == "icons"  # type: ignore[attr-defined]
        return made

    monkeypatch.setattr(parts, "load_reward", load_reward)
    for option in ("--reward", "--evaluator"):
        given = {"--reward": "icons-soft", option: "icons"}
        words = [word for pair in given.items() for word in pair]
        assert main(["benchmark", "icons", "--limit", "1", *words, "--out", str(tmp_path / "run")]) == 2
        captured = capsys.readouterr()
        assert "icons@1 fails its self-test on" in captured.err and captured.out == ""
    assert not (tmp_path / "run").exists()


def test_the_shipped_scorer_passes_its_self_test() -> None:
    from milr.rewards.icons.golden import check_scorer
    from milr.rewards.icons.reward import Icons, IconsSoft

    for scorer in (Icons(), IconsSoft()):
        assert scorer.golden_test
        check_scorer(scorer)


def test_the_command_prints_progress_and_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(TimeLeft, "say", lambda self: "about 2 min left")
    words = [
        "benchmark",
        "icons",
        "--limit",
        "6",
        "--tags",
        "counting,colors",
        "--reward",
        "icons-soft",
        "--steps",
        "1",
        "--model",
        write_measured(tmp_path / "measured"),
    ]
    assert main([*words, "--evaluator", "icons", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("icons, milr, strategy steer, fake; evaluated by icons@1\n")
    assert table(out) in captured.out
    assert captured.out.endswith(f"run: {out}\npage: {out / 'index.html'}\n")
    lines = [line for line in captured.err.splitlines() if " so far " in line]
    assert [line.split()[0] for line in lines] == [f"{done}/6" for done in range(1, 7)]
    assert all("  about 2 min left  " in line for line in lines)
    # Resuming a finished run does nothing and prints the same table.
    assert main(["benchmark", "--resume", str(out)]) == 0
    assert table(out) in capsys.readouterr().out
    assert main(["benchmark", "icons", "--limit", "1", "--steps", "0", "--out", str(tmp_path / "other")]) == 0
    assert (
        "evaluated by icons@1, the reward itself, which the search optimised: a score too good to compare"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no benchmark given: type milr benchmark icons"),
        (["icon"], "unknown benchmark 'icon': did you mean 'icons'"),
        (["icons", "--method", "best-of-m"], "unknown method 'best-of-m': did you mean 'best-of-n'"),
        (["icons", "--reward", "icon"], "unknown reward 'icon'"),
        (["icons", "--evaluator", "icon"], "unknown reward 'icon'"),
        (["icons", "--tags", "count"], "unknown tag 'count': did you mean 'counting'"),
        (["icons", "--pool", "4", "--steps", "3"], "says itself how many are drawn: leave --steps out"),
        (["icons", "--pool", "4", "--method", "milr"], "--pool draws by best-of-n or best-of-n-sampled, not by 'milr'"),
        (["icons", "--pool", "0"], "--pool 0: give 1 or more"),
        (["icons", "--images-per-prompt", "0"], "--images-per-prompt 0: give 1 or more"),
        (["icons", "--steps", "-1"], "--steps -1: must be at least 0"),
        (["icons", "--resume", "x"], "--resume takes all settings from the run: leave the benchmark's name out"),
        (["--resume", "x", "--steps", "3"], "leave --steps out"),
        (["--resume", "nowhere"], "nowhere holds no run"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *words]) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_run_resumes_only_with_its_own_model_and_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path / "run", limit=1)
    monkeypatch.setattr(parts, "load_reward", lambda name, **options: FakeReward(name=f"{name}@2"))
    with pytest.raises(UsageError, match="made with the reward icons-soft@1, and here is icons-soft@2: begin"):
        BenchmarkJob.resume(folder)


def test_profile_consent_and_graphs_reach_the_model_and_the_profile_is_kept_for_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, asked = parts.load_model, list[dict[str, Any]]()

    def load(name: str, **options: Any) -> Any:
        asked.append(options)
        return made(name, deterministic=options["deterministic"])

    monkeypatch.setattr(parts, "load_model", load)
    agree = HubAccess(confirm=lambda download: True)
    settings = BenchmarkSettings(benchmark="icons", limit=1, reward="icons", profile="icons", graphs=False)
    job = BenchmarkJob.begin(settings, tmp_path / "run", hub=agree)
    next(job.run())
    BenchmarkJob.resume(tmp_path / "run", hub=HubAccess(offline=True))
    first, second = asked
    assert (first["profile"], first["offline"], first["confirm"]) == ("icons", False, agree.confirm)
    assert (second["profile"], second["offline"], second["confirm"]) == ("icons", True, refuse)
    assert main(["benchmark", "--resume", str(tmp_path / "run"), "--no-graphs"]) == 0
    assert main(["benchmark", "icons", "--limit", "1", "--no-graphs", "--out", str(tmp_path / "other")]) == 0
    assert [options["graphs"] for options in asked] == [False, True, False, False]


def test_an_icon_model_gets_no_prompt_that_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    monkeypatch.setattr(parts, "load_model", lambda *names, **options: pytest.fail("loaded"))
    with pytest.raises(UsageError, match="reads prompts of the icon world only, not those of wise"):
        BenchmarkJob.begin(
            BenchmarkSettings(benchmark="wise", limit=1, reward="icons", data=shared_data / "wise" / "verified"),
            tmp_path / "run",
        )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of 160 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(disk)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no small disk can be made here: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line_and_the_run_resumes_once_there_is_room(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--limit",
        "6",
        "--steps",
        "2",
        "--batch-size",
        "1",
        "--reward",
        "icons-soft",
        "--evaluator",
        "icons",
        "--out",
    ]
    assert main(["benchmark", "icons", *options, str(tmp_path / "whole")]) == 0
    printed = capsys.readouterr().out.splitlines()
    folder = small_disk / "run"
    assert main(["benchmark", "icons", *options, str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == (
        f"error: cannot write {folder} (No space left on device): make room there; the finished tasks are kept; "
        f"to go on, type: milr benchmark --resume {folder}"
    )
    assert 0 < len(read_run(folder).tasks) < 6
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert main(["benchmark", "--resume", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[:-2] == printed[:-2]  # the last lines name the folder and its page
    assert content(folder) == content(tmp_path / "whole")


def kill_twice(command: Sequence[str], folder: Path) -> None:
    """Start the command, kill it after a finished task, resume, kill it after another one, resume to the end."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}/src{os.pathsep}{HERE}"}

    def start(words: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    resume = [*command[: command.index("benchmark") + 1], "--resume", str(folder)]
    for words in ([*command, "--out", str(folder)], resume):
        with start(words) as process:
            assert process.stderr
            assert any(" so far " in line for line in process.stderr), "it ended before it could be killed"
            process.send_signal(signal.SIGKILL)
            process.communicate()  # it has ended only when its streams are closed
        assert process.returncode == -signal.SIGKILL
    with start(resume) as process:
        process.communicate()
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("module", "model"), [("tests.support.fake_benchmark", "fake"), ("milr", "embedded-small")])
def test_two_kills_change_no_image_and_no_table(module: str, model: str, tmp_path: Path, forks: ForkServer) -> None:
    """Kill the run twice, then resume it. Batches of two tasks give a task other neighbours."""
    # Fakes are fast: with more tasks a kill meets one in progress.
    many = "40" if model == "fake" else "5"
    options = ["--limit", many, "--steps", "1", "--batch-size", "2", "--seed", "3"]
    options += ["--reward", "icons-soft", "--evaluator", "icons-judge"]
    options += [] if model == "fake" else ["--model", model]
    command = [str(forks.caller(model, module)), "benchmark", "icons", *options]
    environment = {**os.environ, "PYTHONPATH": f"{HERE}/src{os.pathsep}{HERE}"}
    whole = tmp_path / "whole"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True, env=environment)
    killed = tmp_path / "killed"
    kill_twice(command, killed)
    sessions = read_run(killed).manifest.sessions
    assert [session.status for session in sessions] == ["running", "running", "finished"]
    assert content(killed) == content(whole)
    assert table(killed) == table(whole)
