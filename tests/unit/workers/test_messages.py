"""Images on their way from a worker to the run: encoded once, where they are drawn."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from milr import types
from milr.methods import load_method
from milr.methods.runner import Runner
from milr.png import encode_png
from milr.runs.layout import STRIP
from milr.runs.metadata import KEYS, add_texts, read_texts
from milr.runs.task_folder import TaskFolder
from milr.tasks import tasks_from_prompts
from milr.testing import FakeModel, FakeReward, brightness
from milr.types import ImageSample, StepRecord


def draw() -> list[StepRecord]:
    """Return the records of one task."""
    model = FakeModel()
    settings = model.settings("best-of-n", steps=2, stop_at=1.0)
    tasks = tasks_from_prompts(["two dogs"], free=True)
    return list(Runner(load_method("best-of-n"), tasks, model, FakeReward(brightness), settings))


def write(folder: Path, records: list[StepRecord]) -> dict[str, bytes]:
    """Write a task's folder; return all of its files."""
    task = TaskFolder(folder / "task", 0, {"seed": "7"})
    for record in records:
        task.add(record)
    task.conclude(records[-1])
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_writer_of_a_run_encodes_no_image_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = draw()
    here = write(tmp_path / "here", records)
    sent: list[StepRecord] = pickle.loads(pickle.dumps(records))
    encoded: list[tuple[int, int]] = []

    def count(image: Image.Image, level: int = 6) -> bytes:
        encoded.append(image.size)
        return encode_png(image, level)

    monkeypatch.setattr(types, "encode_png", count)
    assert write(tmp_path / "there", sent) == here  # times too: the records are the same
    assert not encoded and STRIP in {Path(name).name for name in here}
    assert sent[0] == records[0] and sent[0].images[0].image.mode == "RGB"


def test_a_sample_without_an_image_says_so() -> None:
    empty = object.__new__(ImageSample)
    with pytest.raises(AttributeError, match="has no attribute 'image'"):
        _ = empty.image


def test_texts_are_written_as_pillow_writes_them(tmp_path: Path) -> None:
    image, texts = Image.new("RGB", (8, 4), "red"), {key: f"{key} 一只猫" for key in KEYS}
    chunks, out = PngImagePlugin.PngInfo(), BytesIO()
    for key in KEYS:
        chunks.add_itxt(key, texts[key])
    image.save(out, "PNG", pnginfo=chunks)
    assert add_texts(encode_png(image), texts) == out.getvalue()
    (tmp_path / "one.png").write_bytes(out.getvalue())
    assert read_texts(tmp_path / "one.png") == texts
