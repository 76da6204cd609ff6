"""Text chunks of a run's PNG files, and `milr show`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import milr
from milr.cli.main import main
from milr.runs.metadata import read_texts
from milr.testing import FakeModel, fake_score
from milr.types import Score, Unscored

FAKE: dict[str, Any] = {"model": FakeModel(), "method": "best-of-n", "steps": 2, "seed": 7, "stop_at": 1.0}


def test_every_png_of_a_run_says_how_it_was_made(tmp_path: Path) -> None:
    result = milr.generate("ein roter Kater, 一只猫", reward=lambda images, tasks: [0.25], out=tmp_path / "run", **FAKE)
    pngs = sorted((tmp_path / "run").rglob("*.png"))
    assert len(pngs) == 5  # three steps, the best one, the strip
    for file in pngs:
        texts = read_texts(file)
        assert (texts["prompt"], texts["seed"], texts["model"]) == ("ein roter Kater, 一只猫", "7", "fake")
        assert (texts["method"], texts["score"], texts["reward"]) == ("best-of-n", "0.25", "<lambda>")
        assert json.loads(texts["settings"])["steps"] == 2 and texts["software"].startswith("milr ")
    for record, image in zip(result.records, result.run.images, strict=True):
        texts = read_texts(result.folder / image.image.file)
        assert (texts["reasoning"], texts["step"]) == (record.reasoning.text, str(record.step))
    assert read_texts(result.folder / "best.png")["reasoning"] == result.reasoning


def test_the_best_images_text_is_its_own_and_an_unscored_image_says_why(tmp_path: Path) -> None:
    values = iter([fake_score(float("nan")), fake_score(0.75), fake_score(0.5)] * 2)

    def reward(images: Any, tasks: Any) -> list[Score | Unscored]:
        return [next(values)]

    result = milr.generate("a cat", reward=reward, out=tmp_path / "run", **{**FAKE, "method": "best-of-n-sampled"})
    best = read_texts(result.folder / "best.png")
    assert (best["step"], best["score"]) == (str(result.run.last.best_step), "0.75")
    assert best["reasoning"] == result.reasoning


def test_show_prints_what_an_image_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = milr.generate("a \x1b[2Jcat", reward=lambda images, tasks: [0.25], out=tmp_path / "run", **FAKE)
    best = str(result.folder / "best.png")
    assert main(["show", best]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "score      0.25" in shown and "seed       7" in shown
    shutil.copy(best, tmp_path / "copy.png")
    assert main(["show", str(tmp_path / "copy.png"), best, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt"] for line in lines] == ["a \x1b[2Jcat"] * 2 and lines[0]["file"].endswith("copy.png")


def test_show_says_what_is_no_image_of_milr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "other.jpg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "bare.png").read_bytes()[:40])
    for name, told in {
        "bare.png": "does not say how it was made",
        "other.jpg": "it is no PNG image",
        "cut.png": "it is no PNG image",
        "none.png": "there is no such file",
    }.items():
        assert main(["show", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1
