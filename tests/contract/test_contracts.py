"""Contract checks for authors of plug-ins: milr's own parts pass, and each violation is one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from milr.benchmarks import BENCHMARKS, load_benchmark
from milr.methods import METHODS, load_method
from milr.methods.context import Method, Requests, TaskContext
from milr.models.base import Capabilities, ImageOutput, ImageRequest, TextOutput, TextRequest
from milr.rewards.base import Candidate
from milr.settings import OneShotSettings, SamplingParams, StepSettings
from milr.sources import SOURCES
from milr.testing import FakeModel, FakeReward, brightness
from milr.testing.contracts import ContractError, check_benchmark, check_method, check_model, check_reward
from milr.types import ImageSample, Region, Score, Task, Unscored


def small(method: str) -> dict[str, Any]:
    return {"steps": 2} if "steps" in load_method(method).settings.model_fields else {}


@pytest.mark.parametrize("name", METHODS)
def test_milrs_own_methods_keep_the_contract(name: str) -> None:
    check_method(name, **small(name))


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in SOURCES])
def test_milrs_own_benchmarks_keep_the_contract(name: str) -> None:
    check_benchmark(name)


@pytest.mark.parametrize("name", ["icons", "icons-soft", "self", "mix:icons-soft*0.7+self*0.3"])
def test_milrs_own_rewards_keep_the_contract(name: str) -> None:
    check_reward(name, model=FakeModel())


def test_the_fakes_keep_the_contract() -> None:
    check_model(FakeModel())
    check_model(FakeModel(text_temperature=0.7))
    check_reward(FakeReward(lambda image, task: brightness(image) if min(image.size) else 2.0))


@pytest.mark.slow
def test_the_embedded_model_keeps_the_contract() -> None:
    check_model("embedded-small")


def of_image(value: Callable[[Image.Image], Any]) -> Callable[..., Any]:
    return lambda images, tasks: [value(image) for image in images]


def count_up() -> Callable[..., Any]:
    values: Iterator[float] = iter(n / 100 for n in range(100))
    return of_image(lambda image: next(values))


def blot(image: Image.Image) -> float:
    image.paste("white", (0, 0, *image.size))
    return 0.5


class Comparing(FakeReward):
    def compare(self, a: Candidate, b: Candidate) -> float:
        return 1.0


def scored(value: float = 0.5, **more: Any) -> Callable[..., Any]:
    return FakeRewardLike(lambda image: Score(value, "odd", 0.9, **more))


class FakeRewardLike:
    name, stop_at = "odd", 0.9

    def __init__(self, make: Callable[[Image.Image], Any]) -> None:
        self.make = make

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Any]:
        return [self.make(image) for image in images]


REWARDS: dict[str, tuple[Callable[..., Any], str]] = {
    "one number for all": (lambda images, tasks: 0.5, "returned 0.5 .*: return a list"),
    "a score too many": (lambda images, tasks: [0.5] * (len(images) + 1), "scores for . images"),
    "another value each time": (count_up(), "scores the same images otherwise a second time"),
    "the whole batch": (lambda images, tasks: [len(images) / 10] * len(images), "otherwise beside others than alone"),
    "the place": (lambda images, tasks: [i / 10 for i, _ in enumerate(images)], "otherwise beside others than alone"),
    "changes images": (of_image(blot), "changes the images that it is given"),
    "raises": (of_image(lambda image: 1 / image.height / image.width), "raises ZeroDivisionError"),
    "another's name": (FakeRewardLike(lambda image: Score(0.5, "else", 0.9)), "by 'else', and the reward is 'odd'"),
    "two lines": (FakeRewardLike(lambda image: Unscored("a\nb", "odd")), "is one line of words"),
    "parts": (scored(parts={"a": 3.0}), "parts are in"),
    "regions": (scored(regions=(Region("cat", (0, 0, 900, 9), 0.5),)), "is outside the image of 128 x 128"),
    "compare": (Comparing(lambda image, task: 0.5, name="odd"), "compare.*disagree"),
}


@pytest.mark.parametrize("fault", REWARDS)
def test_a_reward_that_breaks_its_contract_gets_a_clear_error(fault: str) -> None:
    broken, told = REWARDS[fault]
    with pytest.raises(Exception, match=told) as error:
        check_reward(broken)
    assert "\n" not in str(error.value)


class Forgetful(FakeModel):
    """A model whose images depend on the batch."""

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        found = super().draw(requests, sampling)
        return [
            replace(one, sample=ImageSample(one.sample.tokens[::-1], one.sample.image)) if len(found) > 1 else one
            for one in found
        ]


class Deaf(FakeModel):
    """A model that ignores the given prefix of a text."""

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        return super().reason([replace(one, prefix=(5,) if one.prefix else ()) for one in requests])


class Short(FakeModel):
    """A model that draws one token too few."""

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        found = super().draw(requests, sampling)
        return [replace(one, sample=ImageSample(one.sample.tokens[:-1], one.sample.image)) for one in found]


class Rigid(FakeModel):
    """A model that ignores the offsets of an image."""

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        return super().draw([replace(one, offsets=None) for one in requests], sampling)


class Small(FakeModel):
    capabilities = Capabilities(image_size=32, image_tokens=25, width=8, latents="both")


class Numb(FakeModel):
    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        return [2.0 for _ in images]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Forgetful(), "depends on the batch"),
        (Deaf(), "leaves out its given beginning"),
        (Short(), "an image has 24 tokens, not 25"),
        (Small(), r"has \(20, 20\) pixels, not \(32, 32\)"),
        (Rigid(), "not chosen from the hidden states plus the offsets"),
        (Numb(), r"answer\(\) returned"),
    ],
)
def test_a_model_that_breaks_its_contract_gets_a_clear_error(model: FakeModel, told: str) -> None:
    with pytest.raises(Exception, match=told):
        check_model(model)


def no_image(ctx: TaskContext[StepSettings]) -> Requests:
    yield from ctx.reason()


def too_many(ctx: TaskContext[OneShotSettings]) -> Requests:
    for _ in range(3):
        yield from ctx.draw()


def neighbourly() -> Callable[[TaskContext[OneShotSettings]], Requests]:
    seen: list[Task] = []

    def method(ctx: TaskContext[OneShotSettings]) -> Requests:
        seen.append(ctx.task)
        yield from ctx.draw(streams=[ctx.open_stream(len(seen), 0)])

    return method


@pytest.mark.parametrize(
    ("solve", "told"),
    [(no_image, "must end after whole images"), (too_many, "and says at most 1"), (neighbourly(), "its neighbours")],
)
def test_a_method_that_breaks_its_contract_gets_a_clear_error(solve: Callable[..., Requests], told: str) -> None:
    with pytest.raises(Exception, match=told):
        check_method(Method("odd", solve, OneShotSettings))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"columns": {"a": 1}}, "columns say"),
        ({"weights": {}}, "weights and columns have other tags"),
        ({"reward": "icns"}, "did you mean 'icons'"),
        ({"layout": "odd"}, "no layout 'odd'"),
        ({"read": lambda folder: []}, "has no tasks"),
    ],
)
def test_a_benchmark_that_breaks_its_contract_gets_a_clear_error(change: dict[str, Any], told: str) -> None:
    with pytest.raises((ContractError, Exception), match=told):
        check_benchmark(replace(load_benchmark("icons"), **change))
