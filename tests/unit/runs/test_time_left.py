"""Estimates of the time left, from step records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from milr.runs.time_left import TimeLeft, say_left
from milr.tasks import tasks_from_prompts
from milr.testing import fake_records


def take(left: TimeLeft, index: int, steps: Sequence[int], *, ends: bool, seconds: float = 2.0) -> None:
    """Count the records of a task whose rounds take this many seconds each."""
    tasks = tasks_from_prompts("a dog", free=True)
    for record in fake_records(tasks, [[0.0] * (steps[-1] + 1)]):
        if record.step in steps:
            last = ends and record.step == steps[-1]
            spent = replace(record, seconds=seconds * (record.step + 1), finished="met" if last else None)
            left.count(spent, index)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.9, ""),
        (1.0, "about 5 s left"),
        (5.1, "about 10 s left"),
        (55.0, "about 55 s left"),
        (55.1, "about 1 min left"),
        (89.0, "about 1 min left"),
        (91.0, "about 2 min left"),
        (3569.0, "about 59 min left"),
        (3571.0, "about 1 h left"),
        (4100.0, "about 1 h 10 min left"),
        (90000.0, "about 25 h left"),
    ],
)
def test_an_estimate_is_said_no_finer_than_it_is_certain(seconds: float, said: str) -> None:
    assert say_left(seconds) == said


def test_time_left_expects_all_drawings_where_no_task_has_ended() -> None:
    left = TimeLeft(tasks=1, drawings=21, places=16)
    assert (left.seconds(), left.say()) == (None, "")
    take(left, 0, [0], ends=False)
    assert left.seconds() == pytest.approx(20 * 2.0)
    take(left, 0, [1, 2], ends=False)
    assert left.seconds() == pytest.approx(18 * 2.0)
    assert left.say() == "about 40 s left"


def test_one_late_task_counts_fully() -> None:
    left = TimeLeft(tasks=16, drawings=21, places=16)
    for index in range(15):
        take(left, index, [0], ends=True)
        assert left.say() == ""  # the records of other tasks in the same round will follow
    take(left, 15, [0], ends=False)
    # By the share that is done, 1/16 is left: a tenth of a second.
    assert left.seconds() == pytest.approx(20 * 2.0)


def test_tasks_that_have_not_begun_take_what_others_took() -> None:
    left = TimeLeft(tasks=12, drawings=21, places=4)
    for index in range(4):
        take(left, index, [0], ends=True)
    assert left.seconds() == pytest.approx(2 * 2.0)  # eight tasks of one round each, four at a time
    take(left, 4, [0, 1], ends=True)
    for index in (5, 6, 7):
        take(left, index, [0], ends=True)
    assert left.seconds() == pytest.approx(2.0 * (1 + 1 / 8), rel=1e-6)  # one of eight continued for one more round
