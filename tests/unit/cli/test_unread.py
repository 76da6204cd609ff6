"""Options that nothing would read are refused by every command that has them, before anything is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from shlex import split

import pytest
from PIL import Image

from milr.cli.main import main
from tests.support.fake_benchmark import fakes

TASK = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a search's run, a benchmark's run and images in GenEval's layout."""
    folder = tmp_path_factory.mktemp("unread")
    with fakes():
        words = ["--steps", "0", "--reward", "icons-soft", "--evaluator", "icons", "--out"]
        assert main(["benchmark", "icons", "--limit", "2", *words, str(folder / "benchmark")]) == 0
        assert main(["generate", "a dog", *words, str(folder / "search")]) == 0
    samples = folder / "images" / "00000" / "samples"
    samples.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(samples / "0000.png")
    (samples.parent / "metadata.jsonl").write_text(json.dumps(TASK))
    return folder


COMMANDS = {
    "generate 'a dog'": "add --reward gpt-4o, or leave",
    "generate 'a dog' --reward icons --evaluator icons-judge --panel icons-soft": "add --reward gpt-4o, or leave",
    "generate --resume search": "add --panel gpt-4o, or leave",
    "benchmark icons": "add --reward gpt-4o, or leave",
    "benchmark wise --reward self": "add --reward gpt-4o, or leave",
    "benchmark --resume benchmark": "leave",
    "ablate gradients": "add --reward gpt-4o, or leave",
    "evaluate benchmark --evaluator icons-judge": "add --evaluator gpt-4o, or leave",
    "score images --prompt 'a dog' --reward icons": "add --reward gpt-4o, or leave",
    "score-folder images --benchmark geneval": "add --reward gpt-4o, or leave",
}
"""Command whose rewards ask no VLM -> advice of the error."""


@pytest.mark.parametrize(("command", "advice"), COMMANDS.items())
@pytest.mark.parametrize("option", ["--vlm-url http://localhost:1/v1", "--vlm-model x", "--vlm-budget 5"])
def test_options_of_vlm_judges_are_refused_if_no_reward_asks_one(
    command: str,
    advice: str,
    option: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    there = sorted(os.listdir())
    assert main([*split(command), *option.split()]) == 2
    flag = option.split()[0]
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {flag}: no reward here asks a VLM: {advice} {flag} out"
    assert sorted(os.listdir()) == there


def test_a_batch_size_is_refused_without_the_probe_that_draws(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--batch-size", "4"]) == 2
    assert "--batch-size is the probe's: add --probe, or leave" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "evaluate benchmark --evaluator icons-judge --model embedded",
            "'icons-judge' asks no model: leave --model out",
        ),
        ("evaluate benchmark --evaluator self --model other", "embedded drew benchmark, not other: leave --model out"),
        ("serve-reward icons --model embedded", "'icons' asks no model: leave --model out"),
    ],
)
def test_a_model_that_is_not_asked_is_refused(
    command: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(split(command)) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)
