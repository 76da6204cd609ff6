"""Runs for the report's tests: real searches with the fake model, written by the real writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from milr.methods import load_method
from milr.methods.runner import Runner
from milr.runs import RunWriter
from milr.settings import make_settings
from milr.testing import FakeModel, FakeReward, brightness, read_tokens
from milr.types import Score, Task, Unscored

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CATEGORIES = ("color", "shape", "texture", "spatial", "non_spatial", "complex")
WORDS = ("cat", "dog", "tree", "red", "blue", "big", "small", "above", "below")


def make_tasks(many: int = 12, tags: Sequence[str] = TAGS) -> list[Task]:
    """Return tasks with these tags in turn."""
    return [
        Task(prompt=f"a {WORDS[i % 9]} {WORDS[(i // 9 + i) % 9]} {i}", tag=tags[i % len(tags)]) for i in range(many)
    ]


def even(image: Image.Image, task: Task) -> float:
    """An evaluator that is independent of brightness: the share of even tokens."""
    tokens = read_tokens(image)
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


def contrast(image: Image.Image, task: Task) -> float:
    """Another reward: the contrast of the grey values."""
    tokens = read_tokens(image)
    return (max(tokens) - min(tokens)) / 15


class PartsReward(FakeReward):
    """A reward of 0 with a part: only the part decides which image is the best."""

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Move each value into a part."""
        scores = super().__call__(images, tasks)
        return [replace(one, value=0.0, parts={"bright": one.value}) for one in scores if isinstance(one, Score)]


REWARDS = {"parts@1": brightness, "bright@1": brightness, "contrast@1": contrast, "even@1": even}


def make_run(
    folder: Path,
    *,
    method: str = "milr",
    tasks: Sequence[Task] | None = None,
    benchmark: str | None = "icons",
    reward: str = "bright@1",
    evaluator: str | None = "even@1",
    model: str = "fake",
    stop_at: float = 0.6,
    steps: int = 3,
    embedded: bool = False,
    **settings: object,
) -> Path:
    """Make a run of a method with three steps, or `steps`; return its folder."""
    from milr.models import embedded_folder

    tasks = make_tasks() if tasks is None else tasks
    fake = FakeModel()
    usual = {"steps": steps, "learning_rate": 0.2, "guidance": 2.0, "image_ratio": 0.1, "batch_size": 4}
    chosen = make_settings(method, settings, usual)
    kind = PartsReward if reward == "parts@1" else FakeReward
    scores = kind(REWARDS[reward], name=reward, stop_at=stop_at)
    watching = None if evaluator is None else FakeReward(even, name=evaluator)
    writer = RunWriter(
        folder,
        tasks=tasks,
        settings=chosen,
        model=model,
        reward=reward,
        evaluator=watching,
        benchmark=benchmark,
        model_folder=embedded_folder() if embedded else None,
    )
    with writer:
        for record in Runner(load_method(method), tasks, fake, scores, chosen):
            writer.write(record)
    return folder
