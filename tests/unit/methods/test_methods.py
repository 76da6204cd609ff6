"""The contract of every method (`milr.methods`), and each method's own behaviour."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, cast

import pytest
from PIL import Image

from milr import search
from milr.errors import UsageError
from milr.methods import METHODS, load_method
from milr.methods.consensus import TEXTS, rank_by_agreement
from milr.methods.context import ScoredImage
from milr.methods.keep_right import find_right_tokens
from milr.methods.reflection import find_criticised
from milr.methods.runner import Runner
from milr.models import embedded_folder, load_model
from milr.models.base import Capabilities, TextOutput, TextRequest
from milr.models.janus import Janus
from milr.rewards import load_reward
from milr.rewards.geneval.rules import right_objects
from milr.settings import METHOD_SETTINGS, RunSettings, SamplingParams
from milr.tasks import parse_prompt
from milr.testing import FakeModel, FakeReward, brightness, fake_score, read_tokens
from milr.types import ImageSample, Region, Score, StepRecord, Task, Unscored, rank

CAT, DOGS, TREE, ONE = (Task(prompt=p) for p in ("a red cat", "two dogs", "a big tree", "one"))
TASKS = [CAT, DOGS, TREE, ONE]
NEVER = 1.0  # no reward is strictly above it
SETTINGS: dict[str, Any] = {"steps": 5, "text_ratio": 0.5, "image_ratio": 0.2, "learning_rate": 0.2, "guidance": 2.0}
ONCE = {"one-shot", "text-reasoning"}  # methods that draw once


def run(
    name: str,
    tasks: Sequence[Task],
    model: FakeModel | None = None,
    reward: FakeReward | None = None,
    **settings: Any,
) -> list[StepRecord]:
    """Return all records of a method that does not stop early by default; it gets the settings that it reads."""
    model = model or FakeModel()
    given = {one: value for one, value in (SETTINGS | {"stop_at": NEVER} | settings).items() if reads(name, one)}
    return list(Runner(load_method(name), tasks, model, reward or FakeReward(), model.settings(name, **given)))


def usual(name: str, *tasks: Task) -> list[StepRecord]:
    """Return the records of the usual fake model and reward, which every test may read."""
    return _usual(name, *(TASKS.index(task) for task in tasks))


@cache
def _usual(name: str, *places: int) -> list[StepRecord]:
    return run(name, [TASKS[place] for place in places])


def reads(name: str, setting: str) -> bool:
    """Return true if a method reads a setting."""
    return any(setting in kind.model_fields for kind in (METHOD_SETTINGS[name], SamplingParams, RunSettings))


def timeless(records: Sequence[StepRecord], index: int | None = None) -> list[StepRecord]:
    """Return the records of one task, or of all tasks in order, without times."""
    kept = [replace(record, seconds=0) for record in records if index in (None, record.index)]
    return sorted(kept, key=lambda record: (record.index, record.step))


def scripted(*values: float) -> Callable[[Image.Image, Task], float]:
    """Return prepared scores, one per image."""
    left = iter(values)
    return lambda image, task: next(left)


class Watched(FakeModel):
    """A model that records its texts, and the prefixes and critiques that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[tuple[tuple[int, ...], str, TextOutput]] = []

    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        assert requests, "asked to reason about nothing"
        outputs = super().reason(requests)
        for request, output in zip(requests, outputs, strict=True):
            self.texts.append((tuple(request.prefix), request.critique, output))
        return outputs


# --- the contract of every method


@pytest.mark.parametrize("name", METHODS)
def test_records_of_a_task_come_in_order_and_end_once(name: str) -> None:
    records = usual(name, *TASKS)
    for index, task in enumerate(TASKS):
        own = [record for record in records if record.index == index]
        assert [record.step for record in own] == list(range(len(own)))
        assert all(record.task is task for record in own)
        assert [record.finished for record in own] == [None] * (len(own) - 1) + ["out of steps"]
        assert [record.seconds for record in own] == sorted(record.seconds for record in own)


@pytest.mark.parametrize("name", METHODS)
def test_a_budget_of_k_steps_allows_k_plus_1_drawings(name: str) -> None:
    for steps in (0, 1, 4, 5):
        for last in (record for record in run(name, TASKS, steps=steps) if record.finished):
            assert last.drawings_spent <= steps + 1
            if name not in ONCE:
                assert last.drawings_spent > steps, "less than the budget is spent"


@pytest.mark.parametrize("name", METHODS)
def test_the_best_is_the_first_of_the_highest(name: str) -> None:
    records = usual(name, CAT)
    seen: list[tuple[float, int, ImageSample]] = []
    for record in records:
        seen += [(rank(score), record.step, sample) for score, sample in zip(record.scores, record.images, strict=True)]
        value, step, sample = max(seen, key=lambda one: one[0])
        assert (rank(record.best_score), record.best_step, record.best) == (value, step, sample)


@pytest.mark.parametrize("name", METHODS)
def test_a_task_that_is_met_stops_at_once(name: str) -> None:
    model = FakeModel()
    (record,) = run(name, [CAT], model, FakeReward(lambda image, task: 0.95), stop_at=None)
    assert (record.finished, record.drawings_spent, record.reward_calls) == ("met", 1, 1) or name == "parm"
    assert record.drawings_spent == 1
    assert isinstance(record.best_score, Score)


@pytest.mark.parametrize("name", METHODS)
def test_a_value_equal_to_the_stop_does_not_stop(name: str) -> None:
    records = run(name, [CAT], reward=FakeReward(lambda image, task: 0.5, stop_at=0.5), stop_at=None)
    assert records[-1].finished == "out of steps"


@pytest.mark.parametrize("name", METHODS)
def test_a_reward_may_have_one_stop_per_task(name: str) -> None:
    class ByTask(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            return [fake_score(0.5, stop_at=0.4 if task == DOGS else 0.9) for task in tasks]

    def ends(stop_at: float | None) -> list[str | None]:
        records = run(name, [CAT, DOGS], reward=ByTask(stop_at=0.9), steps=2, stop_at=stop_at)
        return [record.finished for index in (0, 1) for record in timeless(records, index)[-1:]]

    assert ends(None) == ["out of steps", "met"]
    assert ends(0.45) == ["met", "met"]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_position_neighbours_and_refills_do_not_change_a_record(name: str) -> None:
    endless = usual(name, *TASKS)
    values = sorted(rank(record.best_score) for record in endless if record.finished)
    stop = (values[1] + values[2]) / 2  # two of the four tasks exceed it
    together = run(name, TASKS, stop_at=stop)
    assert {record.finished for record in together} >= {"met", "out of steps"}
    assert timeless(run(name, TASKS, stop_at=stop, batch_size=1)) == timeless(together)
    assert timeless(run(name, TASKS, stop_at=stop, batch_size=3)) == timeless(together)
    for index, task in enumerate(TASKS):
        alone = [replace(record, index=index) for record in run(name, [task], stop_at=stop)]
        assert timeless(alone) == timeless(together, index)


@pytest.mark.parametrize("name", METHODS)
def test_a_finished_tasks_place_is_given_to_the_next(name: str) -> None:
    at_once = FakeReward(lambda image, task: float(task is CAT))
    order = [record.index for record in run(name, TASKS, reward=at_once, steps=2, stop_at=0.9, batch_size=2)]
    assert order.index(2) < len(order) - 1 - order[::-1].index(1) or name in ONCE, "the tree waited for the dogs"
    assert set(order) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_is_the_same_and_another_is_not(name: str) -> None:
    assert timeless(run(name, [CAT])) == timeless(usual(name, CAT))
    assert run(name, [CAT], seed=1)[0].best.tokens != usual(name, CAT)[0].best.tokens


@pytest.mark.parametrize("name", METHODS)
def test_the_same_task_twice_has_streams_of_its_own(name: str) -> None:
    twice = run(name, [CAT, CAT])
    assert timeless(twice, 0) == timeless(usual(name, CAT))
    assert timeless(twice, 0)[-1].best.tokens != timeless(twice, 1)[-1].best.tokens


@pytest.mark.parametrize("name", METHODS)
def test_spending_equals_the_requests_to_model_and_reward(name: str) -> None:
    model, shown = FakeModel(), 0

    def look(image: Image.Image, task: Task) -> float:
        nonlocal shown
        shown += 1
        return brightness(image)

    last = run(name, [CAT], model, FakeReward(look))[-1]
    decoded = 0
    for request in model.drawn:
        decoded += (request.until or 25) - next(
            (i for i, t in enumerate(request.tokens) if t is None), len(request.tokens)
        )
    assert last.reward_calls == shown == len(model.drawn)
    assert last.drawings_spent == decoded / 25
    assert last.tokens_spent >= decoded


@pytest.mark.parametrize("name", METHODS)
def test_every_whole_image_is_in_a_record_with_its_score(name: str) -> None:
    model = FakeModel()
    records = run(name, [CAT], model)
    assert sum(len(record.images) for record in records) == sum(one.until is None for one in model.drawn)
    for record in records:
        for sample, score in zip(record.images, record.scores, strict=True):
            assert len(sample.tokens) == 25
            assert read_tokens(sample.image) == sample.tokens
            assert rank(score) == brightness(sample.image)


@pytest.mark.parametrize("name", METHODS)
def test_a_reward_without_budget_ends_every_task_with_its_best_image(name: str) -> None:
    class Spent(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            over = self.calls > 0
            scores = super().__call__(images, tasks)
            return [Unscored("spent", self.name, final=True) for _ in scores] if over else scores

    records = run(name, TASKS, reward=Spent(), batch_size=2, steps=9)
    ends = {record.index: record.finished for record in records if record.finished}
    assert set(ends) <= ({0, 1, 2, 3} if name in ONCE else {0, 1})
    assert "unscored" in ends.values()


@pytest.mark.parametrize("name", METHODS)
def test_no_tasks_give_no_records(name: str) -> None:
    assert run(name, []) == []


@pytest.mark.parametrize("name", METHODS)
def test_an_unscored_image_does_not_end_the_search(name: str) -> None:
    last = run(name, [CAT], reward=FakeReward(unscored_calls=range(100)))[-1]
    assert last.finished == "out of steps"
    assert isinstance(last.best_score, Unscored)


@pytest.fixture(scope="module")
def small() -> Janus:
    """Return the small embedded model, which draws as many tokens as the other in half the time."""
    if not embedded_folder("embedded-small").is_dir():
        pytest.skip("no small embedded model: `make train` makes one")
    return cast("Janus", load_model("embedded-small"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_real_model_and_a_real_reward_run_in_every_method(name: str, small: Janus) -> None:
    tasks = [parse_prompt("three red cats"), parse_prompt("a blue dog left of a clock")]
    given: dict[str, Any] = {"stop_at": NEVER} if name in ONCE else {"stop_at": NEVER, "steps": 1}
    settings = small.settings(name, **given)
    records = list(Runner(load_method(name), tasks, small, load_reward("icons-soft"), settings))
    assert {record.index for record in records if record.finished} == {0, 1}
    for record in records:
        assert all(isinstance(score, Score) for score in record.scores)
        assert all(len(sample.tokens) == small.capabilities.image_tokens for sample in record.images)
    if name not in ONCE:
        assert all(1 < record.drawings_spent <= 2 for record in records if record.finished)


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown method 'best-of-m': did you mean 'best-of-n'"):
        load_method("best-of-m")


# --- one image, and best of N


def test_one_shot_draws_from_the_prompt_alone() -> None:
    model = FakeModel()
    (record,) = run("one-shot", [CAT], model)
    assert model.reasoned == [] and model.drawn[0].reasoning is None
    assert record.reasoning.text == "" and record.tokens_spent == 25


def test_every_method_with_a_greedy_text_begins_like_text_reasoning() -> None:
    (first,) = usual("text-reasoning", CAT)
    for name in ("best-of-n", "best-of-n-greedy-first", "milr", "reflection", "keep-right", "grid-prune"):
        begun = usual(name, CAT)[0]
        assert begun.reasoning == first.reasoning and begun.best.tokens == first.best.tokens, name


def test_best_of_n_is_a_search_without_latents() -> None:
    drawn = [record.images[0].tokens for record in usual("best-of-n", CAT)]
    assert len(set(drawn)) == 6
    settings = SETTINGS | {"stop_at": NEVER, "text_ratio": 0, "image_ratio": 0}
    assert [record.images[0].tokens for record in search([CAT], FakeModel(), FakeReward(), **settings)] == drawn
    assert [record.images[0].tokens for record in run("best-of-n", [CAT], steps=2)] == drawn[:3]


def test_best_of_n_reasons_once_and_with_sampled_texts_for_every_image() -> None:
    model = FakeModel()
    assert len({record.reasoning for record in run("best-of-n", [CAT], model)}) == len(model.reasoned) == 1
    assert len({record.reasoning for record in usual("best-of-n-sampled", CAT)}) > 3
    greedy, *sampled = [record.reasoning for record in usual("best-of-n-greedy-first", CAT)]
    assert greedy == usual("best-of-n", CAT)[0].reasoning and greedy not in sampled and len(set(sampled)) > 3


# --- PARM


def test_parm_abandons_drawings_with_less_potential() -> None:
    model = FakeModel()
    #       first: clear at once    second: clear, worse   third: clear only at the third check
    scores = scripted(0.4, 0.6, 0.2, 0.0, 0.0, 0.3, 0.7, *[0.9] * 20)
    records = run("parm", [CAT], model, FakeReward(scores), steps=3)
    assert [one.until for one in model.drawn[:7]] == [5, None, 5, 5, 10, 20, None]
    assert [rank(record.scores[0]) for record in records[:2]] == [0.6, 0.7]
    assert records[0].drawings_spent == 1 and records[1].drawings_spent == 2.2
    assert records[0].reward_calls == 2 and records[1].reward_calls == 7
    for begun, finished in ((model.drawn[0], model.drawn[1]), (model.drawn[5], model.drawn[6])):
        assert begun.until == len(finished.tokens)


def test_parm_with_a_reward_that_finds_nothing_finishes_everything() -> None:
    records = run("parm", [CAT], reward=FakeReward(lambda image, task: 0.0))
    assert [record.drawings_spent for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1].reward_calls == 6 * 4


def test_parm_does_not_abandon_the_last_affordable_drawing() -> None:
    worse = scripted(0.9, 0.9, 0.1, 0.5)  # the second has no potential, and the budget allows no further one
    records = run("parm", [CAT], reward=FakeReward(worse), steps=1)
    assert [record.drawings_spent for record in records] == [1, 2]


# --- reflection


@pytest.mark.parametrize(
    ("critique", "kept"),
    [
        ("expected dog>=1, found 0", 5),  # "top left red cat," comes before the clause
        ("expected red cat>=1, found blue", 0),
        ("the ground is wet", 9),
        ("a zebra", 0),
        ("", 0),
    ],
)
def test_a_text_is_rewritten_from_the_clause_that_names_what_is_wrong(critique: str, kept: int) -> None:
    pieces = ["top", " left", " red", " cat", ",", " bottom", " large", " dog", ",", " green", " ground"]
    assert find_criticised(pieces, critique) == kept


def test_reflection_passes_the_critique_and_keeps_the_text_before_it() -> None:
    class Critic(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            return [Score(0.5, self.name, 0.9, explanation="the tree is red") for _ in images]

    model = Watched()
    records = run("reflection", [CAT, DOGS], model, Critic())
    first, *rewrites = [one for one in model.texts if one[2].reasoning in {r.reasoning for r in timeless(records, 0)}]
    assert first[1] == "" and all(critique == "the tree is red" for _, critique, _ in rewrites)
    assert all(text.tokens[: len(prefix)] == prefix for prefix, _, text in model.texts)
    assert len({record.reasoning for record in records}) > 4


def test_reflection_continues_from_the_best_text() -> None:
    model = Watched()
    run("reflection", [TREE], model, FakeReward(scripted(0.5, 0.1, 0.2, 0.3), name="big@1"), steps=3)
    base = model.texts[0][2].tokens
    assert all(prefix == base[: len(prefix)] for prefix, _, _ in model.texts)


# --- keep correct objects

ABLE = Capabilities(image_size=80, image_tokens=100, width=8, latents="both")
"""Return cells of 8 pixels."""


def seen(value: float, **detections: list[list[object]]) -> ScoredImage:
    found = [Region(name, (*one[:4],), one[4], one[5]) for name, listed in detections.items() for one in listed]
    score = Score(value, "fake@1", 0.9, regions=tuple(found))
    return ScoredImage(ImageSample(tuple(range(100)), Image.new("RGB", (80, 80))), score)


def test_correct_objects_are_those_that_meet_their_conditions() -> None:
    task = parse_prompt("a red cat left of a dog")
    cat, blue, dog = (0.0, 0, 20, 20, 0.9, "red"), (0.0, 40, 20, 60, 0.95, "blue"), (50.0, 0, 70, 20, 0.8, "brown")
    assert set(right_objects({"cat": [cat, blue], "dog": [dog]}, task)) == {cat, dog}
    assert right_objects({"cat": [blue], "dog": [dog]}, task) == [dog]
    other_side = (75.0, 0, 79, 20, 0.9, "red")
    assert right_objects({"cat": [other_side], "dog": [dog]}, task) == [dog]
    assert right_objects({"cat": [(0.0, 0, 20, 20, 0.2, "red")]}, task) == []


def test_surplus_objects_are_not_kept() -> None:
    dogs = [(20.0 * n, 0.0, 20.0 * n + 15, 15.0, 0.99 - n / 100, None) for n in range(4)]
    assert right_objects({"dog": dogs}, parse_prompt("two dogs")) == dogs[:2]


def test_cells_under_correct_objects_are_kept() -> None:
    image = seen(0.4, cat=[[8, 8, 25, 22, 0.9, "red"]], dog=[[40, 40, 60, 60, 0.1, "red"]])
    kept = find_right_tokens(image, parse_prompt("a red cat and a dog"), ABLE)
    assert [place for place, token in enumerate(kept) if token is not None] == [11, 12, 21, 22]
    assert kept[21] == 21 and len(kept) == 100


def test_nothing_is_kept_of_an_image_without_regions() -> None:
    task = parse_prompt("a cat")
    blank = replace(seen(0.4), score=Score(0.4, "fake@1", 0.9))
    assert find_right_tokens(blank, task, ABLE) == find_right_tokens(seen(0.4), task, ABLE) == []
    assert find_right_tokens(replace(blank, score=Unscored("down", "")), task, ABLE) == []


class Finder(FakeReward):
    """A reward that finds a cat in the upper left 2 x 2 cells of every image."""

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        found = (Region("cat", (0, 0, 8, 8), 0.9, "red"),)
        scores = super().__call__(images, tasks)
        return [replace(score, regions=found) if isinstance(score, Score) else score for score in scores]


def test_correct_objects_are_kept_until_an_image_is_not_better() -> None:
    model = FakeModel()
    task = parse_prompt("a cat and a dog")
    records = run("keep-right", [task], model, Finder(scripted(0.4, 0.5, 0.5, 0.3, 0.2, 0.1)))
    squares = [tuple(record.images[0].tokens[place] for place in (0, 1, 5, 6)) for record in records]
    assert squares[0] == squares[1] == squares[2] != squares[3] == squares[4] != squares[5]
    assert len({record.images[0].tokens for record in records}) == 6
    assert [bool(request.tokens) for request in model.drawn] == [False, True, True, False, True, False]
    texts = [record.reasoning for record in records]
    assert texts[0] == texts[1] == texts[2] != texts[3] == texts[4] != texts[5]


def test_without_a_correct_object_each_image_has_a_new_text() -> None:
    records = usual("keep-right", CAT)
    assert len({record.reasoning for record in records}) > 3
    assert [record.images[0].tokens for record in records[1:]] != [
        record.images[0].tokens for record in usual("best-of-n", CAT)[1:]
    ]


# --- growing in parallel


def test_grid_prune_continues_the_better_half() -> None:
    model = FakeModel()
    # One image; then four partial ones, three times; then four whole ones.
    values = [0.1, *(0.1, 0.4, 0.2, 0.3), *(0.5, 0.1, 0.1, 0.1), *(0.0, 0.0, 0.0, 0.9), *(0.2, 0.8, 0.3, 0.4)]
    records = run("grid-prune", [CAT], model, FakeReward(scripted(*values)), steps=4)
    assert [record.drawings_spent for record in records] == [1, 5]
    assert records[1].reward_calls == 17 and len(records[1].images) == 4
    assert rank(records[1].best_score) == 0.8
    quarter, half, three, whole = (model.drawn[1 + 4 * n : 5 + 4 * n] for n in range(4))
    assert [one.tokens for one in quarter] == [()] * 4
    assert half[0].tokens == half[2].tokens != half[1].tokens == half[3].tokens  # the second and the fourth, twice
    assert three[0].tokens == three[2].tokens and three[0].tokens[:5] == half[0].tokens
    assert whole[0].tokens[:10] == three[3].tokens  # the last was best
    assert [one.until for one in (quarter[0], half[0], three[0], whole[0])] == [5, 10, 20, None]


def test_a_round_of_grid_prune_is_as_large_as_the_budget_allows() -> None:
    records = run("grid-prune", [CAT], steps=6)
    assert [len(record.images) for record in records] == [1, 4, 2]
    assert records[-1].drawings_spent == 7


def test_partial_images_are_never_the_answer() -> None:
    def only_parts(image: Image.Image, task: Task) -> float:
        return 0.95 if len(set(read_tokens(image)[20:])) == 1 else 0.1

    for name in ("parm", "grid-prune"):
        last = run(name, [CAT], reward=FakeReward(only_parts), stop_at=0.9)[-1]
        assert last.finished == "out of steps" and rank(last.best_score) == 0.1
        assert not math.isnan(last.drawings_spent)


# --- consensus


def test_the_text_with_most_agreement_comes_first_in_any_order() -> None:
    red_cat, lost, swapped = "top small red cat, left small blue dog", "top small cat", "top small blue cat, red dog"
    moved = "right small red cat, bottom small blue dog"
    assert rank_by_agreement([lost, swapped, red_cat, moved])[0] in (2, 3)
    assert rank_by_agreement([lost, swapped, red_cat, moved])[-1] == 0
    assert rank_by_agreement(["a", "a", ""]) == [0, 1, 2]
    assert rank_by_agreement([]) == []


def test_each_text_of_a_pool_is_drawn_from_once_and_is_in_its_record() -> None:
    model = Watched()
    records = run("consensus", [CAT], model, steps=TEXTS + 2)
    written = [text.reasoning.text for _, _, text in model.texts]
    assert len(written) == 2 * TEXTS, "a second pool where the first is spent"
    assert sorted(record.reasoning.text for record in records[:TEXTS]) == sorted(written[:TEXTS])
    order = rank_by_agreement(written[:TEXTS])
    assert [record.reasoning.text for record in records[:TEXTS]] == [written[place] for place in order]
    order = rank_by_agreement(written[TEXTS:])[:3]
    assert [record.reasoning.text for record in records[TEXTS:]] == [written[TEXTS + place] for place in order]
