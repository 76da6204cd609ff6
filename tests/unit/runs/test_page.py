"""The page in a run's folder: every prompt, its images and their scores, in one file."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from milr.cli import look
from milr.cli.look import show_page
from milr.methods import load_method
from milr.methods.runner import Runner
from milr.runs import INDEX, RunWriter, read_run, write_page
from milr.runs.page import _IMAGES
from milr.runs.strip import find_outcome
from milr.settings import make_settings
from milr.testing import FakeModel, FakeReward, brightness
from milr.types import Score, Task
from tests.support.report_runs import make_run, make_tasks

NASTY = Task(prompt='<script>alert("1")</script> & a cat {{}}')


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", tasks=[*make_tasks(5), NASTY], steps=2, benchmark=None)


def test_a_run_that_ends_has_a_page_with_all_of_it(run: Path) -> None:
    text, found = (run / INDEX).read_text(), read_run(run)
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)]
    strips = [len(task.images) for task in found.tasks if len(task.images) > 1]
    assert len(pictures) == sum(strips) + len(found.tasks)  # every image, and the best one twice
    assert all(Image.open(io.BytesIO(picture)).format == "JPEG" for picture in pictures)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert len(headings) == 6 and text.count(", best: ") >= 1
    for task in found.tasks:
        if len(task.images) > 1:
            outcome = find_outcome(task.first.scores[0], task.last)
            assert f'class="cell {outcome}"' in text and f"best: {outcome}" in text
    answers = {task.task.shown: task.answer.evaluator for task in found.tasks}
    order = sorted(found.tasks, key=lambda task: -_value(answers[task.task.shown]))
    assert [heading for heading in headings if "cat {" not in heading] == [
        task.task.shown for task in order if task.task is not NASTY and "script" not in task.task.shown
    ]
    assert all(step.reasoning.text in text for task in found.tasks for step in task.steps)
    assert "prefers-color-scheme: dark" in text and "evaluator <b>" in text


def _value(score: object) -> float:
    assert isinstance(score, Score)
    return score.value


def test_the_page_needs_no_other_file_and_no_prompt_writes_into_it(run: Path) -> None:
    text = (run / INDEX).read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "a cat {{}}" in text
    assert all(link.startswith("data:") for link in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "@import" not in text and "url(" not in text


def test_an_interrupted_run_shows_the_searches_that_it_had_begun(tmp_path: Path) -> None:
    tasks, fake = make_tasks(2), FakeModel()
    settings = make_settings("milr", {}, {"steps": 3, "learning_rate": 0.2, "guidance": 2.0, "image_ratio": 0.1})
    reward = FakeReward(brightness, stop_at=1.0)
    with (
        pytest.raises(KeyboardInterrupt),
        RunWriter(tmp_path / "cut", tasks=tasks, settings=settings, model="fake", reward=reward.name) as writer,
    ):
        for record in Runner(load_method("milr"), tasks, fake, reward, settings):
            writer.write(record)
            if record.step == 1:
                raise KeyboardInterrupt
    text = (tmp_path / "cut" / INDEX).read_text()
    assert "interrupted: 0 of 2 searches" in text and "not finished" in text
    assert tasks[0].prompt in text and "data:image/jpeg" in text


def test_a_long_strip_is_thinned_out_and_says_so(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tasks=make_tasks(2), steps=6, stop_at=1.0, method="best-of-n")
    many = [len(task.images) for task in read_run(folder).tasks]
    monkeypatch.setattr("milr.runs.page._IMAGES", 6)
    text = write_page(folder).read_text()
    cells = text.count("<figure")
    assert _IMAGES > sum(many) > cells >= 6 and "images are not on this page" in text
    assert len(re.findall(r"step 0(, best: \w+)?</b>", text)) == 2  # the first image stays


def test_a_missing_image_does_not_affect_the_rest(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tasks=make_tasks(2), steps=1)
    next(iter(sorted((folder / "tasks").glob("*/steps/*.png")))).write_bytes(b"no image")
    assert "the image is gone" in write_page(folder).read_text()


def test_the_path_is_the_last_line_and_open_opens_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    opened: list[str] = []
    monkeypatch.setattr(look.webbrowser, "open", lambda address: bool(opened.append(address)) or True)
    show_page(run, said.append, False)
    assert said == [f"page: {run / INDEX}"] and opened == []
    show_page(run, said.append, True)
    assert opened == [(run / INDEX).as_uri()]
    monkeypatch.setattr(look.webbrowser, "open", lambda address: False)
    show_page(run, said.append, True)
    assert said[-2:] == ["milr: no browser found here: open the page yourself", f"page: {run / INDEX}"]
