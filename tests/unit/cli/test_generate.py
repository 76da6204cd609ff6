"""`milr generate` with a fake model: output, refusals, run folder."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from milr.cli.main import main
from milr.errors import MilrError
from milr.methods.queue import Assigned
from milr.models import checkpoint, embedded_folder, read_best_method
from milr.models.devices import Placement
from milr.runs import read_run
from milr.settings import METHOD_SETTINGS, STRATEGIES, Settings, all_fields, make_settings
from milr.testing import FakeModel, FakeReward, fake_records
from milr.types import Finished, StepRecord, Task
from tests.support.forks import ForkServer
from tests.support.measured import write_measured

APPLE, CLOCK = "a photo of a red apple", "a photo of a blue clock"
RUN = ["generate", APPLE, "--out", "run"]


class Played:
    """A runner that yields a test's records."""

    stopped = None

    def __init__(self, records: Iterator[StepRecord]) -> None:
        self._records = records

    def __iter__(self) -> Iterator[StepRecord]:
        return self._records

    def close(self) -> None:
        """Close the runner."""


class Stage:
    """The search behind the command line: tests set its records and read its arguments."""

    def __init__(self) -> None:
        self.values: list[list[float]] = [[0.25, 0.5, 0.75]]
        self.error: BaseException | None = None
        self.change: Callable[[StepRecord], StepRecord] = lambda record: record
        self.defaults: dict[str, object] = {"learning_rate": 0.125, "guidance": 2.0}
        self.loaded: list[tuple[str, str, str | None]] = []
        self.options: dict[str, object] = {}
        self.tasks: list[Task] = []
        self.settings = Settings()
        self.method = ""
        self.placed: dict[str, Placement | None] = {}

    def load_model(
        self, name: str = "embedded", *, device: str = "cpu", dtype: str | None = None, **options: object
    ) -> object:
        def settings(method: str = "milr", **changes: object) -> Settings:
            return make_settings(method, changes, self.defaults)

        self.loaded.append((name, device, dtype))
        self.options = options
        return SimpleNamespace(name=name, folder=Path(), settings=settings, reads_free_prompts=False)

    def load_reward(
        self, name: str = "icons", *, model: object = None, vlm: object = None, placement: Placement | None = None
    ) -> FakeReward:
        self.placed[name] = placement
        return FakeReward(name=f"{name}@1")

    def load_method(self, name: str) -> SimpleNamespace:
        self.method = name
        return SimpleNamespace(name=name, settings=METHOD_SETTINGS[name])

    def run(
        self, method: SimpleNamespace, source: Assigned, model: object, reward: object, settings: Settings
    ) -> Played:
        assert method.name == settings.method
        self.tasks, self.settings = source.tasks, settings
        return Played(self.play(self.tasks))

    def play(self, tasks: Sequence[Task]) -> Iterator[StepRecord]:
        records = map(self.change, fake_records(tasks, self.values))
        if self.error is None:
            yield from records
            return
        yield from (record for record in records if record.step == 0)
        raise self.error


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    """Return a stage in an empty working folder."""
    stage = Stage()
    for name in ("load_model", "load_reward", "load_method"):
        monkeypatch.setattr(f"milr.parts.{name}", getattr(stage, name))
    monkeypatch.setattr("milr.parts.Runner", stage.run)
    monkeypatch.chdir(tmp_path)
    return stage


Refused = Callable[..., str]


@pytest.fixture
def refused(stage: Stage, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail; return its one line."""

    def run(*argv: str) -> str:
        before = sorted(Path().rglob("*"))
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert sorted(Path().rglob("*")) == before
        assert not stage.loaded  # refused before the model is loaded
        return captured.err

    return run


@pytest.mark.slow
def test_generate_says_what_it_does_and_where_the_run_is(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "milr: loading the embedded model ..."
    assert [line for line in lines if line.startswith("step")] == [
        "step  0/20  reward 0.25  best 0.25 at  0  0.5 s  flipped: text 0/2, image 0/1",
        "step  1/20  reward 0.50  best 0.50 at  1  1.0 s  flipped: text 1/2, image 1/1",
        "step  2/20  reward 0.75  best 0.75 at  2  1.5 s  out of steps  flipped: text 2/2, image 1/1",
    ]
    assert lines[-6].startswith("first image: 0.25")
    assert lines[-5].startswith("best image:  0.75") and lines[-5].endswith("at step 2")
    assert lines[-4] == "ended:       out of steps (all steps are made)"
    strip = Path(lines[-3].removeprefix("all images:  "))
    assert strip.name == "strip.png" and strip.is_file()
    assert lines[-2:] == ["run: run", "page: run/index.html"]
    assert read_run("run").manifest.status == "finished"


def test_json_is_one_object_a_task_on_standard_output(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.values = [[0.25, 0.5, 0.75], [1.0]]
    assert main(["generate", APPLE, CLOCK, "--json"]) == 0
    captured = capsys.readouterr()
    apple, clock = (json.loads(line) for line in captured.out.splitlines())
    keys = ["prompt", "first_reward", "best_reward", "steps", "drawings", "seconds", "finished"]
    assert list(apple) == [*keys, "picture", "run"]
    assert [apple[key] for key in keys] == [APPLE, 0.25, 0.75, 2, 3, 1.5, "out of steps"]
    assert [clock[key] for key in keys] == [CLOCK, 1.0, 1.0, 0, 1, 0.5, "met"]
    assert Path(apple["picture"]).is_file()
    assert Path(apple["run"]).parent == Path("runs").resolve()
    assert read_run(apple["run"]).manifest.tasks_finished == 2
    assert captured.err.startswith("milr: loading")
    assert "first images: 0.62 on average" in captured.err
    assert "ended:       1 out of steps (all steps are made), 1 met (the reward is" in captured.err


def test_unscored_is_null_with_its_reason(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.values = [[math.nan, math.nan]]
    assert main([*RUN, "--json"]) == 3
    captured = capsys.readouterr()
    outcome = json.loads(captured.out)
    assert (outcome["first_reward"], outcome["best_reward"]) == (None, None)
    assert outcome["reason"] == "the fake said nan"
    assert "first image: unscored: the fake said nan" in captured.err


@pytest.mark.slow
def test_settings_not_given_are_the_models_own(stage: Stage) -> None:
    assert main([*RUN, "--lr", "0.5", "--batch-size", "3", "--strategy", "alt", "--seed", "9", "--stop-at", "0.7"]) == 0
    assert stage.settings == make_settings(
        "milr",
        {"learning_rate": 0.5, "guidance": 2.0, "batch_size": 3, "strategy": "alt", "seed": 9, "stop_at": 0.7},
    )
    assert read_run("run").manifest.settings == stage.settings


def test_a_strategys_recommendations_override_the_models_defaults(stage: Stage) -> None:
    assert main([*RUN, "--strategy", "steer"]) == 0
    recommended = STRATEGIES["steer"].defaults
    assert {name: stage.settings.get(name) for name in recommended} == recommended
    assert main([*RUN[:-1], "other", "--strategy", "steer", "--learning-rate", "0.5"]) == 0
    assert stage.settings.get("learning_rate") == 0.5 and stage.settings.get("text_ratio") == 1.0


def test_the_default_is_the_models_best_measured_method_and_milr_is_the_papers(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["generate", APPLE, "--model", write_measured(Path("measured")), "--out"]
    assert main([*run, "run"]) == 0
    assert (stage.method, stage.settings.get("strategy"), stage.settings.get("text_ratio")) == ("milr", "steer", 1.0)
    assert "milr: by the method milr, strategy steer\n" in capsys.readouterr().out
    assert main([*run, "paper", "--method", "milr"]) == 0
    assert (stage.settings.get("strategy"), stage.settings.get("text_ratio")) == ("joint", 0.2)
    assert "milr: by the method milr, strategy joint\n" in capsys.readouterr().out
    assert main([*run, "own", "--image-ratio", "0.5"]) == 0 and stage.settings.get("strategy") == "joint"


def test_a_model_without_a_measured_best_method_gets_the_papers(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_best_method(embedded_folder("embedded-small")) == {}
    assert main([*RUN, "--model", "embedded-small"]) == 0
    assert (stage.method, stage.settings.get("strategy")) == ("milr", "joint")
    assert "milr: by the method milr, strategy joint\n" in capsys.readouterr().out


def test_the_models_config_is_read_once_before_the_model_is_loaded(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read: list[Path] = []
    open_checkpoint = checkpoint.open_checkpoint

    def count(folder: Path, **options: Any) -> object:
        read.append(folder)
        return open_checkpoint(folder, **options)

    monkeypatch.setattr(checkpoint, "open_checkpoint", count)
    assert main([*RUN, "--text-ratio", "0.5"]) == 0
    assert read == [embedded_folder()]


@pytest.mark.parametrize(("least", "code"), [("0.75", 0), ("0.76", 1)])
def test_fail_under_is_the_least_mean_that_passes(stage: Stage, least: str, code: int) -> None:
    assert main([*RUN, "--fail-under", least]) == code
    assert read_run("run").manifest.status == "finished"


def test_another_method_than_the_search_spends_the_drawings(stage: Stage) -> None:
    assert main(RUN) == 0 and stage.method == "milr"
    assert main([*RUN[:-1], "other", "--method", "best-of-n"]) == 0 and stage.method == "best-of-n"
    assert read_run("other").manifest.method == "best-of-n"


def test_a_method_without_steps_and_latents_prints_neither(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.values, stage.change = [[1.0]], lambda record: replace(record, trace=None)
    assert main([*RUN, "--method", "one-shot"]) == 0
    assert "step  0  reward 1.00  best 1.00 at  0  0.5 s  met\n" in capsys.readouterr().out


def test_every_setting_has_an_option(stage: Stage) -> None:
    given: dict[str, object] = {
        "strategy": "t2v",
        "steps": 3,
        "text_ratio": 0.5,
        "image_ratio": 0.25,
        "learning_rate": 0.75,
        "l2": 0.1,
        "gradient": "random",
        "noise": "fixed",
        "drawings_per_step": 2,
        "guidance": 3.0,
        "temperature": 0.9,
        "top_k": 40,
        "sampler": "inverse",
        "seed": 11,
        "stop_at": 0.8,
        "batch_size": 4,
        "max_drawings": 2.5,
        "max_seconds": 10.0,
        "max_reward_calls": 30,
        "max_cost": 0.5,
        "total_drawings": 20.0,
        "total_seconds": 100.0,
        "total_reward_calls": 300,
        "total_cost": 1.5,
    }
    assert given.keys() == all_fields().keys()
    argv = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert main([*RUN, *map(str, argv), "--device", "cuda:1", "--dtype", "float32"]) == 0
    assert read_run("run").manifest.settings == make_settings("milr", given)
    assert stage.settings == make_settings("milr", {**given, "total_seconds": stage.settings.run.total_seconds})
    assert stage.loaded == [("embedded", "cuda:1", "float32")] and stage.options["graphs"] is True
    assert main(["generate", APPLE, "--no-graphs", "--out", "other"]) == 0
    assert stage.options["graphs"] is False


@pytest.mark.parametrize("reason", ["out of time", "out of reward calls", "out of drawings", "out of money"])
def test_a_limit_is_named_on_the_tasks_line_and_at_the_end(
    stage: Stage, reason: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.change = lambda record: replace(record, finished=record.finished and reason)
    assert main(RUN) == 0
    out = capsys.readouterr().out
    assert f"1.5 s  {reason}  flipped" in out and f"ended:       {reason} (--max-" in out


def test_a_task_that_ends_without_new_images_keeps_its_best(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    def cut(record: StepRecord) -> StepRecord:
        return record if record.step < 2 else replace(record, images=(), scores=(), trace=None, finished="cancelled")

    stage.values, stage.change = [[0.75, 0.5, 0.25]], cut
    assert main([*RUN, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["finished"] == "cancelled" and json.loads(captured.out)["best_reward"] == 0.75
    assert "step  2/20  best 0.75 at  0  1.5 s  cancelled\n" in captured.err


@pytest.mark.slow
def test_the_cost_of_paid_judges_is_in_the_json(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.change = lambda record: replace(record, cost=0.25 * (record.step + 1))
    assert main([*RUN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"] == 0.75


def test_prompts_come_from_arguments_and_files_as_one_batch(stage: Stage) -> None:
    Path("prompts.txt").write_text(f"{CLOCK}\n")
    stage.values = [[0.5], [1.0]]
    assert main([*RUN, "--prompts", "prompts.txt"]) == 0
    assert [task.prompt for task in stage.tasks] == [APPLE, CLOCK]
    assert [(task.index, task.task.prompt) for task in read_run("run").tasks] == [(0, APPLE), (1, CLOCK)]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--text-ratio", "1.5", "--text-ratio 1.5: must be in [0, 1]"),
        ("--image-ratio", "-0.1", "--image-ratio -0.1: must be in [0, 1]"),
        ("--stop-at", "2", "--stop-at 2.0: must be in [0, 1]"),
        ("--text-ratio", "nan", "--text-ratio nan: must be in [0, 1]"),
        ("--steps", "-1", "--steps -1: must be at least 0"),
        ("--lr", "-1", "--lr -1.0: must be at least 0"),
        ("--max-seconds", "0", "--max-seconds 0.0: must be above 0"),
        ("--vlm-price", "2.5", "--vlm-price 2.5: give two prices"),
        ("--batch-size", "0", "--batch-size 0: must be at least 1"),
        ("--temperature", "0", "--temperature 0.0: must be above 0"),
        ("--method", "prm", "unknown method 'prm': did you mean 'parm'?"),
        (
            "--strategy",
            "jont",
            "unknown strategy 'jont': did you mean 'joint'? known: alt, joint, no-text, steer, steer-both, t2v",
        ),
        ("--gradient", "rewards", "unknown gradient 'rewards': did you mean 'reward'?"),
        ("--noise", "loud", "unknown noise 'loud': known: fixed, fresh"),
        ("--dtype", "bfloat", "unknown dtype 'bfloat': did you mean 'bfloat16'?"),
        ("--reward", "icon", "unknown reward 'icon': did you mean 'icons'?"),
        ("--model", "embeded", "unknown model 'embeded': did you mean 'embedded'?"),
        ("--prompts", "none.txt", "no file 'none.txt'"),
        ("--steps", "many", "--steps"),
        ("--stepz", "3", "--stepz"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_how_to_fix_it(
    refused: Refused, option: str, value: str, said: str
) -> None:
    assert said in refused(*RUN, option, value)


def test_missing_and_empty_prompts_are_refused(refused: Refused) -> None:
    assert 'no prompt given: type milr generate "a red apple and two' in refused("generate")
    assert "a prompt is empty" in refused("generate", APPLE, " ")
    assert "generat" in refused("generat", APPLE)


def test_a_run_is_never_overwritten(stage: Stage, refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    stage.loaded.clear()
    kept = Path("run/run.json").read_bytes()
    capsys.readouterr()
    assert "holds another run; nothing was overwritten" in refused(*RUN)
    assert Path("run/run.json").read_bytes() == kept


def test_an_unknown_word_is_refused(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a photo of a red appel"]) == 2
    error = capsys.readouterr().err
    assert "appel" in error and error.count("\n") == 1
    assert not Path("runs").exists()


def test_an_error_in_the_search_leaves_a_readable_run(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.values, stage.error = [[1.0], [0.5, 0.5]], MilrError("step 1 of task 1: the gradient is NaN")
    assert main([*RUN, CLOCK, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == (
        "error: step 1 of task 1: the gradient is NaN (1 of 2 tasks finished and kept in run; "
        "to go on, type: milr generate --resume run)"
    )
    assert json.loads(captured.out)["best_reward"] == 1.0
    found = read_run("run")
    assert (found.manifest.status, len(found.tasks)) == ("failed", 1)


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_finished(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.values, stage.error = [[1.0], [0.5, 0.5]], KeyboardInterrupt()
    assert main([*RUN, CLOCK]) == 130
    said = capsys.readouterr().out
    assert "interrupted; 2 of 2 tasks finished and kept in run, 1 of them early, with the best image so far" in said
    assert "to go on, type: milr generate --resume run\n" in said
    found = read_run("run")
    assert found.manifest.status == "interrupted"
    assert [task.last.finished for task in found.tasks] == ["met", "cancelled"]
    assert not list(Path("run").rglob("*.part"))
    for task in found.tasks:
        best = (task.folder / "best.png").read_bytes()
        assert best == task.find_file(task.answer.image).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_real_search_keeps_the_best_image_so_far(
    number: signal.Signals, tmp_path: Path, forks: ForkServer
) -> None:
    words = [*RUN, *["--reward", "icons-soft", "--stop-at", "1", "--steps", "1000", "--method", "milr", "--verbose"]]
    milr = forks.caller("milr", "milr")
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([milr, *words], cwd=tmp_path, env=unbuffered, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("step  1" in line for line in lines)
        process.send_signal(number)
        said = "".join(lines)
    assert process.returncode == 130
    assert "1 of 1 tasks finished and kept in run, 1 of them early" in said
    assert said.splitlines()[-1].endswith("run/index.html")
    (task,) = read_run(tmp_path / "run").tasks
    assert task.last.finished == "cancelled" and (task.folder / "best.png").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_loading_ends_without_a_run(
    number: signal.Signals, stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("milr.parts.load_model", lambda *names, **options: signal.raise_signal(number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background command of a shell ignores it
    try:
        assert main(RUN) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.strip() == "milr: interrupted" and not Path("run").exists()


def test_prompts_are_read_before_a_model_is_loaded(refused: Refused, tmp_path: Path) -> None:
    assert "did you mean 'dog'?" in refused("generate", "a dgo", "--out", "run")
    (tmp_path / "prompts.txt").write_text("a dog\na unicorn\n")
    assert "line 2" in refused("generate", "--prompts", "prompts.txt", "--out", "run")


def test_a_prompt_without_quotes_gets_a_hint(
    refused: Refused, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 'did you mean milr generate "two dogs"?' in refused("generate", "two", "dogs")
    assert 'did you mean milr generate "a red apple"?' in refused("generate", "a", "red", "apple")
    assert "did you mean" not in refused("generate", "a unicorn", "two")
    stage.values = [[1.0], [1.0]]
    assert main(["generate", "cat", "dog"]) == 0
    assert capsys.readouterr().out.startswith('milr: 2 prompts of one word each: did you mean milr generate "cat dog"?')


def test_the_model_gets_its_form_and_the_run_keeps_the_users_words(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "A BIG Red Apple.", "--out", "run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "milr: 'A BIG Red Apple.' is read as 'a red apple': 'big' is ignored",
        "milr: loading the embedded model ...",
    ]
    (task,) = stage.tasks
    assert (task.prompt, task.typed) == ("a red apple", "A BIG Red Apple.")
    assert read_run("run").tasks[0].task == task
    assert main(["generate", "A BIG Red Apple.", "--json", "--out", "other"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["prompt"], outcome["typed"]) == ("a red apple", "A BIG Red Apple.")


def make_natural(folder: Path) -> None:
    """Return the folder of a model that reads any text and draws any scene, without weights."""
    shutil.copytree(embedded_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    said = json.loads((folder / "milr.json").read_text())
    (folder / "milr.json").write_text(json.dumps({**said, "grammar": "free"}))


def test_the_default_reward_follows_the_model_and_is_placed_with_it(stage: Stage, tmp_path: Path) -> None:
    make_natural(tmp_path / "free")
    assert main(RUN) == 0
    assert main(["generate", APPLE, "--model", "free", "--out", "natural"]) == 0
    argv = ["--panel", "geneval", "--reward", "gpt-4o", "--device", "meta", "--dtype", "bfloat16", "--out", "asked"]
    assert main(["generate", APPLE, "--model", "free", *argv]) == 0
    there = Placement("meta", "bfloat16")
    assert stage.placed == {"icons": Placement(), "self": Placement(), "gpt-4o": there, "geneval": there}
    manifests = [read_run(name).manifest for name in ("run", "natural", "asked")]
    assert [one.reward_asked for one in manifests] == ["icons", "self", "gpt-4o"]
    assert [one.model_asked for one in manifests] == ["embedded", "free", "free"]
    machines = [one.sessions[0].machine for one in manifests]
    assert [(one["device"], one["reward_device"]) for one in machines] == [
        ("cpu", "cpu"),
        ("cpu", "cpu"),
        ("meta", "server"),
    ]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--reward", "icons"], "the reward 'icons' reads icons only"),
        (["--reward", "mix:self*0.5+icons-soft*0.5"], "the reward 'icons-soft' reads icons only"),
        (["--reward", "geneval"], "needs what GenEval's rules can decide"),
        (["--reward", "wise"], "the reward 'wise' needs an explanation"),
        (["--panel", "icons"], "give --panel one of these: self, gpt-4o, unified-reward"),
    ],
)
def test_a_reward_of_another_world_is_refused(
    argv: list[str], said: str, stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_natural(tmp_path / "free")
    assert main(["generate", "morning fog", "--model", "free", "--out", "run", *argv]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and "self, gpt-4o, unified-reward" in captured.err and captured.err.count("\n") == 1
    assert not stage.loaded and not stage.placed and not Path("run").exists()


def test_a_model_that_reads_any_text_gets_the_prompt_as_typed(stage: Stage, tmp_path: Path) -> None:
    make_natural(tmp_path / "free")
    assert main(["generate", "A BIG Red Apple, by Monet.", "--model", "free", "--out", "run"]) == 0
    assert [task.prompt for task in stage.tasks] == ["A BIG Red Apple, by Monet."]
    (tmp_path / "free" / "milr.json").write_text('{"grammar": "icons"}')
    assert main(["generate", "A BIG Red Apple, by Monet.", "--model", "free", "--out", "other"]) == 2


FREE = ["--model", "milr.testing:FakeModel", "--reward", "milr.testing:FakeReward", "--method", "best-of-n"]


def test_shards_together_draw_the_whole_runs_images_and_an_evaluator_scores_every_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = ["a red cat", "two dogs", "a big tree"]
    drawn = [*FREE, "--steps", "2", "--evaluator", "milr.testing:FakeReward"]
    assert main(["generate", *prompts, *drawn, "--out", "whole"]) == 0
    assert "by fake@1, which was not optimised" in capsys.readouterr().out
    for number in (1, 2):
        assert main(["generate", *prompts, *drawn, "--shard", f"{number}/2", "--out", f"shard{number}"]) == 0
    whole, first, second = (read_run(name).tasks for name in ("whole", "shard1", "shard2"))
    shown = [[(step.images, step.scores) for step in task.steps] for task in whole]
    shards = [first[0], second[0], first[1]]
    assert [[(step.images, step.scores) for step in task.steps] for task in shards] == shown
    assert all(len(task.evaluated) == len(task.images) for task in whole)
    assert main(["generate", *prompts, *drawn, "--shard", "4/9"]) == 2
    assert "--shard 4/9 has none of 3 prompts" in capsys.readouterr().err


def test_an_interrupted_search_resumes_to_the_results_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["generate", "a red cat", "a red cat", "two dogs", *FREE, "--steps", "3", "--batch-size", "2"]
    assert main([*argv, "--evaluator", "milr.testing:FakeReward", "--out", "whole"]) == 0
    draws = iter([False] * 2 + [True])

    def draw(self: FakeModel, *arguments: object) -> object:
        if next(draws, False):
            raise KeyboardInterrupt
        return made(self, *arguments)  # type: ignore[arg-type]

    made = FakeModel.draw
    with monkeypatch.context() as patch:
        patch.setattr(FakeModel, "draw", draw)
        assert main([*argv, "--evaluator", "milr.testing:FakeReward", "--out", "cut"]) == 130
    said = capsys.readouterr().out
    assert "2 of them early, with the best image so far" in said and "type: milr generate --resume cut" in said
    assert all((task.folder / "best.png").is_file() for task in read_run("cut").tasks)
    code = ["--model", FREE[1], "--reward", FREE[3]]
    assert main(["generate", "--resume", "cut"]) == 2
    assert main(["generate", "--resume", "cut", *code]) == 0
    whole, cut = ([(task.answer, task.evaluated) for task in read_run(name).tasks] for name in ("whole", "cut"))
    assert whole == cut and len(cut) == 3
