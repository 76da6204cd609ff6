"""Pixels computed beside the decoding: equal images and no more waiting, however late the device computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import pytest
import torch
from PIL import Image

from milr import search
from milr.decode.side_stream import Here, Inline, Side, find_side
from milr.models import embedded_folder
from milr.models.janus import Janus
from milr.rewards.base import Scores
from milr.testing import FakeReward
from milr.types import Score, Task, Unscored
from tests.support.pretended_device import load_janus, pretended_device, watch

TASKS = [Task(prompt="two dogs"), Task(prompt="a red apple")]


@dataclass
class Latest:
    """A side stream that starts its work only when somebody waits for it."""

    found: Callable[[], torch.Tensor]
    waited: list[int]

    def done(self) -> bool:
        return False

    def wait(self) -> torch.Tensor:
        self.waited.append(1)
        with torch.inference_mode():
            return self.found().cpu()


class Late:
    def __init__(self) -> None:
        self.waited: list[int] = []

    def begin(self, work: Callable[[], torch.Tensor]) -> Latest:
        return Latest(work, self.waited)


class Elsewhere(FakeReward):
    """A reward that waits for a server, so that two halves of the tasks take turns."""

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        scores: list[Score | Unscored] = self(images, tasks)
        return lambda: scores


def test_a_device_without_streams_computes_at_once() -> None:
    side = find_side(torch.device("cpu"))
    assert isinstance(side, Inline)
    pending = side.begin(lambda: torch.arange(3))
    assert isinstance(pending, Here) and pending.done() and pending.wait().tolist() == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.skipif(not embedded_folder().is_dir(), reason="no embedded model: `make train` makes one")
def test_a_pretended_device_that_decodes_late_gives_the_same_images_and_waits_as_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draw(model: Janus, side: Side) -> tuple[list[tuple[int, ...]], list[bytes], int, int]:
        model.side = side
        own = model.settings("milr", strategy="joint", image_ratio=0.05, steps=1, batch_size=2)
        with watch() as traffic:
            records = list(search(TASKS, model, Elsewhere(lambda image, task: 0.2), own))
        images = [(record.best.tokens, record.best.image.tobytes()) for record in records]
        return [one for one, _ in images], [one for _, one in images], traffic.reads.total(), traffic.copies.total()

    late = Late()
    with pretended_device():
        model = load_janus(embedded_folder())
        monkeypatch.setattr(model, "_total", lambda request: 4)  # the rest of each image is plain
        model._read_padding(cast("int", model.prompts.image("one", None)[0]), 1)  # shared by all prompts, made once
        now, then = draw(model, Inline()), draw(model, late)
    assert late.waited, "the second run decoded late"
    assert now == then
