"""One loop for every method that is not the search: rows in lockstep, each led by a script of its own.

A script is a generator that asks for a text (`Row.think`) or for drawings (`Row.draw`) and goes on with the answer; it
reads as the method's idea for one task. The loop answers all rows at once, so every method is batched, refilled,
stopped, counted and recorded alike.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from milr.config import SearchConfig
from milr.decode.sampling import number_keys, open_stream
from milr.models.base import ImageRequest, Model, TextOutput
from milr.rewards.base import Reward, begin_scoring
from milr.types import ImageSample, Reasoning, Score, StepRecord, Task, Unscored, find_final, is_met, rank


@dataclass(frozen=True)
class Think:
    """Ask for a text."""

    prefix: tuple[int, ...]
    """Token ids that it begins with."""
    sampled: bool
    """At temperature 1; else greedy."""
    critique: str
    """What was wrong with an earlier picture."""


@dataclass(frozen=True)
class Look:
    """A drawing, partial or whole, and what the reward says of its picture."""

    drawing: ImageSample
    score: Score | Unscored


Script: TypeAlias = Generator[Think | list[ImageRequest], Any, None]
"""What leads a row; it ends behind a whole drawing."""


class Row:
    """One task under way, as its script sees it."""

    def __init__(
        self, task: Task, index: int, key: str, model: Model, config: SearchConfig, script: Callable[[Row], Script]
    ) -> None:
        """Take the task's place in the list, the key of its random streams, and the script that leads it."""
        self.task, self.index, self.key, self.model, self.config = task, index, key, model, config
        (self.row,) = model.start([task])
        """The model's memory of the task."""
        self.reasoning: Reasoning | None = None
        """The newest text; None draws from the prompt alone."""
        self.best: tuple[Look, int] | None = None
        """The best whole picture, the first of equals, and its step."""
        self.step = self.tokens_spent = self.reward_calls = 0
        self._total = model.capabilities.image_tokens
        self._texts = self._requests = self._decoded = 0  # texts sampled, drawings asked for, image tokens decoded
        self._script = script(self)
        self.asked: Think | list[ImageRequest] | None = next(self._script)

    @property
    def drawings_spent(self) -> float:
        """Image tokens decoded, over those of a whole drawing: a partial drawing counts as its share."""
        return self._decoded / self._total

    @property
    def left(self) -> float:
        """Drawings that the budget of K + 1 still holds."""
        return self.config.steps + 1 - self.drawings_spent

    def think(
        self, prefix: Sequence[int] = (), *, sampled: bool = False, critique: str = ""
    ) -> Generator[Think, TextOutput, TextOutput]:
        """A new text, which following drawings follow."""
        thought = yield Think(tuple(prefix), sampled, critique)
        self.reasoning = thought.reasoning
        self.tokens_spent += len(thought.written) - len(prefix)
        return thought

    def draw(
        self, begun: Sequence[Sequence[int | None]] = ((),), until: int | None = None
    ) -> Generator[list[ImageRequest], list[Look], list[Look]]:
        """Drawings after the newest text, looked at by the reward.

        Args:
            begun: For each drawing the tokens that are given, in raster order; None, and what follows, is drawn.
            until: As in `ImageRequest`: at so many tokens the drawings stay partial, and no record is made of them.
        """
        requests: list[ImageRequest] = []
        for tokens in begun:
            # Drawing n has the numbers of a search's step n, so that methods which draw alike draw the same pictures.
            stream = open_stream(self.config.seed, self.key, 0, self._requests)
            self._requests += 1
            requests.append(ImageRequest(self.row, self.reasoning, stream, tokens=tokens, until=until))
        looks = yield requests
        return looks

    def rows(self, share: float) -> int:
        """Image tokens in that share of the raster's rows: at least one row, and never all."""
        side = math.isqrt(self._total)
        return side * min(max(round(share * side), 1), side - 1)

    def answer(self, answer: TextOutput | list[Look]) -> None:
        """Hand the script what it asked for; `asked` is then its next wish, None at its end."""
        try:
            self.asked = self._script.send(answer)
        except StopIteration:
            self.asked = None

    def open_text_stream(self) -> torch.Generator:
        """A stream for the next sampled text."""
        self._texts += 1
        return open_stream(self.config.seed, self.key, 0, self._texts - 1, "text")

    def count(self, requests: Sequence[ImageRequest], looks: Sequence[Look]) -> None:
        """Count what was drawn: given tokens at the beginning are read, not decoded, and given ones not sampled."""
        self.reward_calls += len(looks)
        for request, look in zip(requests, looks, strict=True):
            leading = next((i for i, token in enumerate(request.tokens) if token is None), len(request.tokens))
            self._decoded += len(look.drawing.tokens) - leading
            self.tokens_spent += len(look.drawing.tokens) - sum(token is not None for token in request.tokens)

    def record(self, reasoning: Reasoning | None, looks: Sequence[Look], seconds: float) -> StepRecord:
        """The record of a step's whole drawings and the text that they follow; its script has gone on, or ended."""
        for look in looks:
            if self.best is None or rank(look.score) > rank(self.best[0].score):
                self.best = (look, self.step)
        assert self.best is not None
        best, best_step = self.best
        finished: Literal["met", "out of steps", "unscored"] | None = None
        notes: tuple[str, ...] = ()
        if is_met(best.score, self.config.stop_at):
            finished = "met"
        elif lost := find_final(look.score for look in looks):
            finished, notes = "unscored", (f"ended with the best so far: {lost}",)
        elif self.asked is None:
            finished = "out of steps"
        self.step += 1
        return StepRecord(
            task=self.task,
            index=self.index,
            step=self.step - 1,
            moved=(),
            reasoning=reasoning or Reasoning("", ()),
            drawings=tuple(look.drawing for look in looks),
            scores=tuple(look.score for look in looks),
            best=best.drawing,
            best_score=best.score,
            best_step=best_step,
            text_latents=0,
            image_latents=0,
            flipped_text=0,
            flipped_image=0,
            text_shift=0.0,
            image_shift=0.0,
            log_probability=None,
            drawings_spent=self.drawings_spent,
            tokens_spent=self.tokens_spent,
            reward_calls=self.reward_calls,
            seconds=seconds,
            finished=finished,
            notes=notes,
        )


def run_scripts(
    script: Callable[[Row], Script], tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig
) -> Iterator[StepRecord]:
    """Lead each task by a script until its reward is above the stop value or the script ends.

    `config.max_rows` tasks are under way at once; a finished one gives its place to the next. Records are a search's,
    with no latents. Once the reward scores nothing any more, tasks end with the best so far and no other begins.
    """
    started = time.monotonic()
    waiting = deque(
        (task, index, key)
        for index, (task, key) in enumerate(zip(tasks, number_keys(task.key for task in tasks), strict=True))
    )
    active: list[Row] = []
    while waiting or active:
        while waiting and len(active) < config.max_rows:
            active.append(Row(*waiting.popleft(), model, config, script))
        _think(active, model)
        asked = [row.asked for row in active if isinstance(row.asked, list)]
        seen = _look(asked, model, reward, config)
        remaining: list[Row] = []
        for row, requests, looks in zip(active, asked, seen, strict=True):
            row.count(requests, looks)
            whole = requests[0].until is None
            if find_final(look.score for look in looks):
                waiting.clear()  # what cannot be scored is not drawn
            row.answer(looks)
            finished = None
            if whole:
                record = row.record(requests[0].reasoning, looks, time.monotonic() - started)
                finished = record.finished
                yield record
            if finished is None:
                remaining.append(row)
        active = remaining


def _think(active: Sequence[Row], model: Model) -> None:
    """Write texts until every row waits for drawings: the greedy ones together, and the sampled ones."""
    while wishes := [(row, row.asked) for row in active if isinstance(row.asked, Think)]:
        for sampled in {asked.sampled for _, asked in wishes}:
            rows = [(row, asked) for row, asked in wishes if asked.sampled == sampled]
            thoughts = model.reason(
                [row.row for row, _ in rows],
                [asked.prefix for _, asked in rows],
                streams=[row.open_text_stream() for row, _ in rows] if sampled or model.text_temperature else None,
                temperature=model.text_temperature or 1.0,
                critiques=[asked.critique for _, asked in rows],
            )
            for (row, _), thought in zip(rows, thoughts, strict=True):
                row.answer(thought)


def _look(
    asked: Sequence[Sequence[ImageRequest]], model: Model, reward: Reward, config: SearchConfig
) -> list[list[Look]]:
    """Draw and score everything that is asked for, in the rows' order."""
    requests = [request for own in asked for request in own]
    sketches = model.draw(
        requests, guidance=config.guidance, temperature=config.temperature, keep=0, sampler=config.sampler
    )
    drawings = [sketch.drawing for sketch in sketches]
    scores = begin_scoring(reward, [drawing.picture for drawing in drawings], [one.row.task for one in requests])()
    looks = iter([Look(drawing, score) for drawing, score in zip(drawings, scores, strict=True)])
    return [[next(looks) for _ in own] for own in asked]
