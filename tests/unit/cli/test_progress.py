"""Progress on the screen: lines that are folded, printed once, left out, or never cut."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from milr.cli.progress import SearchProgress
from milr.runs.time_left import TimeLeft
from milr.settings import make_settings
from milr.tasks import tasks_from_prompts
from milr.testing import fake_records
from milr.types import Reasoning, StepRecord

ALIKE = [f"{'a very long prompt that says the same ' * 3}and ends with {word}" for word in ("dogs", "cats")]


def show(records: Sequence[StepRecord], *, width: int = 70, terminal: bool = False, verbose: bool = False) -> str:
    """Return the output of a search with these records."""
    out = io.StringIO()
    screen = Console(
        file=out, width=width, force_terminal=terminal, color_system=None, highlight=False, markup=False, soft_wrap=True
    )
    tasks = list({record.index: record.task for record in records}.values())
    settings, left = make_settings("milr", {"steps": 400}), TimeLeft(len(tasks), 401, 16)
    with SearchProgress(screen, tasks, settings, left, verbose=verbose) as progress:
        for record in records:
            progress.show(record, Path("task") if record.finished else None)
    return out.getvalue()


def search(values: Sequence[Sequence[float]], prompts: Sequence[str] = ALIKE) -> list[StepRecord]:
    """Return records of a search in which only the reward changes."""
    tasks = tasks_from_prompts(prompts[: len(values)], free=True)
    return [
        replace(record, trace=record.trace and replace(record.trace, flipped_text=0, flipped_image=0))
        for record in fake_records(tasks, values)
    ]


def test_equal_steps_are_printed_as_one_line() -> None:
    lines = show(search([[0.0] * 400 + [0.5, 0.5, 0.5]])).splitlines()
    assert [line.split("  reward")[0] for line in lines[1:]] == [
        "step  0/400",
        "steps 1 to 399: numbers as before",
        "step 400/400",
        "step 401: numbers as before",
        "step 402/400",
    ]


def test_steps_of_each_task_are_folded_separately_and_an_interrupt_prints_them() -> None:
    records = search([[0.0] * 9, [0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])[:10]
    lines = show(records).splitlines()[1:]
    assert lines[-2:] == ["1/2  steps 1 to 4: numbers as before", "2/2  steps 2 to 4: numbers as before"]
    assert [line.split("  reward")[0] for line in lines[:-2]] == [
        "1/2  step  0/400",
        "2/2  step  0/400",
        "2/2  step  1/400",
    ]


def test_verbose_prints_every_step_with_reasons_and_new_texts() -> None:
    records = [replace(one, reasoning=Reasoning(f"text {one.step // 2}", (1,))) for one in search([[0.0] * 4])]
    said = show(records, verbose=True)
    assert [f"step  {step}/400" in said for step in range(4)] == [True] * 4 and "numbers as before" not in said
    assert said.count("reasoning: text 0\n") == said.count("reasoning: text 1\n") == 1
    assert said.count("    0.00") == 4


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_that_distinguishes_prompts_is_cut_on_a_narrow_terminal(terminal: bool) -> None:
    said = show(search([[0.25, 1.0], [0.5, 1.0]]), width=70, terminal=terminal)
    text = " ".join(said.split())
    for prompt in ALIKE:
        assert text.count(" ".join(prompt.split())) == 2  # with its first and last line
    assert "…" not in text and "..." not in text


def test_flipped_is_explained_once() -> None:
    said = show(search([[0.25, 0.5, 0.75], [0.5, 1.0]]))
    assert said.count("milr: below, flipped 3/4 means: 3 of the 4 tokens that have latents differ from step 0") == 1
    assert show([replace(one, trace=None) for one in search([[0.25, 0.5]])]).count("flipped") == 0
