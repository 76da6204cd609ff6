"""Best of N: draw again and again from the same text, keep the best. N is `config.steps` + 1.

With ``reason=False`` the model draws from the prompt alone; with steps=0 that is the plain one-shot baseline.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from milr.config import SearchConfig
from milr.decode.streams import open_stream
from milr.models.base import DrawRequest, Model
from milr.rewards.base import Reward, begin_scoring
from milr.types import Drawing, Reasoning, Score, StepRecord, Task, Unscored, is_met, rank


@dataclass
class _Row:
    """One task under way."""

    task: Task
    index: int
    reasoning: Reasoning | None
    tokens_spent: int
    step: int = 0
    best: tuple[Drawing, Score | Unscored, int] | None = None


def best_of_n(
    tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig, *, reason: bool = True
) -> Iterator[StepRecord]:
    """Draw up to ``config.steps`` + 1 pictures a task from one greedy text; stop as a search does.

    Records are a search's, with no latents. Drawing n's random stream is keyed by n, so the first k drawings are the
    same whatever N is.
    """
    started = time.monotonic()
    waiting = deque(enumerate(tasks))
    active: list[_Row] = []
    while waiting or active:
        admitted = [waiting.popleft() for _ in range(min(len(waiting), config.max_rows - len(active)))]
        thoughts = model.reason([task for _, task in admitted], [()] * len(admitted)) if reason else None
        for place, (index, task) in enumerate(admitted):
            thought = thoughts[place] if thoughts else None
            spent = len(thought.written) if thought else 0
            active.append(_Row(task, index, thought.reasoning if thought else None, spent))
        requests = [
            DrawRequest(row.task, row.reasoning, open_stream(config.seed, row.task.key, row.step, 0, "best of n"))
            for row in active
        ]
        sketches = model.draw(requests, guidance=config.guidance, temperature=config.temperature, keep=0)
        scores = begin_scoring(reward, [one.drawing.picture for one in sketches], [row.task for row in active])()
        remaining: list[_Row] = []
        for row, sketch, score in zip(active, sketches, scores, strict=True):
            record = _record(row, sketch.drawing, score, config, time.monotonic() - started)
            yield record
            row.step += 1
            if record.finished is None:
                remaining.append(row)
            elif record.finished == "unscored":
                waiting.clear()  # what cannot be scored is not drawn
        active = remaining


def _record(row: _Row, drawing: Drawing, score: Score | Unscored, config: SearchConfig, seconds: float) -> StepRecord:
    row.tokens_spent += len(drawing.tokens)
    if row.best is None or rank(score) > rank(row.best[1]):
        row.best = (drawing, score, row.step)
    finished: Literal["met", "out of steps", "unscored"] | None = None
    notes: tuple[str, ...] = ()
    if is_met(row.best[1], config.stop_at):
        finished = "met"
    elif isinstance(score, Unscored) and score.final:
        finished, notes = "unscored", (f"ended with the best so far: {score.reason}",)
    elif row.step >= config.steps:
        finished = "out of steps"
    return StepRecord(
        task=row.task,
        index=row.index,
        step=row.step,
        moved=(),
        reasoning=row.reasoning or Reasoning("", ()),
        drawings=(drawing,),
        scores=(score,),
        best=row.best[0],
        best_score=row.best[1],
        best_step=row.best[2],
        text_latents=0,
        image_latents=0,
        flipped_text=0,
        flipped_image=0,
        text_shift=0.0,
        image_shift=0.0,
        log_probability=None,
        drawings_spent=row.step + 1,
        tokens_spent=row.tokens_spent,
        reward_calls=row.step + 1,
        seconds=seconds,
        finished=finished,
        notes=notes,
    )
