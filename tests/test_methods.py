"""What every method promises: `milr.methods`."""

from __future__ import annotations

import pytest

from milr.config import SearchConfig
from milr.errors import UsageError
from milr.methods import METHODS, load_method
from milr.testing import FakeModel, FakeReward
from milr.types import Task

TASKS = [Task(prompt=p) for p in ("a red cat", "two dogs", "a big tree", "one")]


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_records_end_each_task_once(name: str) -> None:
    config = SearchConfig(steps=3, stop_at=1.0, guidance=2.0)
    records = list(load_method(name)(TASKS, FakeModel(), FakeReward(), config))
    assert [sum(r.finished is not None for r in records if r.index == index) for index in range(4)] == [1] * 4


def test_an_unknown_method_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown method 'best-of-m': did you mean 'best-of-n'"):
        load_method("best-of-m")
