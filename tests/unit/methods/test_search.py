"""`milr.search` and the runner as users call them: prompts as strings, rewards by name or as functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

import milr
from milr.errors import UsageError
from milr.methods import METHODS, load_method
from milr.methods.runner import Runner, search
from milr.models import load_model
from milr.models.base import TextOutput, TextRequest
from milr.rewards.base import Candidate, RewardError
from milr.rewards.self_reward import SelfReward
from milr.testing import FakeModel, FakeReward, brightness
from milr.types import Reasoning, Score, StepRecord, Task

DOGS = milr.tasks_from_prompts(["two dogs", "fog"], free=True)


def lightness(images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[float]:
    return [brightness(image) for image in images]


class Lightness:
    """The same as a complete reward class."""

    name = "lightness"
    stop_at = 0.9

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score]:
        return [Score(brightness(image), self.name, self.stop_at) for image in images]


def shown(records: Iterable[StepRecord]) -> list[tuple[object, ...]]:
    return [(one.task, one.step, one.reasoning, one.scores, one.best, one.finished) for one in records]


def short(method: str, **more: object) -> dict[str, Any]:
    return {"method": method, **({} if method in ("one-shot", "text-reasoning") else {"steps": 2}), **more}


@pytest.mark.parametrize("method", METHODS)
def test_plain_numbers_and_strings_give_the_same_records_as_scores_and_tasks(method: str) -> None:
    expected = shown(search(DOGS, FakeModel(), Lightness(), **short(method)))  # pyright: ignore[reportArgumentType]
    assert expected and shown(search(["two dogs", "fog"], FakeModel(), lightness, **short(method))) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("answer", [[], [7.5], [None], 0.5, ["good"], {"a": 1.0}])
def test_a_reward_that_breaks_its_contract_is_one_line_in_every_method(method: str, answer: object) -> None:
    def broken(images: Sequence[Image.Image], tasks: Sequence[Task]) -> Any:
        return answer

    with pytest.raises(RewardError, match="^the reward 'broken' returned "):
        list(search("two dogs", FakeModel(), broken, **short(method)))


def test_a_single_string_or_task_is_one_task() -> None:
    for tasks in ("two dogs", DOGS[0], ("two dogs",), iter(["two dogs"])):
        records = list(search(tasks, FakeModel(), FakeReward(), steps=1))
        assert {record.task for record in records} == {DOGS[0]} and records[0].index == 0


def test_a_reward_given_by_name_asks_the_model_that_draws() -> None:
    runner = search("fog", FakeModel(), "self", steps=0)
    assert isinstance(runner.reward, SelfReward) and len(list(runner)) == 1


def test_a_grammar_model_is_given_its_own_form_of_a_prompt_and_refuses_others() -> None:
    model = FakeModel()
    model.reads_free_prompts = False
    (record,) = search("TWO Dogs", model, FakeReward(), steps=0)
    assert (record.task.prompt, record.task.typed) == ("two dogs", "TWO Dogs")
    with pytest.raises(UsageError, match="cannot read 'fog'"):
        search(["two dogs", "fog"], model, FakeReward())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tasks": 5}, "5 (int) is no list of tasks"),
        ({"tasks": {"prompt": "two dogs"}}, "is no list of tasks: give prompts in words, or milr.Task"),
        ({"tasks": ["two dogs", 5]}, "'5' (int) is no task"),
        ({"tasks": [""]}, "the prompt is empty"),
        ({"reward": "icon"}, "unknown reward 'icon': did you mean 'icons'?"),
        ({"reward": FakeReward}, "is a class"),
        ({"method": "prm"}, "unknown method 'prm': did you mean 'parm'?"),
        ({"stepz": 5}, "stepz"),
        ({"settings": FakeModel().settings("parm"), "method": "milr"}, "settings of 'parm' are none of 'milr'"),
    ],
)
def test_errors_come_before_anything_is_drawn(changed: dict[str, Any], said: str) -> None:
    model = FakeModel()
    with pytest.raises(UsageError) as caught:
        search(**{"tasks": "two dogs", "model": model, "reward": FakeReward(), **changed})
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not model.drawn


def test_settings_choose_the_method_that_they_belong_to() -> None:
    settings = FakeModel().settings("parm", steps=1)
    assert search("fog", FakeModel(), lightness, settings, seed=3).method.name == "parm"
    assert Runner(load_method("parm"), "fog", FakeModel(), lightness, settings).reward.name == "lightness"


@contextmanager
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def draw_dogs() -> list[tuple[object, ...]]:
    model = load_model("embedded")
    return shown(search("two dogs", model, "icons-soft", steps=1, stop_at=1.0))


@pytest.fixture(scope="module")
def dogs() -> list[tuple[object, ...]]:
    return draw_dogs()


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", [float64, torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", dtype=torch.bfloat16)]
)
def test_a_programs_torch_settings_change_no_result(
    setting: Callable[[], AbstractContextManager[object]], dogs: list[tuple[object, ...]]
) -> None:
    """The program's own torch settings are in force between the records and afterwards."""
    with setting():
        before = torch.get_default_dtype(), torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        assert draw_dogs() == dogs
        assert (torch.get_default_dtype(), torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == before


class Even(FakeReward):
    """A reward of 0.5 for every image, so that only `compare` distinguishes them."""

    def __init__(self, said: Callable[[Candidate, Candidate], object]) -> None:
        super().__init__(lambda image, task: 0.5)
        self.compare = said


def by_brightness(a: Candidate, b: Candidate) -> float:
    return brightness(a.image) - brightness(b.image)


@pytest.mark.parametrize("method", METHODS)
def test_a_reward_that_compares_decides_between_equals_in_every_method(method: str) -> None:
    brightest = list(search("a red cat", FakeModel(), Even(by_brightness), **short(method)))
    drawn = [(brightness(one.image), record.step) for record in brightest for one in record.images]
    assert brightness(brightest[-1].best.image) == max(value for value, _ in drawn)
    first = list(search("a red cat", FakeModel(), FakeReward(lambda image, task: 0.5), **short(method)))
    assert first[-1].best_step == 0 and first[-1].best is first[0].images[0]
    assert len(drawn) == 1 or len({value for value, _ in drawn}) > 1


@pytest.mark.parametrize("said", [None, "a", math.nan, [1]])
def test_a_comparison_that_is_not_a_number_is_refused(said: object) -> None:
    with pytest.raises(RewardError, match="compare of the reward 'fake@1' returned .*: return a number, above 0 where"):
        list(search("a red cat", FakeModel(), Even(lambda a, b: said), method="best-of-n", steps=2))


class ImageLatentsOnly(FakeModel):
    """A model without logits of text latents."""

    capabilities = replace(FakeModel.capabilities, latents="image")

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked for text logits")

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        empty = TextOutput(Reasoning("", ()), (), torch.zeros(0, self.capabilities.width))
        return [empty for _ in requests]


def test_a_model_without_text_latents_is_not_asked_for_their_logits() -> None:
    found = list(search("a red cat", ImageLatentsOnly(), FakeReward(), steps=2, image_ratio=0.5, stop_at=1.0))
    assert len(found) == 3 and found[-1].trace is not None and found[-1].trace.moved == ("image",)
