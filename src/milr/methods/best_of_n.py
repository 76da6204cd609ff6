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
from milr.models.base import DrawRequest, Model, Row
from milr.rewards.base import Reward, begin_scoring
from milr.types import Drawing, Reasoning, Score, StepRecord, Task, Unscored, rank


@dataclass
class _Draws:
    """One task under way."""

    row: Row
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
    stop_at = reward.stop_at if config.stop_at is None else config.stop_at
    started = time.monotonic()
    waiting = deque(enumerate(tasks))
    active: list[_Draws] = []
    while waiting or active:
        admitted = [waiting.popleft() for _ in range(min(len(waiting), config.max_rows - len(active)))]
        rows = model.start([task for _, task in admitted])
        thoughts = model.reason(rows, [()] * len(rows)) if reason else None
        for place, ((index, _), row) in enumerate(zip(admitted, rows, strict=True)):
            thought = thoughts[place] if thoughts else None
            spent = len(thought.written) if thought else 0
            active.append(_Draws(row, index, thought.reasoning if thought else None, spent))
        requests = [
            DrawRequest(one.row, one.reasoning, open_stream(config.seed, one.row.task.key, one.step, 0, "best of n"))
            for one in active
        ]
        sketches = model.draw(
            requests, guidance=config.guidance, temperature=config.temperature, keep=0, sampler=config.sampler
        )
        scores = begin_scoring(
            reward, [sketch.drawing.picture for sketch in sketches], [one.row.task for one in active]
        )()
        remaining: list[_Draws] = []
        for one, sketch, score in zip(active, sketches, scores, strict=True):
            record = _record(one, sketch.drawing, score, stop_at, config, time.monotonic() - started)
            yield record
            one.step += 1
            if record.finished is None:
                remaining.append(one)
            elif record.finished == "unscored":
                waiting.clear()  # what cannot be scored is not drawn
        active = remaining


def _record(
    one: _Draws, drawing: Drawing, score: Score | Unscored, stop_at: float, config: SearchConfig, seconds: float
) -> StepRecord:
    one.tokens_spent += len(drawing.tokens)
    if one.best is None or rank(score) > rank(one.best[1]):
        one.best = (drawing, score, one.step)
    finished: Literal["met", "out of steps", "unscored"] | None = None
    notes: tuple[str, ...] = ()
    if rank(one.best[1]) > stop_at:
        finished = "met"
    elif isinstance(score, Unscored) and score.final:
        finished, notes = "unscored", (f"ended with the best so far: {score.reason}",)
    elif one.step >= config.steps:
        finished = "out of steps"
    return StepRecord(
        task=one.row.task,
        index=one.index,
        step=one.step,
        moved=(),
        reasoning=one.reasoning or Reasoning("", ()),
        drawings=(drawing,),
        scores=(score,),
        best=one.best[0],
        best_score=one.best[1],
        best_step=one.best[2],
        text_latents=0,
        image_latents=0,
        flipped_text=0,
        flipped_image=0,
        text_shift=0.0,
        image_shift=0.0,
        log_probability=None,
        drawings_spent=one.step + 1,
        tokens_spent=one.tokens_spent,
        reward_calls=one.step + 1,
        seconds=seconds,
        finished=finished,
        notes=notes,
    )
