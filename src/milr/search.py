"""Algorithm 1 over many tasks at once: reason, draw, score, move the latents, again.

`search` is a generator of frozen step records; the progress line, run folders, pages and reports only consume them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import torch

from milr.config import SearchConfig
from milr.decode.sampling import number_keys, open_stream, sample
from milr.decode.tensors import to_integers
from milr.errors import MilrError
from milr.methods.latents import GradientError, Latents, RolledOut, count_latents, take_step
from milr.methods.strategies import STRATEGIES
from milr.models.absent import find_absent
from milr.models.base import ImageOutput, ImageRequest, Model, TaskState, TextOutput
from milr.rewards.base import Reward, WaitingReward, begin_scoring
from milr.types import ImageSample, Reasoning, Score, StepRecord, Task, Unscored, find_final, is_met, rank


class SearchError(MilrError):
    """A search that cannot go on; names task and step. Records yielded before stay valid."""


def search(
    tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig | None = None
) -> Iterator[StepRecord]:
    """Search each task's latents until its reward is above the stop value or K steps are spent.

    Args:
        tasks: Any number; `config.max_rows` are under way at once, a finished one gives its place to the next.
        model: Frozen; it reasons and draws.
        reward: Scores pictures in [0, 1].
        config: None takes the paper's settings with the model's own defaults.

    Yields:
        A record a task and step, step 0 first; tasks are interleaved. A task's last record says why it finished. Once
        the reward scores nothing any more (a judge's budget is spent), tasks under way end with the best so far, and
        those that have not begun stay out.

    Raises:
        SearchError: A gradient is not finite.
    """
    config = config or SearchConfig.model_validate(dict(model.search_defaults))
    absent = find_absent(config, model.capabilities)
    unused = {"text", "image"}.difference(STRATEGIES[config.strategy].latents)
    config = config.model_copy(update={f"{name}_ratio": 0.0 for name in unused.union(absent)})
    started = time.monotonic()
    waiting = deque(_open_searches(tasks, model, config, tuple(absent)))
    # While a judge elsewhere looks at the pictures of one group, the other group draws.
    groups = 2 if isinstance(reward, WaitingReward) and min(config.max_rows, len(tasks)) > 1 else 1
    rows = -(-min(config.max_rows, len(tasks)) // groups)
    active: list[list[_Search]] = [[] for _ in range(groups)]
    scoring: list[Callable[[], None] | None] = [None] * groups
    for group in cycle(range(groups)):
        if finish := scoring[group]:
            finish()
            lost = find_final(score for one in active[group] for score in one.scores)
            if lost is not None:
                waiting.clear()  # what cannot be scored is not drawn
            for one in active[group]:
                yield one.record(config.stop_at, time.monotonic() - started, lost)
            active[group] = [one for one in active[group] if one.finished is None]
        while waiting and len(active[group]) < rows:
            active[group].append(waiting.popleft())
        _begin(active[group], model)
        if not any(active):
            return
        scoring[group] = None
        if active[group]:
            for one in active[group]:
                one.move()
            _reason(active[group], model)
            _draw(active[group], model, config)
            scoring[group] = _score(active[group], reward)


def _begin(active: Sequence[_Search], model: Model) -> None:
    """A row of the model's for every newcomer; it goes with the search of that task."""
    new = [one for one in active if one.row is None]
    for one, row in zip(new, model.start([one.task for one in new]), strict=True):
        one.row = row


def _reason(active: Sequence[_Search], model: Model) -> None:
    """New text for all whose text latents moved; for a new task, the first text."""
    changed = [one for one in active if one.step == 0 or "text" in one.moved]
    if not changed:
        return
    prefixes, offsets, streams = zip(*(one.begin_text() for one in changed), strict=True)
    thoughts = model.reason(
        [_row(one) for one in changed],
        prefixes,
        offsets=offsets,
        streams=streams if model.text_temperature else None,
        temperature=model.text_temperature or 1.0,
    )
    for one, thought in zip(changed, thoughts, strict=True):
        one.take_thought(thought)


def _draw(active: Sequence[_Search], model: Model, config: SearchConfig) -> None:
    """M drawings each, after the text and behind the image latents."""
    requests = [request for one in active for request in one.draw_requests()]
    keep, _ = count_latents(config.image_ratio, model.capabilities.image_tokens)
    sketches = model.draw(
        requests, guidance=config.guidance, temperature=config.temperature, keep=keep, sampler=config.sampler
    )
    for place, one in enumerate(active):
        many = config.drawings_per_step
        one.take_sketches(sketches[place * many : (place + 1) * many])


def _score(active: Sequence[_Search], reward: Reward) -> Callable[[], None]:
    """Begin to score all drawings; the call that is returned waits for the scores and hands them out."""
    asked = [(one, place) for one in active for place in range(len(one.drawings))]
    wait = begin_scoring(reward, [one.drawings[i].picture for one, i in asked], [one.task for one, _ in asked])

    def finish() -> None:
        for (one, place), score in zip(asked, wait(), strict=True):
            one.scores[place] = score

    return finish


def _open_searches(
    tasks: Sequence[Task], model: Model, config: SearchConfig, absent: tuple[str, ...]
) -> Iterator[_Search]:
    keys = number_keys(task.key for task in tasks)
    for index, (task, key) in enumerate(zip(tasks, keys, strict=True)):
        yield _Search(task, index, key, model, config, absent)


class _Search:
    """One task under way."""

    def __init__(
        self, task: Task, index: int, key: str, model: Model, config: SearchConfig, absent: tuple[str, ...]
    ) -> None:
        self.task, self.index, self.key, self.model, self.config = task, index, key, model, config
        self.absent = absent  # latents that were asked for, but that the model does not have
        self.row: TaskState | None = None
        self.step = -1
        self.moved: tuple[str, ...] = ()
        self.latents: Latents | None = None
        self.text_states = torch.empty(0, model.capabilities.width)
        self.reasoning = Reasoning("", ())
        self.read_text: tuple[int, ...] = ()  # the text prefix that was rolled out
        self.drawings: list[ImageSample] = []
        self.scores: list[Score | Unscored] = []
        self.first_text: tuple[int, ...] = ()
        self.first_image: tuple[int, ...] = ()
        self.best: tuple[ImageSample, Score | Unscored, int] | None = None
        self.log_probability: float | None = None
        self.drawings_spent = self.tokens_spent = 0
        self.notes: list[str] = []
        self.finished: str | None = None

    def move(self) -> None:
        """Begin the next step: nothing at step 0, then one step of the latents that the strategy names."""
        self.step += 1
        self.notes = []
        self.moved = ()
        if self.step == 0:
            return
        latents = self._latents()
        moves = STRATEGIES[self.config.strategy].moves(self.step, self.config.steps)
        self.moved = tuple(name for name in moves if latents.now[name].numel())
        scored = [(d, s.value) for d, s in zip(self.drawings, self.scores, strict=True) if isinstance(s, Score)]
        reasons = [score.reason for score in self.scores if isinstance(score, Unscored)]
        if not scored:
            self.notes.append(f"no update: {reasons[0]}")
            self.moved, self.log_probability = (), None
            return
        if reasons:
            self.notes.append(f"{len(reasons)} of {len(self.scores)} drawings left out of the update: {reasons[0]}")
        seen = RolledOut(
            self.read_text,
            tuple(drawing.tokens[: len(latents.now["image"])] for drawing, _ in scored),
            tuple(value for _, value in scored),
        )
        stream = open_stream(self.config.seed, self.key, 0, self.step, "credit")
        try:
            self.log_probability = take_step(self.model, latents, seen, self.moved, self.config, stream)
        except GradientError as error:
            raise SearchError(f"{error} at step {self.step} of {self.task.prompt!r}") from error

    def begin_text(self) -> tuple[tuple[int, ...], torch.Tensor, torch.Generator]:
        """What the text head reads from the latents, or what they add to the decoder's states; at step 0 nothing.

        And the stream for a text that is sampled: place i uses its i-th numbers, wherever its logits come from.
        """
        step = self.step if self.config.noise == "fresh" else 0
        stream = open_stream(self.config.seed, self.key, 0, step, "text")
        nothing = self.text_states[:0]
        latents = nothing if self.step == 0 else self._latents().now["text"].detach()
        if not len(latents):
            return (), nothing, stream
        if STRATEGIES[self.config.strategy].added:
            return (), self._latents().moved("text"), stream
        logits, temperature = self.model.text_logits(latents), self.model.text_temperature
        if not temperature:
            return tuple(to_integers(logits.argmax(-1))), nothing, stream
        return tuple(int(sample(row[None], [stream], temperature)) for row in logits), nothing, stream

    def take_thought(self, thought: TextOutput) -> None:
        """A new text; at step 0 its first hidden states become the text latents."""
        self.reasoning = thought.reasoning
        if self.step == 0:
            count, note = count_latents(self.config.text_ratio, len(thought.reasoning.tokens))
            self.notes += [f"text: {note}"] if note else []
            self.text_states = thought.hidden[:count]
        count, added = len(self.text_states), STRATEGIES[self.config.strategy].added
        # The end-of-sequence token is rolled out too where it falls inside the prefix.
        self.read_text = thought.written[:count]
        self.tokens_spent += len(thought.written) - (len(self.read_text) if self.step and not added else 0)
        if self.step and added:
            self._latents().anchor(thought.hidden)

    def draw_requests(self) -> list[ImageRequest]:
        """M requests with streams of their own: of this step, or of step 0 where the noise is fixed."""
        step = self.step if self.config.noise == "fresh" else 0
        prefix = None
        if self.step and len(self._latents().now["image"]):
            prefix = self.model.image_logits(self._latents().now["image"].detach(), self.config.guidance)
        return [
            ImageRequest(_row(self), self.reasoning, open_stream(self.config.seed, self.key, place, step), prefix)
            for place in range(self.config.drawings_per_step)
        ]

    def take_sketches(self, sketches: Sequence[ImageOutput]) -> None:
        """New drawings; at step 0 the first one's hidden states become the image latents."""
        self.drawings = [sketch.drawing for sketch in sketches]
        self.scores = [Unscored("not scored yet", "")] * len(sketches)
        self.drawings_spent += len(sketches)
        self.tokens_spent += sum(len(drawing.tokens) for drawing in self.drawings)
        if self.step == 0:
            hidden = sketches[0].hidden
            assert hidden is not None, "a drawing without a prefix comes with its hidden states"
            _, note = count_latents(self.config.image_ratio, len(self.drawings[0].tokens))
            self.notes += [f"image: {note}"] if note else []
            self.notes += [f"{name}: this model has no {name} latents, so none move" for name in self.absent]
            self.latents = Latents(self.text_states, hidden, self.config.learning_rate)
            self.first_text = self.read_text
            self.first_image = self.drawings[0].tokens[: len(hidden)]

    def record(self, stop_at: float | None, seconds: float, lost: str | None) -> StepRecord:
        """This step's record; decides whether the task is finished. `lost` says why nothing is scored any more."""
        latents = self._latents()
        for drawing, score in zip(self.drawings, self.scores, strict=True):
            if self.best is None or rank(score) > rank(self.best[1]):
                self.best = (drawing, score, self.step)
        assert self.best is not None
        if is_met(self.best[1], stop_at):
            self.finished = "met"
        elif lost is not None:
            self.finished = "unscored"
            self.notes.append(f"ended with the best so far: {lost}")
        elif self.step >= self.config.steps:
            self.finished = "out of steps"
        image = self.drawings[0].tokens[: len(self.first_image)]
        return StepRecord(
            task=self.task,
            index=self.index,
            step=self.step,
            moved=self.moved,
            reasoning=self.reasoning,
            drawings=tuple(self.drawings),
            scores=tuple(self.scores),
            best=self.best[0],
            best_score=self.best[1],
            best_step=self.best[2],
            text_latents=len(latents.now["text"]),
            image_latents=len(latents.now["image"]),
            flipped_text=_differences(self.read_text, self.first_text),
            flipped_image=_differences(image, self.first_image),
            text_shift=latents.shift("text"),
            image_shift=latents.shift("image"),
            log_probability=self.log_probability,
            drawings_spent=self.drawings_spent,
            tokens_spent=self.tokens_spent,
            reward_calls=self.drawings_spent,
            seconds=seconds,
            finished=self.finished,  # pyright: ignore[reportArgumentType]
            notes=tuple(self.notes),
        )

    def _latents(self) -> Latents:
        assert self.latents is not None, "latents exist once the first drawing is made"
        return self.latents


def _row(one: _Search) -> TaskState:
    assert one.row is not None, "a search begins with a row of the model's"
    return one.row


def _differences(now: tuple[int, ...], first: tuple[int, ...]) -> int:
    """Places that differ; places that only one of them has count too."""
    return sum(a != b for a, b in zip(now, first, strict=False)) + abs(len(now) - len(first))
