"""Algorithm 1 with a fake model: which latents move, what is drawn again, what is returned, when it ends."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import FrozenInstanceError, dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from PIL import Image

import milr.methods.runner as runner_module
from milr import search
from milr.decode.sampling import SAMPLE
from milr.errors import UsageError
from milr.methods.latents import GradientError, Update, image_log_probability, take_steps
from milr.methods.milr import SearchError
from milr.models.base import ImageOutput, ImageRequest, Model, TextOutput, TextRequest
from milr.settings import GRADIENTS, STRATEGIES, SamplingParams
from milr.testing import FakeModel, FakeReward, brightness, fake_score, read_tokens
from milr.types import LatentTrace, Score, StepRecord, Task, Unscored, rank

CAT, DOGS, TREE, ONE = (Task(prompt=p) for p in ("a red cat", "two dogs", "a big tree", "one"))
TASKS = [CAT, DOGS, TREE, ONE]
NEVER = 1.0  # no reward is strictly above it
# Five image latents of 25, half of the text, and steps large enough to change tokens.
SETTINGS: dict[str, Any] = {"steps": 5, "text_ratio": 0.5, "image_ratio": 0.2, "learning_rate": 0.2, "guidance": 2.0}


def run(
    tasks: Sequence[Task], model: FakeModel | None = None, reward: FakeReward | None = None, **settings: Any
) -> list[StepRecord]:
    """Return all records of a search that does not stop early by default."""
    own = dict(SETTINGS)
    if settings.get("strategy") == "steer":
        del own["image_ratio"]  # a strategy without image latents does not read it
    if settings.get("strategy") == "no-text":
        del own["text_ratio"]
    changes = own | {"stop_at": NEVER} | settings
    return list(search(tasks, model or FakeModel(), reward or FakeReward(), **changes))


def trace(record: StepRecord) -> LatentTrace:
    """Return a record's part about latents."""
    assert record.trace is not None
    return record.trace


def timeless(records: Sequence[StepRecord], index: int | None = None) -> list[StepRecord]:
    """Return the records of one task, or of all tasks in order, without times."""
    kept = [replace(record, seconds=0) for record in records if index in (None, record.index)]
    return sorted(kept, key=lambda record: (record.index, record.step))


def scripted(*values: float) -> Callable[[Image.Image, Task], float]:
    """Return prepared scores, one per image."""
    left = iter(values)
    return lambda image, task: next(left)


def share_of_dark(image: Image.Image, task: Task) -> float:
    """Score by the tokens."""
    tokens = read_tokens(image)
    return sum(token < 8 for token in tokens) / len(tokens)


@dataclass
class Step:
    """One task's part of a call of `take_steps`, as a test records it."""

    update: Update
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Return every step over latents in a test's searches."""
    made: list[Step] = []

    def watch(model: Model, updates: Sequence[Update], *rest: Any) -> list[float | GradientError]:
        before = [{name: value.clone() for name, value in update.latents.now.items()} for update in updates]
        log_p = take_steps(model, updates, *rest)
        for update, old in zip(updates, before, strict=True):
            made.append(Step(update, old, {name: value.clone() for name, value in update.latents.now.items()}))
        return log_p

    monkeypatch.setattr(runner_module, "take_steps", watch)
    return made


class Watched(FakeModel):
    """A model that records requests and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[tuple[tuple[int, ...], TextOutput]] = []
        self.offsets: list[torch.Tensor] = []
        self.images: list[tuple[ImageRequest, ImageOutput]] = []

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        outputs = super().draw(requests, sampling)
        self.images += zip(requests, outputs, strict=True)
        return outputs

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        assert requests, "asked to reason about nothing"
        outputs = super().reason(requests)
        for request, output in zip(requests, outputs, strict=True):
            self.texts.append((tuple(request.prefix), output))
            none = torch.empty(0, self.capabilities.width)
            self.offsets.append(none if request.offsets is None else request.offsets)
        return outputs


# --- strategies


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("joint", ["text image"] * 5),
        ("alt", ["text", "image", "text", "image", "text"]),
        ("t2v", ["text", "text", "image", "image", "image"]),  # k <= floor(5 / 2)
        ("no-text", ["image"] * 5),
    ],
)
def test_a_strategy_moves_only_the_latents_that_it_names(strategy: str, expected: list[str], steps: list[Step]) -> None:
    records = run([CAT], strategy=strategy)
    assert [" ".join(trace(record).moved) for record in records] == ["", *expected]
    for step, names in zip(steps, expected, strict=True):
        for name in ("text", "image"):
            still = name not in names or not step.before[name].numel()
            assert torch.equal(step.before[name], step.after[name]) == still, name
    for earlier, later in pairwise(steps):  # nor does anything else move between steps
        for name in ("text", "image"):
            assert torch.equal(earlier.after[name], later.before[name])


def test_steer_writes_every_word_after_the_words_before_it(steps: list[Step]) -> None:
    model = Watched()
    records = run([CAT, DOGS], model, strategy="steer", batch_size=1)
    assert any(trace(record).flipped_text for record in records)
    for (prefix, output), offsets in zip(model.texts, model.offsets, strict=True):
        assert prefix == ()
        # Each word is read from the decoder's moved state, so it depends on the words before it.
        states = output.hidden.clone()
        states[: len(offsets)] += offsets[: len(states)]
        assert tuple(model.text_logits(states).argmax(-1).tolist()) == output.tokens
    assert all(request.prefix is None for request in model.drawn)  # the image has no latents


def test_steer_moves_the_states_of_the_words_that_were_written(steps: list[Step]) -> None:
    model = Watched()
    records = run([CAT], model, strategy="steer")
    for step, record, (_, output), offsets in zip(steps, records, model.texts, model.offsets, strict=False):
        count = len(step.update.text)
        assert step.update.text == output.tokens[:count] and 0 < count <= trace(record).text_latents
        expected = output.hidden[:count] + (offsets[:count] if len(offsets) else 0)
        assert torch.allclose(step.before["text"][:count], expected, atol=1e-6)


@pytest.mark.parametrize("many", [1, 3])
def test_steer_both_credits_the_tokens_that_were_sampled(steps: list[Step], many: int) -> None:
    """Each image token is sampled from the decoder's state after the tokens before it, plus the learned offset."""
    model, sampling = Watched(), SamplingParams(guidance=2.0)
    records = run([CAT], model, strategy="steer-both", drawings_per_step=many)
    assert [trace(record).moved for record in records] == [(), *[("text", "image")] * 5]
    assert any(trace(record).flipped_image for record in records)
    rows = [model.images[place : place + many] for place in range(0, len(model.images), many)]
    assert len(rows) == len(records) == len(steps) + 1
    offsets = torch.zeros(5, 2, model.capabilities.width)
    for place, row in enumerate(rows):
        for request, output in row:
            assert request.prefix is None and output.hidden is not None
            assert request.offsets is None if place == 0 else torch.allclose(request.offsets, offsets, atol=1e-6)
            logits = model.image_logits(output.hidden + offsets, 2.0)
            numbers = SAMPLE["inverse"].numbers(request.stream.clone_state(), 25, 16)[:5]
            chosen = SAMPLE["inverse"].choose(torch.softmax(logits / sampling.temperature, -1), numbers)
            assert tuple(chosen.tolist()) == output.sample.tokens[:5]
        if place < len(steps):  # the step credits these tokens, read from their own states
            step = steps[place]
            assert step.update.images == tuple(output.sample.tokens[:5] for _, output in row)
            (log_p,) = image_log_probability(model, step.before["image"], [step.update], sampling)
            own = [
                model.image_logits(output.hidden + offsets, 2.0)
                .log_softmax(-1)[range(5), output.sample.tokens[:5]]
                .sum()
                for _, output in row
                if output.hidden is not None
            ]
            assert torch.allclose(log_p, torch.stack(own), atol=1e-4)
            offsets = offsets + step.after["image"] - step.before["image"]


def test_steer_both_without_a_gradient_redraws_images_of_the_same_text() -> None:
    """Its control is a search that neither space changes: the images are those of steer's control."""
    both, steer = (run(TASKS[:2], strategy=name, gradient="zero") for name in ("steer-both", "steer"))
    shown = [[[image.tokens for image in one.images] for one in timeless(records)] for records in (both, steer)]
    assert shown[0] == shown[1]
    assert {trace(record).image_shift for record in both} == {0.0}


def test_steer_without_a_gradient_writes_the_same_text_again() -> None:
    model = Watched()
    records = run([CAT, DOGS], model, strategy="steer", gradient="zero")
    assert not any(offsets.any() for offsets in model.offsets)
    for index in (0, 1):
        assert len({record.reasoning.text for record in records if record.index == index}) == 1
        assert {trace(record).text_shift for record in records if record.index == index} == {0.0}


def test_steer_is_independent_of_other_tasks_and_their_order() -> None:
    together = timeless(run(TASKS, strategy="steer"))
    for index, task in enumerate(TASKS):
        alone = [replace(record, index=index) for record in timeless(run([task], strategy="steer"))]
        assert alone == [record for record in together if record.index == index]


def test_t2v_of_one_step_moves_the_image() -> None:
    assert STRATEGIES["t2v"].moves(1, 1) == ("image",)
    assert [STRATEGIES["t2v"].moves(k, 4) for k in (1, 2, 3, 4)] == [("text",), ("text",), ("image",), ("image",)]


def test_a_text_with_unchanged_latents_is_not_decoded_again() -> None:
    model = Watched()
    records = run([CAT, DOGS], model, strategy="alt")
    assert len(model.texts) == 2 * (1 + 3)  # the first texts, then steps 1, 3 and 5
    for index in (0, 1):
        for before, after in pairwise(timeless(records, index)):
            if trace(after).moved == ("image",):
                assert after.reasoning is before.reasoning


def test_new_prefixes_are_read_from_the_latents_that_moved(steps: list[Step]) -> None:
    model = Watched()
    records = run([CAT], model)
    assert len(model.texts) == len(model.drawn) == len(records)
    assert model.texts[0][0] == () and model.drawn[0].prefix is None
    for step, (text, output), request, record in zip(steps, model.texts[1:], model.drawn[1:], records[1:], strict=True):
        assert text == tuple(model.text_logits(step.after["text"]).argmax(-1).tolist())
        assert request.prefix is not None
        assert torch.equal(request.prefix, model.image_logits(step.after["image"], 2.0))
        assert output.tokens[: len(text)] == text[: len(output.tokens)]
        assert record.reasoning is output.reasoning is request.reasoning


# --- stopping and what is returned


@pytest.mark.parametrize(("value", "theirs"), [(0.5, False), (0.8, True), (0.9, True)])
def test_a_value_equal_to_the_stop_does_not_stop(value: float, theirs: bool) -> None:
    """The paper's rule is R > tau. The authors compare R - 1 with -0.1, and in floating point 0.9 - 1 is above that."""
    assert (value - 1 > round(value - 1, 1)) == theirs
    reward = FakeReward(lambda image, task: value, stop_at=value)
    records = run([CAT], reward=reward, stop_at=None)
    assert [record.finished for record in records] == [None] * 5 + ["out of steps"]


def test_the_stop_is_the_rewards_own_unless_the_settings_have_one() -> None:
    def ends(own: float, given: float | None) -> tuple[int, str | None]:
        reward = FakeReward(lambda image, task: 0.5, stop_at=own)
        last = run([CAT], reward=reward, stop_at=given)[-1]
        return last.step, last.finished

    assert ends(0.4, None) == (0, "met")
    assert ends(0.6, None) == (5, "out of steps")
    assert ends(0.4, 0.6) == (5, "out of steps")
    assert ends(0.6, 0.4) == (0, "met")
    assert ends(0.6, 0.0) == (0, "met")


def test_a_reward_may_have_one_stop_per_task() -> None:
    class ByTask(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            return [fake_score(0.5, stop_at=0.4 if task == DOGS else 0.9) for task in tasks]

    def ends(stop_at: float | None) -> list[tuple[int, str | None]]:
        records = run([CAT, DOGS], reward=ByTask(stop_at=0.9), steps=2, stop_at=stop_at)
        last = {record.index: record for record in records}
        return [(last[i].step, last[i].finished) for i in range(2)]

    assert ends(None) == [(2, "out of steps"), (0, "met")]
    assert ends(0.45) == [(0, "met"), (0, "met")]


def test_a_task_that_is_met_at_once_is_not_updated(steps: list[Step]) -> None:
    model = FakeModel()
    (record,) = run([CAT], model, FakeReward(lambda image, task: 1.0), stop_at=0.9)
    assert (record.step, trace(record).moved, trace(record).log_probability) == (0, (), None)
    assert (
        trace(record).flipped_text,
        trace(record).flipped_image,
        trace(record).text_shift,
        trace(record).image_shift,
    ) == (0, 0, 0.0, 0.0)
    assert len(model.drawn) == record.drawings_spent == 1
    assert steps == []


def test_the_best_image_is_returned_and_the_first_of_equals() -> None:
    records = run([CAT], reward=FakeReward(scripted(0.2, 0.6, 0.3, 0.6, 0.1, 0.0)))
    assert [record.best_step for record in records] == [0, 1, 1, 1, 1, 1]
    last = records[-1]
    assert last.best is records[1].images[0]
    assert last.best_score is records[1].scores[0]
    assert last.best.tokens != last.images[0].tokens


def test_equal_rewards_are_decided_by_their_parts_and_then_by_the_first() -> None:
    parts = iter([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0), (0.0, 0.0)])

    class Conditions(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            return [Score(0.0, "fake", 0.9, dict(zip("ab", next(parts), strict=True))) for _ in images]

    records = run([CAT], reward=Conditions())
    assert [record.best_step for record in records] == [0, 1, 1, 3, 3, 3]


def test_the_best_of_a_steps_images_is_returned() -> None:
    values = (0.1, 0.4, 0.4, 0.3, 0.2, 0.5)
    first, second = run([CAT], reward=FakeReward(scripted(*values)), drawings_per_step=3, steps=1)
    assert first.best is first.images[1]
    assert second.best is second.images[2]
    assert [score.value for score in (*first.scores, *second.scores) if isinstance(score, Score)] == list(values)


def test_zero_steps_give_one_image() -> None:
    (record,) = run([CAT], steps=0)
    assert (record.step, record.finished, record.drawings_spent) == (0, "out of steps", 1)


def test_every_score_belongs_to_its_image_and_its_task() -> None:
    def of_both(image: Image.Image, task: Task) -> float:
        return brightness(image) * len(task.prompt) / 10

    for record in run(TASKS, reward=FakeReward(of_both), drawings_per_step=2, steps=2):
        for sample, score in zip(record.images, record.scores, strict=True):
            assert isinstance(score, Score)
            assert score.value == of_both(sample.image, record.task)
            assert read_tokens(sample.image) == sample.tokens
    assert not list(search([], FakeModel(), FakeReward()))


def test_records_are_frozen() -> None:
    (record,) = run([CAT], steps=0)
    with pytest.raises(FrozenInstanceError):
        record.step = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        record.best.tokens = ()  # type: ignore[misc]


# --- many tasks


def test_a_finished_tasks_place_is_given_to_the_next() -> None:
    at_once = FakeReward(lambda image, task: float(task is CAT))
    records = run(TASKS, reward=at_once, steps=2, stop_at=0.9, batch_size=2)
    order = [(record.index, record.step) for record in records]
    # The cat ends after its first image, and the tree starts beside the dogs' step 1.
    assert order == [(0, 0), (1, 0), (1, 1), (2, 0), (1, 2), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]


def test_position_and_neighbours_do_not_change_a_record() -> None:
    settings: dict[str, Any] = {"reward": FakeReward(share_of_dark), "drawings_per_step": 2}
    endless = run(TASKS, **settings, stop_at=1.0)
    found = sorted(rank(record.best_score) for record in endless if record.finished)
    settings["stop_at"] = (found[1] + found[2]) / 2  # two of the four tasks exceed it
    together = run(TASKS, **settings)
    ends = {record.index: record.step for record in together if record.finished}
    assert len(set(ends.values())) > 1, "a test of tasks that finish at different steps"
    assert timeless(run(TASKS, **settings, batch_size=1)) == timeless(together)
    assert timeless(run(TASKS, **settings, batch_size=3)) == timeless(together)
    for index, task in enumerate(TASKS):
        alone = [replace(record, index=index) for record in run([task], **settings)]
        assert timeless(alone) == timeless(together, index)


def test_the_order_of_tasks_does_not_matter() -> None:
    forward, backward = run(TASKS), run(TASKS[::-1])
    for index in range(4):
        turned = [replace(record, index=index) for record in timeless(backward, 3 - index)]
        assert turned == timeless(forward, index)


def test_the_same_task_twice_is_two_searches() -> None:
    twice = run([CAT, DOGS, CAT])
    assert timeless(twice, 0) == timeless(run([CAT]))
    first, second = timeless(twice, 0)[0], timeless(twice, 2)[0]
    assert first.reasoning == second.reasoning
    assert first.best.tokens != second.best.tokens


def test_a_search_repeats_itself_and_another_seed_does_not() -> None:
    assert timeless(run([CAT])) == timeless(run([CAT]))
    assert run([CAT], seed=1)[0].best.tokens != run([CAT])[0].best.tokens


def test_each_image_of_a_step_has_its_own_stream() -> None:
    for record in run([CAT], drawings_per_step=3):
        assert len({sample.tokens for sample in record.images}) == 3
        assert len({sample.tokens[:5] for sample in record.images}) > 1
        assert record.drawings_spent == 3 * (record.step + 1)


# --- what the latents add


def test_fixed_noise_and_no_gradient_redraw_the_same_image() -> None:
    records = run([CAT], noise="fixed", gradient="zero")
    assert {record.images[0].tokens for record in records} == {records[0].images[0].tokens}
    assert {record.reasoning for record in records} == {records[0].reasoning}
    assert {(trace(record).text_shift, trace(record).image_shift) for record in records} == {(0.0, 0.0)}


def test_fresh_noise_and_no_gradient_redraw_new_images() -> None:
    records = run([CAT], noise="fresh", gradient="zero")
    assert len({record.images[0].tokens for record in records}) == len(records)
    assert {record.reasoning for record in records} == {records[0].reasoning}
    assert {(trace(record).text_shift, trace(record).image_shift) for record in records} == {(0.0, 0.0)}


@pytest.mark.slow
def test_without_a_gradient_the_choice_of_latents_does_not_matter() -> None:
    """One zero-gradient control serves all searches that differ only in these settings."""

    def draw(**settings: Any) -> list[tuple[object, object]]:
        records = timeless(run(TASKS, gradient="zero", **settings))
        return [(record.reasoning, record.images[0].tokens) for record in records]

    usual, without_image = draw(), draw(image_ratio=0.0)
    assert usual == draw(strategy="alt") == draw(strategy="t2v")
    assert usual == draw(text_ratio=0.0) == draw(l2=1.0) == draw(learning_rate=0.5)
    assert without_image == draw(strategy="steer") == draw(strategy="steer", text_ratio=1.0, learning_rate=0.5)
    # Image latents depend on the first image's tokens, not on each other: their number changes the image.
    assert usual != without_image


def test_under_fixed_noise_an_image_changes_only_where_the_latents_changed_a_token() -> None:
    records = run(TASKS, reward=FakeReward(lambda image, task: 0.0), noise="fixed", learning_rate=0.005, steps=12)
    firsts = {record.index: record.images[0].tokens for record in records if record.step == 0}
    later = [(record, record.images[0].tokens == firsts[record.index]) for record in records if record.step]
    for record, same in later:
        if trace(record).flipped_text == trace(record).flipped_image == 0:
            assert same
        if trace(record).flipped_image:
            assert not same
    # A changed word need not change the image, but one of them does.
    assert any(trace(record).flipped_text and not trace(record).flipped_image and not same for record, same in later)
    assert any(same for _, same in later)


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_ablations_begin_with_the_same_image(noise: str) -> None:
    firsts = [run([CAT], noise=noise, gradient=gradient)[0] for gradient in GRADIENTS]
    assert all(timeless([first]) == timeless([firsts[0]]) for first in firsts)


def test_a_random_gradient_has_the_same_step_length(steps: list[Step]) -> None:
    run([CAT], steps=1)
    run([CAT], steps=1, gradient="random")
    run([CAT], steps=1, gradient="random")
    real, randomly, again = steps
    for name in ("text", "image"):
        a, b = real.after[name] - real.before[name], randomly.after[name] - randomly.before[name]
        assert float(b.norm()) == pytest.approx(float(a.norm()), rel=1e-3)
        assert not torch.allclose(a, b, atol=0.05)
        assert torch.equal(randomly.after[name], again.after[name])


def test_random_directions_differ_from_step_to_step_and_from_task_to_task(steps: list[Step]) -> None:
    run([CAT, DOGS], steps=2, gradient="random", text_ratio=0)
    ways = [(step.after["image"] - step.before["image"]).flatten() for step in steps]
    assert len(ways) == 4
    for place, a in enumerate(ways):
        for b in ways[:place]:
            assert abs(float(torch.cosine_similarity(a, b, dim=0))) < 0.6


# --- ratios


@pytest.mark.parametrize("strategy", ["joint", "alt", "t2v"])
def test_without_text_latents_the_text_stays(strategy: str) -> None:
    model = Watched()
    records = run([CAT], model, text_ratio=0, strategy=strategy)
    assert len(records) == 6
    assert len(model.texts) == 1
    assert {
        (trace(record).text_latents, trace(record).text_shift, trace(record).flipped_text) for record in records
    } == {(0, 0.0, 0)}
    assert {record.reasoning for record in records} == {records[0].reasoning}
    assert {trace(record).moved for record in records} <= {(), ("image",)}
    assert trace(records[-1]).image_shift > 0
    assert not any(record.notes for record in records)


def test_the_authors_form_without_text_draws_from_the_bare_prompt() -> None:
    """Row "w/o Text" of the paper's Table 3 has no reasoning; a text ratio of 0 reasons first and then draws."""
    model = Watched()
    records = run([CAT], model, strategy="no-text")
    assert model.texts == [] and len(records) == 6
    assert {record.reasoning.text for record in records} == {""}
    assert all(request.reasoning is None for request in model.drawn)
    assert {(trace(record).text_latents, trace(record).image_latents) for record in records} == {(0, 5)}
    assert trace(records[-1]).image_shift > 0
    bare = list(search([CAT], FakeModel(), FakeReward(), FakeModel().settings("one-shot", guidance=2.0)))
    assert records[0].images == bare[0].images
    reasoned = run([CAT], Watched(), text_ratio=0)
    assert reasoned[0].images != records[0].images
    with pytest.raises(UsageError, match="'no-text' has no text latents, so it does not read text_ratio"):
        run([CAT], strategy="no-text", text_ratio=0.1)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "no-text"])
def test_without_image_latents_every_image_starts_from_its_first_token(strategy: str) -> None:
    model = FakeModel()
    records = run([CAT], model, image_ratio=0, strategy=strategy)
    assert len(records) == 6
    assert all(request.prefix is None for request in model.drawn)
    assert {
        (trace(record).image_latents, trace(record).image_shift, trace(record).flipped_image) for record in records
    } == {(0, 0.0, 0)}
    assert {trace(record).moved for record in records} <= {(), ("text",)}
    assert trace(records[-1]).text_shift > 0


def test_without_any_latents_a_search_is_best_of_n() -> None:
    model = FakeModel()
    records = run([CAT], model, text_ratio=0, image_ratio=0)
    assert len({record.images[0].tokens for record in records}) == 6
    assert len(model.reasoned) == 1
    assert {trace(record).moved for record in records} == {()}


def test_a_tiny_ratio_moves_one_position_and_says_so() -> None:
    first, *rest = run([CAT], text_ratio=0.01, image_ratio=0.01)
    assert (trace(first).text_latents, trace(first).image_latents) == (1, 1)
    assert [note.split(":")[0] for note in first.notes] == ["text", "image"]
    assert all("one moves" in note for note in first.notes)
    assert not any(record.notes for record in rest)
    assert trace(rest[-1]).text_shift > 0 and trace(rest[-1]).image_shift > 0


def test_latents_are_counted_by_the_paper() -> None:
    record = run([CAT])[0]
    assert trace(record).text_latents == len(record.reasoning.tokens) // 2
    assert trace(record).image_latents == 5
    assert record.notes == ()


def test_the_end_token_is_one_of_the_text_positions() -> None:
    """The authors' code counts it in T too."""
    records = run([Task(prompt=f"thing {number}") for number in range(40)], text_ratio=1.0, steps=0)
    ended = [record for record in records if len(record.reasoning.tokens) < 12]  # the fake's limit
    assert ended and len(ended) < len(records)
    for record in records:
        assert trace(record).text_latents == len(record.reasoning.tokens) + (record in ended)


# --- unscored images


def test_an_unscored_image_is_asked_about_once_more() -> None:
    reward = FakeReward(unscored_calls={1})
    records = run([CAT], reward=reward, steps=2)
    assert all(isinstance(record.scores[0], Score) for record in records)
    assert reward.calls == 3 + 1
    assert [trace(record).moved for record in records] == [(), ("text", "image"), ("text", "image")]


def test_only_unscored_images_are_asked_about_again() -> None:
    asked: list[Task] = []

    def fails_for_the_cat_at_first(image: Image.Image, task: Task) -> float:
        asked.append(task)
        return math.nan if asked == [CAT] else 0.5

    records = run([CAT, DOGS], reward=FakeReward(fails_for_the_cat_at_first), steps=0)
    assert asked == [CAT, DOGS, CAT]
    assert all(isinstance(record.scores[0], Score) for record in records)


def test_an_image_that_cannot_be_scored_costs_one_update_and_no_more(steps: list[Step]) -> None:
    reward = FakeReward(unscored_calls={1, 2})  # step 1's image, and again
    records = run([CAT], reward=reward, steps=3)
    assert [type(record.scores[0]) for record in records] == [Score, Unscored, Score, Score]
    assert [trace(record).moved for record in records] == [(), ("text", "image"), (), ("text", "image")]
    assert [bool(record.notes) for record in records] == [False, False, True, False]
    assert records[2].notes == ("no update: the fake said nan",)
    assert trace(records[2]).log_probability is None
    assert len(steps) == 2
    assert torch.equal(steps[0].after["text"], steps[1].before["text"])
    assert records[2].reasoning is records[1].reasoning
    assert records[2].images[0].tokens != records[1].images[0].tokens
    assert records[1].best is records[0].best
    assert isinstance(records[-1].best_score, Score)


def test_one_unscored_image_of_a_step_is_left_out_and_not_counted_as_zero(steps: list[Step]) -> None:
    reward = FakeReward(scripted(0.5, math.nan, 0.75, math.nan, 0.25, 0.75, 0.5))
    first, second = run([CAT], reward=reward, drawings_per_step=3, steps=1)
    assert isinstance(first.scores[1], Unscored)
    assert trace(second).moved == ("text", "image")
    assert second.notes == ("1 of 3 images left out of the update: the fake said nan",)
    (step,) = steps
    assert step.update.rewards == (0.5, 0.75)
    assert step.update.images == (first.images[0].tokens[:5], first.images[2].tokens[:5])


def test_a_step_without_any_score_moves_nothing(steps: list[Step]) -> None:
    first, second = run([CAT], reward=FakeReward(unscored_calls={0, 1}), drawings_per_step=2, steps=1)
    assert [type(score) for score in first.scores] == [Unscored, Unscored]
    assert trace(second).moved == () and steps == []
    assert second.notes == ("no update: the fake said nan",)


def test_unscored_is_never_better_than_a_score_of_zero() -> None:
    reward = FakeReward(scripted(math.nan, math.nan, 0.0, math.nan, math.nan))
    first, second, third = run([CAT], reward=reward, steps=2)
    assert isinstance(first.best_score, Unscored)
    assert second.best is second.images[0] and second.best_score == second.scores[0]
    assert third.best is second.best


def test_a_search_whose_reward_is_down_ends_without_a_score() -> None:
    records = run([CAT], reward=FakeReward(unscored_calls=range(100)), stop_at=0.0)
    assert len(records) == 6
    assert records[-1].finished == "out of steps"
    assert isinstance(records[-1].best_score, Unscored) and records[-1].best_step == 0


# --- contents of a record


def test_a_gradient_that_is_not_finite_is_an_error_with_step_and_task_after_earlier_records() -> None:
    class Poisoned(FakeModel):
        updates = 0

        def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
            self.updates += latents.requires_grad
            return super().text_logits(latents) * (math.nan if self.updates == 3 else 1.0)

    found: list[StepRecord] = []

    def consume(records: Iterator[StepRecord]) -> None:
        found.extend(records)

    settings = SETTINGS | {"stop_at": NEVER}
    with pytest.raises(SearchError, match="step 3 of 'a red cat'"):
        consume(search([CAT], Poisoned(), FakeReward(), **settings))
    assert timeless(found) == timeless(run([CAT]))[:3]


def test_log_p_is_that_of_the_images_prefix_tokens(steps: list[Step]) -> None:
    model = Watched()
    records = run([CAT], model, drawings_per_step=2, temperature=0.5)
    assert trace(records[0]).log_probability is None
    for step, (_, output), before, record in zip(steps, model.texts, records, records[1:], strict=False):
        text = model.text_logits(step.before["text"]).log_softmax(-1)
        image = (model.image_logits(step.before["image"], 2.0) / 0.5).log_softmax(-1)
        expected = sum(float(row[token]) for row, token in zip(text, output.tokens, strict=False))
        for sample in before.images:
            expected += sum(float(row[token]) for row, token in zip(image, sample.tokens, strict=False)) / 2
        assert trace(record).log_probability == pytest.approx(expected, abs=1e-4)


def test_a_step_depends_on_the_images_before_it(steps: list[Step]) -> None:
    records = run([CAT], reward=FakeReward(share_of_dark), drawings_per_step=2)
    for step, record in zip(steps, records, strict=False):
        assert step.update.images == tuple(sample.tokens[:5] for sample in record.images)
        assert step.update.rewards == tuple(share_of_dark(sample.image, CAT) for sample in record.images)


def test_tokens_are_counted_where_they_are_sampled() -> None:
    for strategy in STRATEGIES:
        model = Watched()
        spent, outputs = 0, iter(model.texts)
        for record in run([CAT], model, strategy=strategy, learning_rate=1.0, drawings_per_step=2):
            if STRATEGIES[strategy].reasons and (record.step == 0 or "text" in trace(record).moved):
                prefix, output = next(outputs)
                # A prefix is read from the latents; only the tokens after it are sampled.
                spent += max(0, len(output.tokens) - len(prefix))
            spent += 2 * 25
            assert record.tokens_spent == spent
            assert record.drawings_spent == 2 * (record.step + 1)
        assert next(outputs, None) is None


def test_flips_are_counted_against_the_first_step() -> None:
    model = Watched()
    records = run([DOGS], model, learning_rate=0.5, reward=FakeReward(lambda image, task: 0.0))
    texts = [output.tokens for _, output in model.texts]
    count = trace(records[0]).text_latents
    for record, text in zip(records, texts, strict=True):
        image = record.images[0].tokens
        assert trace(record).flipped_image == sum(
            a != b for a, b in zip(image[:5], records[0].best.tokens[:5], strict=True)
        )
        now, first = text[:count], texts[0][:count]
        assert trace(record).flipped_text == sum(a != b for a, b in zip(now, first, strict=False)) + len(first) - len(
            now
        )
    assert trace(records[-1]).flipped_text and any(trace(record).flipped_image for record in records)


def test_shift_is_how_far_the_latents_are_from_their_start(steps: list[Step]) -> None:
    records = run([CAT])
    for step, record in zip(steps, records[1:], strict=True):
        for name, shift in (("text", trace(record).text_shift), ("image", trace(record).image_shift)):
            start = steps[0].before[name]
            assert shift == pytest.approx(float((step.after[name] - start).norm() / start.norm()), rel=1e-4)


def test_a_text_that_ends_inside_its_prefix_moves_only_by_its_own_tokens(steps: list[Step]) -> None:
    model = Watched()
    records = run([DOGS, TREE, ONE], model, learning_rate=1.0, batch_size=1, steps=8, text_ratio=1.0)
    assert len(records) == len(model.texts) == 27
    inside = 0
    for index in range(3):
        own = slice(9 * index, 9 * index + 9)
        for step, (prefix, output), record in zip(
            steps[8 * index : 8 * index + 8], model.texts[own], records[own], strict=False
        ):
            assert step.update.text == output.tokens[: trace(record).text_latents]
            if prefix and len(output.tokens) < len(prefix):
                inside += 1
                assert output.tokens[-1] == 0 and 0 not in output.reasoning.tokens
                assert len(step.update.text) < trace(record).text_latents
                assert trace(record).flipped_text >= trace(record).text_latents - len(output.tokens)
    assert inside, "no text of this test ended inside its prefix"


def test_the_models_own_settings_are_the_default() -> None:
    model = FakeModel()
    records = list(search([CAT], model, FakeReward(stop_at=0.6)))
    own = model.settings("milr")
    assert (own.get("learning_rate"), own.get("steps")) == (model.defaults["learning_rate"], 20)
    assert timeless(records) == timeless(list(search([CAT], FakeModel(), FakeReward(stop_at=0.6), own)))
    assert records[-1].finished in ("met", "out of steps")


def test_changes_come_on_top_of_settings() -> None:
    settings = FakeModel().settings("milr", steps=3, stop_at=NEVER)
    records = list(search([CAT], FakeModel(), FakeReward(), settings, seed=4))
    assert timeless(records) == timeless(list(search([CAT], FakeModel(), FakeReward(), settings.change(seed=4))))
    assert len(records) == 4
    assert timeless(records) != timeless(list(search([CAT], FakeModel(), FakeReward(), settings)))


def test_a_search_by_another_method_needs_only_its_settings() -> None:
    records = list(search([CAT], FakeModel(), FakeReward(), FakeModel().settings("best-of-n", steps=2, stop_at=NEVER)))
    assert [record.trace for record in records] == [None] * 3


def test_a_setting_that_the_search_does_not_have_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="unknown setting 'step'.*did you mean 'steps'"):
        search([CAT], FakeModel(), FakeReward(), step=3)


@pytest.mark.parametrize("ratio", [0.02, 1.0])
def test_a_strategy_without_image_latents_refuses_a_ratio_of_them(ratio: float) -> None:
    with pytest.raises(UsageError, match="'steer' has no image latents.*joint or alt or t2v"):
        search([CAT], FakeModel(), FakeReward(), strategy="steer", image_ratio=ratio)
    steer = FakeModel().settings("milr", strategy="steer", image_ratio=0)
    with pytest.raises(UsageError, match="'steer' has no image latents"):
        search([CAT], FakeModel(), FakeReward(), steer, image_ratio=ratio)
    assert list(search([], FakeModel(), FakeReward(), steer)) == []


def sampled_texts(tasks: list[Task], temperature: float = 1.0, **changes: Any) -> list[tuple[int, ...]]:
    """Return the texts by task and step of a search on a model that samples texts."""
    settings = {"steps": 3, "learning_rate": 0.2, "guidance": 2.0, "stop_at": NEVER} | changes
    model = FakeModel(text_temperature=temperature)
    records = search(tasks, model, FakeReward(lambda image, task: 0.0), **settings)
    return [record.reasoning.tokens for record in sorted(records, key=lambda r: (r.task.prompt, r.step))]


def test_a_search_on_a_model_that_samples_texts_is_reproducible() -> None:
    tasks = [Task(prompt="a dog and a cat"), Task(prompt="two red clocks")]
    sampled = sampled_texts(tasks)
    assert sampled == sampled_texts(tasks)
    assert sampled == [*sampled_texts(tasks[:1]), *sampled_texts(tasks[1:])]
    assert sampled != sampled_texts(tasks, temperature=0.0)
    assert sampled != sampled_texts(tasks, seed=1)


def test_fixed_noise_samples_the_same_text_from_the_same_latents() -> None:
    still: dict[str, Any] = {"steps": 4, "learning_rate": 0.0}
    assert len(set(sampled_texts([Task(prompt="a dog")], **still, noise="fixed"))) == 1
    assert len(set(sampled_texts([Task(prompt="a dog")], **still, noise="fresh"))) > 1


# --- one screen


def test_the_algorithm_fits_on_one_screen() -> None:
    source = inspect.getsource(importlib.import_module("milr.methods.milr"))
    (algorithm,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "milr"
    )
    assert algorithm.end_lineno is not None
    assert algorithm.end_lineno - algorithm.lineno + 1 <= 40
    calls = [node.func for node in ast.walk(algorithm) if isinstance(node, ast.Call)]
    names = {func.attr if isinstance(func, ast.Attribute) else ast.unparse(func) for func in calls}
    assert {"reason", "draw", "init_latents", "update"} <= names, "the test sees the calls"
    assert len(names - set(dir(builtins))) <= 6, names
