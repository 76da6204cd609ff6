"""One worker, whose messages the test reads."""

from __future__ import annotations

import pytest
from PIL import Image

from milr.methods import load_method
from milr.models.devices import Placement
from milr.parts import Names, Parts
from milr.testing import FakeModel, FakeReward
from milr.types import Task
from milr.workers.messages import Begun, Cancel, Do, Heard, Lost, Message, Ready, Spec, Step
from milr.workers.worker import Worker


@pytest.mark.parametrize(("heard", "told"), [(0, [0, 1]), (1, [1]), (2, None), (5, None)])
def test_a_task_that_is_cancelled_while_it_repeats_steps_is_reported(
    heard: int, told: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator has `heard` steps from another worker; the cancel arrives during step 0 and ends step 1."""
    model, said = FakeModel(), list[Message]()

    def hear(message: Message) -> None:
        said.append(message)
        if isinstance(message, Step):
            worker.take_command(Heard())

    asked = 0

    def score(image: Image.Image, task: Task) -> float:
        nonlocal asked
        asked += 1
        if asked == 2:
            worker.take_command(Cancel(7, "cancelled"))
        return 0.0

    parts = Parts(model, FakeReward(score), None, load_method("best-of-n-sampled"))
    worker = Worker(Spec(Names("fake", "fake", "best-of-n-sampled"), Placement("cpu", None), places=2), hear)
    monkeypatch.setattr(worker, "_load", lambda: parts)
    settings = model.settings("best-of-n-sampled", steps=9).flat
    worker.take_command(Do(7, Task(prompt="a cat"), "key", "best-of-n-sampled", settings, (), heard, (), False))
    worker._queue.close()  # pyright: ignore[reportPrivateUsage]
    worker.run()
    kinds = [type(one) for one in said if not isinstance(one, Ready | Begun)]
    steps = [one.record.step for one in said if isinstance(one, Step)]
    if told is None:
        assert kinds == [Lost] and [one for one in said if isinstance(one, Lost)] == [Lost(7, None)]
    else:
        assert steps == told and kinds == [Step] * len(told)
