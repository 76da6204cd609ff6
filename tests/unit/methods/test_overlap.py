"""Pixels in work on a device while the texts of other tasks are written: the order of the work, and equal records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from milr import search
from milr.models.base import ImageOutput, ImageRequest, TextOutput, TextRequest
from milr.models.optional import BegunDrawing
from milr.rewards.base import Scores
from milr.settings import SamplingParams
from milr.testing import FakeModel, FakeReward
from milr.types import Score, StepRecord, Task, Unscored

TASKS = [Task(prompt=prompt) for prompt in ("a red cat", "two dogs", "a big tree", "one")]


class Beside(FakeModel):
    """A model whose pixels are done after some questions about them, or when they are waited for."""

    def __init__(self, events: list[str], questions: int) -> None:
        super().__init__()
        self.events, self.questions = events, questions

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        self.events.append(f"text {len(requests)}")
        return super().reason(requests)

    def begin_draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> BegunDrawing:
        self.events.append(f"tokens {len(requests)}")
        images, left = self.draw(requests, sampling), iter(range(self.questions))

        def wait() -> list[ImageOutput]:
            self.events.append(f"pixels {len(requests)}")
            return images

        return BegunDrawing(lambda: next(left, None) is None, wait)


class Elsewhere(FakeReward):
    """A reward that waits for a server."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(name="elsewhere@1")
        self.events = events

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        self.events.append(f"ask {len(images)}")
        scores: list[Score | Unscored] = self(images, tasks)
        return lambda: scores


def run(model: FakeModel, reward: FakeReward, tasks: Sequence[Task] = TASKS, **changes: Any) -> list[StepRecord]:
    own = {"steps": 1, "text_ratio": 0.5, "image_ratio": 0.2, "learning_rate": 0.2, "stop_at": 1.0, **changes}
    return [replace(record, seconds=0) for record in search(tasks, model, reward, model.settings("milr", **own))]


@pytest.mark.parametrize(
    "questions, expected",
    [
        (0, ["text 2", "tokens 2", "pixels 2", "ask 2", "text 2", "tokens 2", "pixels 2", "ask 2"]),
        (2, ["text 2", "tokens 2", "text 2", "pixels 2", "ask 2", "tokens 2"]),  # done after the others' texts
        (99, ["text 2", "tokens 2", "text 2", "pixels 2", "ask 2", "tokens 2"]),  # never: waited for before they draw
    ],
)
def test_texts_of_other_tasks_are_written_while_pixels_are_decoded(questions: int, expected: list[str]) -> None:
    events: list[str] = []
    records = run(Beside(events, questions), Elsewhere(events))
    assert events[: len(expected)] == expected
    assert records == run(FakeModel(), Elsewhere([]))


def test_a_reward_that_waits_for_nothing_gets_pixels_at_once() -> None:
    events: list[str] = []
    records = run(Beside(events, 99), FakeReward(), TASKS[:2], steps=0)
    assert events == ["text 2", "tokens 2", "pixels 2"]
    assert records == run(FakeModel(), FakeReward(), TASKS[:2], steps=0)


class Keeping(FakeModel):
    """A model that keeps memory between drawings."""

    kept = True

    def release_memory(self) -> None:
        self.kept = False


@pytest.mark.parametrize("fits", [True, False])
def test_a_reward_that_lacks_memory_scores_again_with_what_the_model_kept(fits: bool) -> None:
    model = Keeping()

    def reward(images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[float]:
        if model.kept or not fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [0.5] * len(images)

    records = search(TASKS[:2], model, reward, method="best-of-n", steps=1)
    if fits:
        assert [record.best_score.value for record in records if isinstance(record.best_score, Score)] == [0.5] * 4
    else:
        with pytest.raises(torch.OutOfMemoryError):
            list(records)
    assert not model.kept
