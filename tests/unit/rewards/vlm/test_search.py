"""Searches whose reward asks a server: drawing continues, faults skip an update, a spent budget ends the search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from milr import search
from milr.models.base import ImageOutput, ImageRequest
from milr.rewards import load_reward
from milr.rewards.base import Scores, begin_scoring
from milr.rewards.icons.reward import IconsSoft
from milr.rewards.mix import Mix
from milr.rewards.panel import Gap, measure_gaps, watch
from milr.settings import SamplingParams
from milr.testing import FakeModel, FakeReward, brightness, fake_records
from milr.types import Score, StepRecord, Task, Unscored

TASKS = [Task(prompt=p) for p in ("a red cat", "two dogs", "a big tree", "one", "a blue cat")]
SETTINGS: dict[str, Any] = {"steps": 3, "text_ratio": 0.5, "image_ratio": 0.2, "learning_rate": 0.2, "stop_at": 1.0}


def run(tasks: Sequence[Task], reward: Any, model: FakeModel | None = None, **settings: Any) -> list[StepRecord]:
    model = model or FakeModel()
    return list(search(tasks, model, reward, model.settings("milr", **SETTINGS | settings)))


def run_best_of_n(tasks: Sequence[Task], reward: Any, **settings: Any) -> list[StepRecord]:
    model = FakeModel()
    return list(search(tasks, model, reward, model.settings("best-of-n", stop_at=1.0, **settings)))


def timeless(records: Sequence[StepRecord]) -> list[StepRecord]:
    kept = [replace(record, seconds=0) for record in records]
    return sorted(kept, key=lambda record: (record.index, record.step))


class Elsewhere:
    """A reward whose scores come from a server; it records events in order."""

    stop_at = 0.9
    name = "elsewhere@1"

    def __init__(self, events: list[str], value: Callable[[Image.Image, Task], float] = brightness) -> None:
        self.events, self.inner = events, FakeReward(value, name=self.name)

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        return self.begin(images, tasks)()

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        self.events.append(f"ask {len(images)}")

        def finish() -> list[Score | Unscored]:
            self.events.append(f"answer {len(images)}")
            return self.inner(images, tasks)

        return finish


class Drawer(FakeModel):
    """A model that records when it draws."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        self.events.append(f"draw {len(requests)}")
        return super().draw(requests, sampling)


class Spent(FakeReward):
    """A reward that scores this many images and no more."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most
        self.asked = 0

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        scores: list[Score | Unscored] = []
        for image, task in zip(images, tasks, strict=True):
            self.asked += 1
            self.left -= 1
            spent = Unscored("the VLM budget of calls is spent", self.name, final=True)
            scores += super().__call__([image], [task]) if self.left >= 0 else [spent]
        return scores


# --- waiting


def test_drawing_continues_while_a_vlm_judge_answers() -> None:
    events: list[str] = []
    run(TASKS[:4], Elsewhere(events), Drawer(events), batch_size=16, steps=1)
    assert events == [
        *("draw 2", "ask 2", "draw 2", "ask 2"),  # the second half is drawn before the first is answered
        *("answer 2", "draw 2", "ask 2"),
        *("answer 2", "draw 2", "ask 2"),
        *("answer 2", "answer 2"),
    ]


@pytest.mark.slow
def test_waiting_changes_no_record() -> None:
    for rows in (1, 2, 3, 16):
        waited = run(TASKS, Elsewhere([]), batch_size=rows)
        assert timeless(waited) == timeless(run(TASKS, FakeReward(name="elsewhere@1"), batch_size=rows))


def test_a_single_task_waits_for_itself() -> None:
    events: list[str] = []
    run(TASKS[:1], Elsewhere(events), Drawer(events), steps=1)
    assert events == ["draw 1", "ask 1", "answer 1"] * 2


# --- a budget


def test_a_spent_budget_ends_the_search_with_the_best_so_far() -> None:
    reward = Spent(7)
    model = FakeModel()
    records = run(TASKS[:3], reward, model, batch_size=2, steps=9)
    lasts = {record.index: record for record in records if record.finished}
    assert {index: last.finished for index, last in lasts.items()} == {0: "unscored", 1: "unscored"}
    for index, last in lasts.items():
        assert isinstance(last.best_score, Score)
        values = [s.value for r in records if r.index == index for s in r.scores if isinstance(s, Score)]
        assert last.best_score.value == max(values)
        assert last.notes[-1] == "ended with the best so far: the VLM budget of calls is spent"
    assert [record.step for record in records] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert reward.asked == len(model.drawn) == 8  # a final refusal is not retried, and nothing is drawn after it
    assert 2 not in {record.index for record in records}  # tasks that cannot be scored are not begun


def test_a_task_that_is_met_as_the_budget_ends_is_met() -> None:
    class Half(Spent):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            return [Score(1.0, self.name, 0.9), Unscored("spent", self.name, final=True)]

    (record,) = run(TASKS[:1], Half(0), drawings_per_step=2, stop_at=0.9)
    assert record.finished == "met"


def test_best_of_n_ends_cleanly_too() -> None:
    reward = Spent(5)
    records = run_best_of_n(TASKS, reward, steps=9, batch_size=2)
    assert {record.index: record.finished for record in records if record.finished} == {0: "unscored", 1: "unscored"}
    assert all(isinstance(record.best_score, Score) for record in records)


def test_best_of_n_asks_about_an_unscored_image_once_more() -> None:
    reward = FakeReward(unscored_calls={0})
    (record,) = run_best_of_n(TASKS[:1], reward, steps=0)
    assert isinstance(record.best_score, Score) and reward.calls == 2


# --- a mix


def parts_of(**rewards: Any) -> Callable[[str], Any]:
    return lambda name: rewards[name]


def test_a_mix_is_the_weighted_mean_of_its_parts() -> None:
    bright, half = FakeReward(name="bright@2"), FakeReward(lambda p, t: 0.5, name="half@1")
    mix = Mix("bright*0.75+half*2.25", parts_of(bright=bright, half=half))
    image = Image.new("RGB", (4, 4), (255, 255, 255))
    (score,) = mix([image], TASKS[:1])
    assert isinstance(score, Score)
    assert score.value == pytest.approx(0.25 * 1.0 + 0.75 * 0.5)
    assert score.parts == {"bright": 1.0, "half": 0.5}
    assert mix.name == score.reward == "mix@1:bright@2*0.25+half@1*0.75"
    assert mix.stop_at == 0.8
    assert score.explanation == "bright 1.00 (the fake said 1.0), half 0.50 (the fake said 0.5)"


def test_a_mix_with_an_unscored_part_is_unscored_and_names_it() -> None:
    lost = FakeReward(lambda p, t: math.nan)
    mix = Mix("whole+lost", parts_of(whole=FakeReward(), lost=lost))
    (score,) = mix([Image.new("RGB", (4, 4))], TASKS[:1])
    assert isinstance(score, Unscored) and score.reason == "lost: the fake said nan" and not score.final
    (score,) = Mix("whole+spent", parts_of(whole=FakeReward(), spent=Spent(0)))([Image.new("RGB", (4, 4))], TASKS[:1])
    assert isinstance(score, Unscored) and score.final


class Priced(FakeReward):
    """A reward that costs a dollar per score."""

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        return [replace(score, cost=1.0) for score in super().__call__(images, tasks)]


def test_a_mix_costs_what_its_parts_cost() -> None:
    lost = Priced(lambda p, t: math.nan)
    image = Image.new("RGB", (4, 4))
    for parts in ({"a": Priced(), "b": Priced(), "free": FakeReward()}, {"a": Priced(), "b": lost}):
        (score,) = Mix("+".join(parts), parts_of(**parts))([image], TASKS[:1])
        assert score.cost == 2.0
        assert isinstance(score, Unscored) == (lost in parts.values())


def test_a_second_try_costs_too() -> None:
    reward = Priced(unscored_calls={0})
    (score,) = begin_scoring(reward, [Image.new("RGB", (4, 4))], TASKS[:1])()
    assert isinstance(score, Score) and score.cost == 2.0


def test_a_mix_asks_servers_before_it_computes() -> None:
    events: list[str] = []

    def look(image: Image.Image, task: Task) -> float:
        events.append("look")
        return 0.5

    mix = Mix("here+there", parts_of(here=FakeReward(look), there=Elsewhere(events)))
    assert len(mix([Image.new("RGB", (4, 4))] * 2, TASKS[:2])) == 2
    assert events == ["ask 2", "look", "look", "answer 2"]


def test_a_mix_of_the_table_is_loaded_by_its_name() -> None:
    mix = load_reward("mix:icons-soft*0.7+self*0.3", model=FakeModel())
    assert mix.name == f"mix@1:{IconsSoft().name}*0.7+self@2/fake*0.3"


# --- a panel


def test_a_panel_scores_the_first_and_each_new_best_image() -> None:
    looked: list[Image.Image] = []

    def look(image: Image.Image, task: Task) -> float:
        looked.append(image)
        return 0.25

    records = list(watch(fake_records(TASKS[:1], [[0.2, 0.1, 0.6, 0.6, 0.3]]), {"other": FakeReward(look)}))
    assert looked == [records[0].images[0].image, records[2].best.image]
    assert all(set(record.panel_first) == set(record.panel_best) == {"other"} for record in records)
    (gap,) = measure_gaps([(records[0].scores[0], records[-1])])
    assert gap == Gap("other", 0.2, 0.6, 0.25, 0.25, 1)
    assert (gap.first, gap.best) == (pytest.approx(-0.05), pytest.approx(0.35))
    assert gap.alarm and "ALARM" in str(gap)
    assert records[-1].notes == (f"panel {gap}",)
    assert not any(record.notes for record in records[:-1])


@pytest.mark.parametrize(
    ("first", "best", "alarm"),
    [
        ((0.2, 0.2), (0.8, 0.8), False),  # both values rise
        ((0.2, 0.2), (0.8, 0.2), True),  # only the reward does
        ((0.2, 0.5), (0.8, 0.4), True),  # the panel even falls
        ((0.5, 0.5), (0.5, 0.1), False),  # the reward does not change
        ((0.2, 0.9), (0.8, 1.0), True),
        ((0.2, 0.2), (0.25, 0.2), False),  # too small for an alarm
    ],
)
def test_an_alarm_is_a_gap_that_grows_while_the_reward_rises(
    first: tuple[float, float], best: tuple[float, float], alarm: bool
) -> None:
    assert Gap("p", first[0], best[0], first[1], best[1], 1).alarm == alarm


def test_images_that_a_panel_cannot_score_are_left_out_of_the_means() -> None:
    values = iter([0.1, math.nan, 0.5, math.nan, math.nan])
    reward = FakeReward(lambda image, task: next(values))
    records = list(watch(fake_records(TASKS[:3], [[0.2], [0.4], [0.6]]), {"p": reward}))
    ends = [(record.scores[0], record) for record in records]
    assert isinstance(records[1].panel_best["p"], Score)  # it was tried once more
    assert [gap.images for gap in measure_gaps(ends)] == [2]
    silent = FakeReward(unscored_calls=range(99))
    records = list(watch(fake_records(TASKS[:1], [[0.2, 0.9]]), {"p": silent}))
    assert isinstance(records[-1].panel_best["p"], Unscored) and records[-1].notes == ()
    assert measure_gaps([(records[0].scores[0], records[-1])]) == []


def test_a_panel_is_never_optimised() -> None:
    plain = timeless(run(TASKS, FakeReward()))
    records = search(TASKS, FakeModel(), FakeReward(), **SETTINGS)
    watched = timeless(list(watch(records, {"p": FakeReward(lambda p, t: 0)})))
    for before, after in zip(plain, watched, strict=True):
        assert replace(after, panel_first={}, panel_best={}, notes=before.notes) == before


def test_without_a_panel_records_pass_unchanged() -> None:
    records = list(fake_records(TASKS[:1], [[0.2, 0.9]]))
    assert all(a is b for a, b in zip(watch(iter(records), {}), records, strict=True))


# --- faults in the middle of a search, over the wire


@pytest.fixture
def by_vlm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')
    from milr.rewards.vlm.client import VlmClient
    from milr.rewards.vlm.settings import VlmSettings

    monkeypatch.setenv("MILR_CACHE", str(tmp_path))
    made: list[VlmClient] = []

    def load(url: str, name: str = "gpt-4o", **settings: Any) -> Any:
        values = {"url": url, "first_wait": 0, "timeout": 20, "concurrency": 1, **settings}
        made.append(VlmClient(VlmSettings.model_validate(values)))
        return load_reward(name, vlm=made[-1])

    yield load
    for client in made:
        client.close()


def test_a_search_continues_after_faults(by_vlm: Callable[..., Any]) -> None:
    from tests.support.vlm_servers import JudgeServer, fail, hang_up, say

    wrong = say("-1")
    replies = [wrong, hang_up, fail(503), wrong, say("what?"), say("I'm sorry."), wrong, fail(400), say("0")]
    with JudgeServer(*replies) as server:
        records = run(TASKS[:1], by_vlm(server.url), steps=9, stop_at=0.9)
        assert len(server.asked) == len(replies)
    shown = [score.value if isinstance(score, Score) else score.reason[:9] for r in records for score in r.scores]
    # Step 1 survived two faults; two questions about step 2's image failed, so step 3 had no update.
    assert shown == [0.0, 0.0, "the VLM j", 0.0, 1.0]
    assert [record.trace.moved for record in records if record.trace] == [
        (),
        *[("text", "image")] * 2,
        (),
        ("text", "image"),
    ]
    assert records[3].notes[0].startswith("no update: the VLM judge refuses")
    assert records[-1].finished == "met"


def test_a_vlm_budget_ends_a_search_cleanly(by_vlm: Callable[..., Any]) -> None:
    from tests.support.vlm_servers import JudgeServer, say

    with JudgeServer(say("-1")) as server:
        records = run(TASKS, by_vlm(server.url, budget="6"), steps=9, stop_at=0.9, batch_size=2)
        assert len(server.asked) == 6
    lasts = [record for record in records if record.finished]
    assert [record.finished for record in lasts] == ["unscored"] * 2
    assert all("budget of 6 calls is spent" in record.notes[-1] for record in lasts)
    assert all(isinstance(record.best_score, Score) for record in lasts)
