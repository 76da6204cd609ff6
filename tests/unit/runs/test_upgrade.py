"""Runs of milr 0.1 (format 1) are read as today's runs, and not resumed."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from milr.benchmarks import load_benchmark
from milr.benchmarks.runner import BenchmarkJob
from milr.cli.main import main
from milr.errors import UsageError
from milr.methods import METHODS
from milr.report.entries import make_entries
from milr.runs import (
    Run,
    RunWriter,
    evaluate_run,
    pack_run,
    read_manifest,
    read_packed,
    read_run,
    read_task,
    unpack_run,
)
from milr.runs.upgrade import upgrade_settings
from milr.settings import MilrSettings, Settings, StepSettings
from milr.testing import FakeReward, fake_records
from milr.types import LatentTrace, Score, Task

CONFIG: dict[str, Any] = {
    "strategy": "alt",
    "steps": 7,
    "text_ratio": 0.5,
    "image_ratio": 0.25,
    "learning_rate": 0.06,
    "l2": 0.125,
    "stop_at": None,
    "credit": "negated",
    "noise": "fixed",
    "drawings_per_step": 2,
    "guidance": 1.5,
    "temperature": 0.75,
    "sampler": "inverse",
    "seed": 3,
    "max_rows": 5,
}
"""Every field of format 1's `SearchConfig`."""
TASK = {"prompt": "a red cat", "tag": "colors", "include": [], "exclude": [], "explanation": None}
VERSIONS = {"milr": "0.1.0", "python": "3.11.2", "torch": "2.6.0", "transformers": "5.20.0"}
USAGE = {"url": "u", "calls": 4, "cached": 0, "tokens_in": 40, "tokens_out": 4}
SPENT = {"seconds": 12.5, "drawings": 3.5, "tokens": 99, "reward_calls": 4, "judged": 4, "judge_seconds": 2.5}
SESSION = {
    **SPENT,
    "host": "h",
    "process": 11,
    "started": "2025-11-01T10:00:00+00:00",
    "machine": {"platform": "Linux", "cpus": 2},
    "versions": VERSIONS,
    "status": "finished",
    "error": None,
    "judges": USAGE,
}
MANIFEST = {
    **SPENT,
    "format": 1,
    "status": "finished",
    "error": None,
    "method": "milr",
    "benchmark": "icons",
    "data": None,
    "places": [5],
    "shard": None,
    "images_per_prompt": 1,
    "model": "fake",
    "model_asked": "fake",
    "model_folder": None,
    "device": "cpu",
    "dtype": None,
    "profile": None,
    "reward": "bright@1",
    "reward_asked": "bright",
    "judge": "even@1",
    "judge_asked": "even",
    "panel": [],
    "judges": USAGE,
    "config": CONFIG,
    "deterministic": True,
    "tasks": [TASK],
    "versions": VERSIONS,
    "platform": "Linux",
    "started": "2025-11-01T10:00:00+00:00",
    "finished": "2025-11-01T10:01:00+00:00",
    "sessions": [SESSION],
    "tasks_finished": 1,
}


def old_score(value: float, reward: str) -> dict[str, Any]:
    return {"value": value, "reward": reward, "stop_at": 0.9, "parts": {}, "explanation": "", "evidence": {}}


def old_image(step: int, number: int) -> dict[str, Any]:
    return {"tokens": [step, number, 7], "picture": f"steps/{step:02d}-{number}.png"}


def old_step(step: int) -> dict[str, Any]:
    return {
        "task": TASK,
        "index": 0,
        "image": 0,
        "step": step,
        "moved": ["text"] if step else [],
        "reasoning": {"text": f"words of step {step}", "tokens": [1, 2]},
        "drawings": [old_image(step, 0), old_image(step, 1)],
        "scores": [
            old_score(0.25 + step / 2, "bright@1"),
            {"reason": "too dark", "reward": "bright@1", "final": False},
        ],
        "best": old_image(step, 0),
        "best_score": old_score(0.25 + step / 2, "bright@1"),
        "best_step": step,
        "text_latents": 4,
        "image_latents": 2,
        "flipped_text": 3 * step,
        "flipped_image": step,
        "text_shift": 0.5 * step,
        "image_shift": 0.25 * step,
        "log_probability": -1.5 if step else None,
        "drawings_spent": 2.0 * (step + 1) - step / 2,
        "tokens_spent": 40 * (step + 1),
        "reward_calls": 2 * (step + 1),
        "seconds": 1.5 * (step + 1),
        "finished": "out of steps" if step else None,
        "notes": ["a note"],
        "panel_first": {"sharp@1": old_score(0.5, "sharp@1")},
        "panel_best": {},
    }


STEPS = [old_step(0), old_step(1)]
JUDGED = [
    {"step": step, "number": number, "score": old_score(number / 2, "even@1")} for step in (0, 1) for number in (0, 1)
]


def write_old(folder: Path, **changes: Any) -> Path:
    """Return a run folder as milr 0.1 wrote it."""
    manifest = {**MANIFEST, **changes}
    task = folder / "tasks" / f"0000-{Task.model_validate(TASK).key}"
    (task / "steps").mkdir(parents=True)
    for step in STEPS:
        for number, image in enumerate(step["drawings"]):
            Image.new("RGB", (4, 4), (40 * step["step"], 90 * number, 0)).save(task / image["picture"])
    (task / "records.jsonl").write_text("".join(json.dumps(step) + "\n" for step in STEPS))
    (task / "judged.jsonl").write_text("".join(json.dumps(line) + "\n" for line in JUDGED))
    (folder / "run.json").write_text(json.dumps(manifest))
    return folder


def test_every_field_of_a_folder_of_format_1_is_read(tmp_path: Path) -> None:
    run = read_run(write_old(tmp_path / "old"))
    manifest = run.manifest
    assert (manifest.format, manifest.method) == (2, "milr")
    assert manifest.settings.own == MilrSettings(
        steps=7,
        strategy="alt",
        text_ratio=0.5,
        image_ratio=0.25,
        learning_rate=0.06,
        l2=0.125,
        gradient="negated",
        noise="fixed",
        drawings_per_step=2,
    )
    assert manifest.settings.sampling.model_dump() == {
        **{"guidance": 1.5, "temperature": 0.75, "sampler": "inverse"},
        "top_k": 0,
    }
    assert (manifest.settings.run.seed, manifest.settings.run.stop_at, manifest.settings.run.batch_size) == (3, None, 5)
    assert (manifest.evaluator, manifest.evaluator_asked, manifest.vlm_usage) == ("even@1", "even", USAGE)
    assert (manifest.evaluated, manifest.evaluator_seconds, manifest.cost) == (4, 2.5, 0.0)
    (session,) = manifest.sessions
    assert (session.evaluated, session.evaluator_seconds, session.vlm_usage) == (4, 2.5, USAGE)
    renamed = ("format", "method", "config", "sessions", "judge", "judge_asked", "judges", "judged", "judge_seconds")
    now = manifest.model_dump(mode="json", by_alias=True)
    for name in MANIFEST.keys() - {*renamed, "started", "finished", "tasks"}:
        assert now[name] == MANIFEST[name], name
    assert manifest.tasks == (Task.model_validate(TASK),)

    (task,) = run.tasks
    assert task == read_task(task.folder)
    for step, old in zip(task.steps, STEPS, strict=True):
        assert [(image.tokens, image.file) for image in step.images] == [
            (tuple(image["tokens"]), image["picture"]) for image in old["drawings"]
        ]
        assert step.best.file == old["best"]["picture"]
        assert step.trace == LatentTrace(
            moved=tuple(old["moved"]),
            text_latents=4,
            image_latents=2,
            flipped_text=old["flipped_text"],
            flipped_image=old["flipped_image"],
            text_shift=old["text_shift"],
            image_shift=old["image_shift"],
            log_probability=old["log_probability"],
        )
        for name in ("step", "drawings_spent", "tokens_spent", "reward_calls", "seconds", "finished"):
            assert getattr(step, name) == old[name], name
        assert (step.cost, step.notes, step.reasoning.text) == (0.0, ("a note",), old["reasoning"]["text"])
        assert step.scores[0] == Score(old["scores"][0]["value"], "bright@1", 0.9)
        assert step.panel_first == {"sharp@1": Score(0.5, "sharp@1", 0.9)}
    assert [one.evaluator for one in task.images] == [Score(line["score"]["value"], "even@1", 0.9) for line in JUDGED]
    assert task.load_image(task.answer.image).getpixel((0, 0)) == (40, 0, 0)
    (entry,) = make_entries([run])  # and can be in a report
    assert entry.evaluated and entry.settings.get("gradient") == "negated"


def test_reward_calls_that_were_not_counted_were_one_per_drawing(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "old")
    (records,) = folder.glob("tasks/*/records.jsonl")
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    records.write_text("".join(json.dumps({k: v for k, v in x.items() if k != "reward_calls"}) + "\n" for x in lines))
    assert [step.reward_calls for step in read_run(folder).tasks[0].steps] == [2, 3]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_its_settings_and_methods_without_latents_have_no_trace(tmp_path: Path, method: str) -> None:
    run = read_run(write_old(tmp_path / "old", method=method))
    settings = run.manifest.settings
    assert settings.method == method
    assert settings.get("steps") == (7 if isinstance(settings.own, StepSettings) else None)
    assert ("gradient" in settings.flat) == (method == "milr") == (run.tasks[0].last.trace is not None)
    assert (settings.get("guidance"), settings.get("seed"), settings.get("batch_size")) == (1.5, 3, 5)


def test_a_wrong_value_is_refused_and_steers_ratio_is_kept() -> None:
    with pytest.raises(UsageError, match="unknown strategy 'sideways'"):
        upgrade_settings("milr", {**CONFIG, "strategy": "sideways"})
    # It was stored with every run, used or not; two such runs stay one entry.
    assert upgrade_settings("milr", {**CONFIG, "strategy": "steer"})["own"]["image_ratio"] == 0.25


def test_a_folder_of_format_1_is_not_resumed(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "old", status="interrupted")
    for resume in (RunWriter.resume, BenchmarkJob.resume):
        with pytest.raises(UsageError, match="made by milr 0.1 and cannot be resumed: read and report it, and begin"):
            resume(folder)
    broken = write_old(tmp_path / "broken", config={"steps": -1})
    with pytest.raises(UsageError, match="steps -1"):
        read_manifest(broken)


def test_a_folder_of_format_1_can_be_evaluated(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "old")
    before = read_run(folder)
    list(evaluate_run(folder, FakeReward(name="other@1"), "other"))
    after = read_run(folder)
    assert json.loads((folder / "run.json").read_text())["format"] == 2
    assert after.tasks[0].steps == before.tasks[0].steps
    assert {one.score.reward for one in after.tasks[0].evaluated} == {"other@1"}


def no_tasks(manifest: object) -> list[Task]:
    raise AssertionError("the tasks are in the file")


def test_a_packed_run_of_format_1_equals_its_folder_and_is_repacked_in_format_2(tmp_path: Path) -> None:
    folder = read_run(write_old(tmp_path / "old"))
    steps = [
        {**{k: v for k, v in step.items() if k not in ("task", "index", "image")}, "best": step["best"]["picture"]}
        for step in STEPS
    ]
    lines = [
        {"packed": 1, "manifest": MANIFEST},
        {"index": 0, "image": 0, "best": "0123", "steps": steps, "judged": JUDGED},
    ]
    file = tmp_path / "old.run.xz"
    file.write_bytes(lzma.compress(b"\n".join(json.dumps(line).encode() for line in lines)))
    run, digests = read_packed(file, no_tasks)
    assert digests == {(0, 0): "0123"}
    assert run.manifest == folder.manifest
    assert (run.tasks[0].steps, run.tasks[0].evaluated) == (folder.tasks[0].steps, folder.tasks[0].evaluated)
    packed = pack_run(folder)
    first, second = map(json.loads, lzma.decompress(packed).splitlines())
    assert (first["packed"], first["manifest"]["format"]) == (2, 2)
    assert second["steps"][0]["images"][0]["file"] == "steps/00-0.png" and len(second["evaluated"]) == 4
    (tmp_path / "new.run.xz").write_bytes(packed)
    again, _ = read_packed(tmp_path / "new.run.xz", no_tasks)
    assert (again.manifest, again.tasks[0].steps) == (folder.manifest, folder.tasks[0].steps)


@pytest.fixture(scope="module")
def published() -> Run:
    """Return a run of all of icons-hard, as milr 0.1 packed it."""
    run, _ = read_packed(Path(__file__).parent / "data" / "milr-0.1.run.xz", no_tasks)
    return run


def test_a_published_packed_run_reads(published: Run, tmp_path: Path) -> None:
    manifest = published.manifest
    assert (manifest.method, manifest.benchmark, len(published.tasks)) == ("one-shot", "icons-hard", 150)
    assert manifest.evaluator is not None and manifest.evaluator.startswith("icons-judge@")
    assert manifest.tasks == tuple(load_benchmark("icons-hard").read(None))
    assert all(task.answer.evaluator is not None and task.last.trace is None for task in published.tasks)
    assert manifest.settings.get("batch_size") == 192 and manifest.settings.get("strategy") is None
    list(unpack_run(published, {}, tmp_path / "out", None, "none"))
    again = read_run(tmp_path / "out")
    assert again.manifest == manifest
    assert [task.steps for task in again.tasks] == [task.steps for task in published.tasks]


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (("wise", "wise"), ("wise-legacy", "wise-legacy")),
        (("wise-verified", "wise-verified"), ("wise", "wise")),
        (("icons", "mix:wise*0.5+wise-verified*0.5"), ("icons", "mix:wise-legacy*0.5+wise*0.5")),
        (("icons", "./wise.py:wise_up"), ("icons", "./wise.py:wise_up")),
        ((None, "otherwise"), (None, "otherwise")),
    ],
)
def test_names_with_a_new_meaning_are_renamed_once(
    was: tuple[str | None, str], now: tuple[str | None, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    task = Task(prompt="x", tag="Time")
    begun = RunWriter(run, tasks=[task], settings=Settings(), model="fake", reward="wise@2/judge", places=(400,))
    with begun as writing:
        for record in fake_records([task], [[0.5]]):
            writing.write(record)
    stored = json.loads((run / "run.json").read_text())
    benchmark, reward = was
    old = {**stored, "benchmark": benchmark, "reward_asked": reward, "panel_asked": [reward]}
    assert old.pop("names") == 2
    (run / "run.json").write_text(json.dumps(old))
    manifest = read_run(run).manifest
    assert (manifest.benchmark, manifest.reward_asked, manifest.panel_asked) == (*now, (now[1],))
    assert manifest.reward == "wise@2/judge"  # its version says what it is
    (tmp_path / "new.run.xz").write_bytes(pack_run(read_run(run)))
    packed, _ = read_packed(tmp_path / "new.run.xz", lambda _: [task])
    assert (packed.manifest.benchmark, packed.manifest.reward_asked) == now  # not renamed twice


@pytest.mark.parametrize(
    "command",
    [
        ["benchmark", "wise-verified"],
        ["generate", "fog", "--reward", "wise-verified"],
        ["data", "get", "wise-verified"],
        ["doctor", "wise-verified"],
    ],
)
def test_an_old_name_is_refused_with_the_new_one(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert "'wise-verified' is called 'wise' now: type wise\n" in capsys.readouterr().err
