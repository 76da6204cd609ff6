"""`milr.generate` and its results; wrong uses of the Python API, each with a one-line error."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import milr
from milr.display import mark_changes
from milr.errors import MilrError
from milr.results import Results
from milr.runs.time_left import TimeLeft
from milr.testing import FakeModel, FakeReward, brightness
from milr.types import Task

FAKE: dict[str, Any] = {"model": "milr.testing:FakeModel", "reward": "milr.testing:FakeReward", "method": "best-of-n"}


def bright(images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[float]:
    return [brightness(image) for image in images]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_prompt_gives_one_result_with_image_text_score_records_and_cost() -> None:
    result = milr.generate("a red cat", **FAKE, steps=3, evaluator=bright)
    assert isinstance(result, milr.Result) and result.prompt == "a red cat"
    best = max(score.value for record in result.records for score in record.scores if isinstance(score, milr.Score))
    assert isinstance(result.score, milr.Score) and result.score.value == best
    last = result.records[-1]
    assert result.image.tobytes() == last.best.image.tobytes() and result.reasoning == last.reasoning.text != ""
    assert (result.cost.drawings, result.cost.reward_calls, result.finished) == (4, 4, "out of steps")
    assert isinstance(result.evaluated, milr.Score) and result.evaluated.reward == "bright"
    assert result.folder.parent.parent.parent == Path("runs")
    assert [record.step for record in result.records] == [0, 1, 2, 3] and len(last.images) == 1


def test_several_prompts_give_results_in_order_and_a_run_gives_them_again() -> None:
    tasks = ["a red cat", milr.Task(prompt="two dogs"), "a red cat"]
    results = milr.generate(tasks, model=FakeModel(), reward=bright, method="best-of-n", steps=1, out="here")
    assert [one.prompt for one in results] == ["a red cat", "two dogs", "a red cat"]
    assert results[0].records[0].images != results[2].records[0].images
    assert results.mean is not None and results.mean == sum(one.score.value for one in results) / 3  # type: ignore[union-attr]
    again = Results.read("here")
    assert [one.image.tobytes() for one in again] == [one.image.tobytes() for one in results]
    assert len(results[:2]) == 2


@pytest.mark.parametrize("objects", [False, True])
def test_an_interrupted_call_continues_to_equal_results(objects: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**FAKE, "model": FakeModel(), "reward": bright} if objects else FAKE
    prompts = ["a red cat", "a red cat", "two dogs", "a tree"]
    whole = milr.generate(prompts, **asked, steps=2, batch_size=2, out="whole")
    draws, draw = iter([False] * 4 + [True]), FakeModel.draw

    def cut(self: FakeModel, *arguments: Any) -> Any:
        if next(draws, False):
            raise KeyboardInterrupt
        return draw(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FakeModel, "draw", cut)
        with pytest.raises(KeyboardInterrupt) as error:
            milr.generate(prompts, **asked, steps=2, batch_size=2, out="cut")
    (note,) = error.value.__notes__
    assert "add out='cut', resume=True" in note and ("milr generate --resume cut" in note) is not objects
    begun = Results.read("cut")
    assert {one.finished for one in begun} == {"cancelled", "out of steps"}
    resumed = milr.generate(prompts, **asked, steps=2, batch_size=2, out="cut", resume=True)
    assert [(one.run.answer, one.image.tobytes()) for one in resumed] == [
        (one.run.answer, one.image.tobytes()) for one in whole
    ]
    with pytest.raises(MilrError, match="the run in cut has other prompts: give the same"):
        milr.generate("a cat", **asked, out="cut", resume=True)
    with pytest.raises(MilrError, match="the run in cut has other settings: give the same"):
        milr.generate(prompts, **asked, steps=3, out="cut", resume=True)


def test_progress_shows_the_time_left_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimeLeft, "seconds", lambda self: 90.0)
    milr.generate(["a", "b"], **FAKE, steps=1, progress=True)
    said = capsys.readouterr().err
    assert "2 of 2 prompts" in said and "about 2 min left" in said
    milr.generate("a", **FAKE, steps=1)
    assert capsys.readouterr() == ("", "")


def test_results_have_a_one_line_repr_and_a_notebook_view() -> None:
    results = milr.generate(["a red cat", "<b>dogs</b>"], **FAKE, steps=2, out="run", stop_at=1)
    one = results[0]
    assert re.fullmatch(
        r"Result\('a red cat', 0\.\d\d, out of steps after 3 drawings, 'run/tasks/0000-.*'\)", repr(one)
    )
    lines = repr(results).splitlines()
    assert re.fullmatch(r"Results\(2 of 2 prompts, 0\.\d\d on average, 'run'\)", lines[0]) and len(lines) == 3
    shown = results._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert shown.count("<img src=") == 2 and shown.count("<circle") == 6 and "&lt;b&gt;dogs" in shown
    assert "<b>dogs" not in shown and "<script" not in shown


def test_changed_words_are_marked() -> None:
    assert (
        mark_changes("a red <cat> sits", "a blue <cat> sits there")
        == "a <mark>blue</mark> &lt;cat&gt; sits <mark>there</mark>"
    )
    assert mark_changes("", "two dogs") == "<mark>two dogs</mark>" and mark_changes("same", "same") == "same"


def test_names_that_are_listed_are_the_public_ones_and_help_says_what_each_setting_is() -> None:
    assert dir(milr) == sorted(milr.__all__)
    assert "steps (int, default 20): " in str(milr.MilrSettings.__doc__) or "steps" in str(milr.MilrSettings.__doc__)
    assert "Continue the run in `out`" in str(milr.generate.__doc__)


SCORE = milr.Score(0.5, "r", 0.9)
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "milr.generate(3)": (lambda: milr.generate(3, **FAKE), "3 (int) is no prompt: give words, a milr.Task, or a list"),  # type: ignore[call-overload]
    "milr.generate({'prompt': 'a cat'})": (lambda: milr.generate({"prompt": "a cat"}, **FAKE), "is no prompt"),
    "milr.generate([])": (lambda: milr.generate([], **FAKE), "no prompts: give at least one"),
    "milr.generate([None])": (lambda: milr.generate([None], **FAKE), "'None' (NoneType) is no task"),  # type: ignore[list-item]
    "milr.generate(' ')": (lambda: milr.generate(" ", **FAKE), "prompt"),
    "milr.generate('a dgo')": (lambda: milr.generate("a dgo"), "did you mean 'dog'?"),
    "milr.generate('a cat', model='embeded')": (
        lambda: milr.generate("a cat", model="embeded"),
        "did you mean 'embedded'?",
    ),
    "milr.generate('a cat', model=FakeModel)": (
        lambda: milr.generate("a cat", **{**FAKE, "model": FakeModel}),
        "is no model: give a name that milr info lists, or what milr.load_model returns",
    ),
    "milr.generate('a cat', reward='icns')": (
        lambda: milr.generate("a cat", **{**FAKE, "reward": "icns"}),
        "did you mean 'icons'?",
    ),
    "milr.generate('a cat', reward=0.5)": (
        lambda: milr.generate("a cat", **{**FAKE, "reward": 0.5}),
        "0.5 (float) is no reward",
    ),
    "milr.generate('a cat', reward=FakeReward)": (
        lambda: milr.generate("a cat", **{**FAKE, "reward": FakeReward}),
        "the reward FakeReward is a class: give an object of it, FakeReward(...)",
    ),
    "milr.generate('a cat', reward=lambda images, tasks: [2.0])": (
        lambda: milr.generate("a cat", **{**FAKE, "reward": lambda images, tasks: [2.0]}),
        "returned 2 for an image: a score is in [0, 1]",
    ),
    "milr.generate('a cat', reward=lambda images, tasks: None)": (
        lambda: milr.generate("a cat", **{**FAKE, "reward": lambda images, tasks: None}),
        "returned None: return a list, one score per image",
    ),
    "milr.generate('a cat', method='best-of-m')": (
        lambda: milr.generate("a cat", **{**FAKE, "method": "best-of-m"}),
        "did you mean 'best-of-n'?",
    ),
    "milr.generate('a cat', stps=3)": (lambda: milr.generate("a cat", **FAKE, stps=3), "did you mean 'steps'?"),
    "milr.generate('a cat', rewards='icons')": (
        lambda: milr.generate("a cat", **FAKE, rewards="icons"),
        "did you mean 'reward'?",
    ),
    "milr.generate('a cat', steps=-1)": (
        lambda: milr.generate("a cat", **FAKE, steps=-1),
        "steps -1: must be at least 0",
    ),
    "milr.generate('a cat', method='best-of-n', strategy='joint')": (
        lambda: milr.generate("a cat", **FAKE, strategy="joint"),
        "the method 'best-of-n' does not read the setting 'strategy'; milr does",
    ),
    "milr.generate('a cat', resume=True)": (
        lambda: milr.generate("a cat", **FAKE, resume=True),
        "resume=True continues the run of a folder: give out",
    ),
    "milr.generate('a cat', out=3)": (
        lambda: milr.generate("a cat", **FAKE, out=3),
        "out 3 (int) is no folder: give a path",
    ),  # type: ignore[call-overload]
    "milr.generate('a cat', device='gpu')": (
        lambda: milr.generate("a cat", model="embedded-small", device="gpu"),
        "unknown device 'gpu'",
    ),
    "milr.load_model(3)": (lambda: milr.load_model(3), "3 (int) is no model's name"),  # type: ignore[arg-type]
    "milr.load_reward('icons', colour='red')": (
        lambda: milr.load_reward("icons", colour="red"),
        "has no option 'colour'",
    ),
    "milr.load_method('./nowhere.py:mine')": (
        lambda: milr.load_method("./nowhere.py:mine"),
        "no file ./nowhere.py: give the path of a Python file",
    ),
    "milr.load_benchmark('icon')": (lambda: milr.load_benchmark("icon"), "did you mean 'icons'?"),
    "milr.read_run('nowhere')": (lambda: milr.read_run("nowhere"), "nowhere"),
}


@pytest.mark.parametrize("use", WRONG)
def test_a_wrong_use_is_one_line_and_leaves_no_run(use: str) -> None:
    call, told = WRONG[use]
    with pytest.raises(MilrError) as error:
        call()
    assert told in str(error.value) and "\n" not in str(error.value), str(error.value)
    assert not [path for path in Path().rglob("best.png")]


def test_records_runs_tasks_and_settings_have_a_short_repr_and_a_notebook_view() -> None:
    result = milr.generate("a <red> cat", **FAKE, steps=1, out="run", stop_at=1)
    record, run = result.records[-1], milr.read_run("run")
    settings = run.manifest.settings
    assert repr(record) == (
        f"StepRecord('a <red> cat', step 1, scores {record.scores[0].value:.2f}, "  # type: ignore[union-attr]
        f"best {result.score.value:.2f} at step {record.best_step}, out of steps)"  # type: ignore[union-attr]
    )
    assert repr(milr.Task(prompt="a cat", tag="colors")) == "Task(prompt='a cat', tag='colors')"
    assert repr(run) == "Run(run, best-of-n, model fake, reward fake@1, 1 of 1 tasks, finished)"
    assert repr(settings).startswith("Settings('best-of-n', steps=1, guidance=2.0") and "None" not in repr(settings)
    assert "tokens)" in repr(record.reasoning) and repr(record.best) == "ImageSample(20 x 20 pixels, 25 tokens)"
    for one in (record, run, run.tasks[0], settings, record.best):
        assert len(repr(one)) < 500 and "\n" not in repr(one)
        shown = one._repr_html_()
        assert "<red>" not in shown and ("<img" in shown) is not isinstance(one, milr.Settings)


def test_progress_in_a_notebook_is_one_line_that_changes_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    notebook = ModuleType("IPython.display")
    line = SimpleNamespace(update=lines.append)
    notebook.__dict__.update(HTML=str, display=lambda text, display_id: lines.append(text) or line)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(TimeLeft, "seconds", lambda self: 90.0)
    milr.generate(["a", "b"], **FAKE, steps=1)
    assert lines[0] == "drawing ..." and lines[-1] == ""
    assert re.fullmatch(r"best-of-n, 2 of 2 prompts, step 1, 0:00:0\d, about 2 min left", lines[-2])
