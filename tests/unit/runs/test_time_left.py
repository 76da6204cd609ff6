"""Estimates of the time left, from step records."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from milr.runs import time_left
from milr.runs.time_left import TimeLeft, say_left
from milr.tasks import tasks_from_prompts
from milr.testing import fake_records
from tests.support.paths import DATA

RECORDED = [json.loads(line) for line in (DATA / "time_left.jsonl").read_text().splitlines()]
"""Runs of the embedded model: seconds since the start, task, seconds of the task and 1 for its last record, by record.

They were made on 30 November 2026 on two cores, those called busy beside three processes that compute on and off.
"""
UNITS = {"s": 1, "min": 60, "h": 3600}


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
    assert left.say() == "", "the first round is often the slowest"
    take(left, 0, [1, 2], ends=False)
    assert left.seconds() == pytest.approx(18 * 2.0)
    assert left.say() == "at most about 40 s left", "its reward may be met with the next image"


def test_one_late_task_counts_until_the_end_of_its_own_drawings() -> None:
    left = TimeLeft(tasks=16, drawings=21, places=16)
    for index in range(15):
        take(left, index, [0], ends=True)
        assert left.seconds() is None and left.say() == ""  # the records of other tasks in the same round will follow
    take(left, 15, [0], ends=False)
    # Nearly all tasks ended with their first round, so one more is likely; by the share that is done, 1/16 is left. A
    # round of one task takes between 1/16 of the time and the whole of it.
    assert left.seconds() == pytest.approx(2.0 * 16 / 15 * (1 + 1 / 16) / 2)
    take(left, 15, [1], ends=False)
    assert left.say() == "at most about 25 s left"  # 19 rounds
    take(left, 15, range(2, 17), ends=False)
    assert left.seconds() == pytest.approx(4 * 2.0, rel=0.02)  # by now it is expected to take them all
    assert left.say() == "about 10 s left"


def test_tasks_that_have_not_begun_take_what_others_took() -> None:
    left = TimeLeft(tasks=12, drawings=21, places=4)
    for index in range(4):
        take(left, index, [0], ends=True)
    assert left.seconds() == pytest.approx(2 * 2.0)  # eight tasks of one round each, four at a time
    take(left, 4, [0, 1], ends=True)
    for index in (5, 6, 7):
        take(left, index, [0], ends=True)
    second = 11 / 12  # one of one ended with its second round, and two more are expected to end as 7 of 8 did before
    assert left.seconds() == pytest.approx(2.0 * (1 + 1 / 8 / second), rel=1e-6)


def test_a_busy_moment_and_a_slow_first_round_are_not_expected_again() -> None:
    left = TimeLeft(tasks=1, drawings=21, places=16)
    times = [8.0, 10.0, 12.0, 14.0, 34.0, 36.0]  # seconds of the first record, of the next, ...
    for record, seconds in zip(fake_records(tasks_from_prompts("a dog", free=True), [[0.0] * 21]), times, strict=False):
        left.count(replace(record, seconds=seconds), 0)
    assert left.seconds() == pytest.approx(15 * 2.0)


def test_a_task_that_continues_is_not_expected_to_take_the_seconds_of_its_earlier_sessions() -> None:
    left = TimeLeft(tasks=1, drawings=21, places=16)
    take(left, 0, [10], ends=False, seconds=100.0)
    assert left.seconds() is None, "its seconds so far are those of another session"
    take(left, 0, [11], ends=False, seconds=100.0)
    assert left.seconds() == pytest.approx(9 * 100.0)


def test_a_round_ends_when_a_task_of_it_is_lost() -> None:
    left = TimeLeft(tasks=3, drawings=21, places=3)
    for index in range(3):
        take(left, index, [0], ends=False)
    for index in (0, 1):  # the third one never has a record again
        take(left, index, [1], ends=False)
    assert left.say() == ""
    take(left, 0, [2], ends=False)
    assert left.say() == "at most about 45 s left"


def test_a_total_limit_of_drawings_ends_the_run_before_its_tasks() -> None:
    left = TimeLeft(tasks=8, drawings=21, places=4, total_drawings=28)
    for step in range(2):
        for index in range(4):
            take(left, index, [step], ends=False)
    assert left.seconds() == pytest.approx((28 - 8) / 4 * 2.0)  # without it, 19 + 21 rounds
    assert left.say() == "at most about 10 s left"


def test_a_total_limit_of_seconds_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time_left, "time", SimpleNamespace(monotonic=lambda: now))
    left = TimeLeft(tasks=1, drawings=21, places=4, total_seconds=30)
    take(left, 0, [0], ends=False)
    now += 15
    take(left, 0, [1], ends=False)
    assert left.seconds() == pytest.approx(15.0) and left.say() == "at most about 15 s left"
    now += 20
    take(left, 0, [2], ends=False)
    assert left.say() == ""


def read_said(said: str) -> float:
    """Return the seconds of an estimate in words."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"(\d+) (s|min|h)\b", said))


@pytest.mark.parametrize("run", RECORDED, ids=lambda run: f"{run['method']}, {run['machine']}")
def test_the_time_of_recorded_runs_is_said_well(run: dict[str, Any]) -> None:
    tasks = tasks_from_prompts("a dog", free=True)
    shown = list(fake_records(tasks, [[0.0] * run["drawings"]]))
    left, steps, before = TimeLeft(run["tasks"], run["drawings"], run["places"]), Counter[int](), set[str]()
    for since, task, seconds, ended in run["records"]:
        record = replace(shown[steps[task]], seconds=seconds, finished="met" if ended else None)
        steps[task] += 1
        left.count(record, task)
        there, said = run["seconds"] - since, left.say()
        if not said or there < 5:
            continue
        before.add(said)
        if said.startswith("at most"):
            assert read_said(said) > 0.7 * there, f"{there:.0f} s before the end it said {said}"
        else:
            assert there / 2 < read_said(said) < 2 * there + 5, f"{there:.0f} s before the end it said {said}"
    assert before
