"""The spending of one process on a task that an earlier process had begun."""

from __future__ import annotations

from dataclasses import replace

from milr.methods import load_method
from milr.methods.runner import Runner
from milr.settings import make_settings
from milr.spending import Meter
from milr.testing import FakeModel, FakeReward
from milr.types import Task


def test_the_steps_of_an_earlier_process_are_not_counted() -> None:
    model = FakeModel()
    settings = make_settings("best-of-n", {"steps": 3}, model.defaults)
    records = list(
        Runner(load_method("best-of-n"), [Task(prompt="two cats")], model, FakeReward(lambda *_: 0.2), settings)
    )
    records = [replace(one, cost=0.5 * (one.step + 1)) for one in records]
    whole, resumed = Meter(), Meter()
    for record in records:
        whole.take(record, earlier=False)
        resumed.take(record, earlier=record.step < 2)
        if record.step == 1:
            assert set(resumed.spent.values()) == {0}
    last, second = records[-1], records[1]
    assert whole.spent == {
        "drawings": last.drawings_spent,
        "tokens": last.tokens_spent,
        "reward_calls": last.reward_calls,
        "seconds": last.seconds,
        "cost": last.cost,
    }
    assert resumed.spent["drawings"] == 2 and resumed.spent["reward_calls"] == 2 and resumed.spent["cost"] == 1.0
    assert resumed.spent["tokens"] == last.tokens_spent - second.tokens_spent
    assert resumed.subtract({"drawings": 7.0}) == {"drawings": 7.0 - second.drawings_spent}
