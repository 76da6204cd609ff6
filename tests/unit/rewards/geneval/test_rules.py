"""GenEval's rules, one by one, with their ties and thresholds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.errors import UsageError
from milr.rewards.geneval.rules import Detection, apply_rules, conditions_met
from milr.tasks import COLORS, parse_prompt, read_tasks
from milr.types import Task

# --- helpers ---


def seen(
    x: float = 0, y: float = 0, score: float = 0.99, color: str | None = None, width: float = 2, height: float = 2
) -> Detection:
    """Return a detection from the centre of its box."""
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2, score, color)


def task_of(include: list[dict[str, object]], exclude: list[dict[str, object]] | None = None, **more: object) -> Task:
    return Task.model_validate({"prompt": "by hand", "include": include, "exclude": exclude or [], **more})


DOG = parse_prompt("a dog")
RED_DOG = parse_prompt("a red dog")
TWO_DOGS = parse_prompt("two dogs")
CAT_LEFT = parse_prompt("a cat left of a dog")


def holds(relation: str, x: float, y: float, *, sizes: tuple[float, float] = (0, 0)) -> bool:
    """Return whether a cat at (x, y) has this relation to a dog at the origin; `sizes` sums widths and heights."""
    width, height = sizes[0] / 2, sizes[1] / 2
    detections = {
        "dog": [seen(width=width, height=height)],
        "cat": [seen(x, y, width=width, height=height)],
    }
    return apply_rules(detections, parse_prompt(f"a cat {relation} a dog")).correct


# --- which detections count ---


@pytest.mark.parametrize(
    ("task", "threshold"),
    [
        (DOG, 0.3),
        (RED_DOG, 0.3),
        (TWO_DOGS, 0.9),
        (parse_prompt("two red dogs"), 0.9),
        (task_of([{"class": "dog"}], tag="counting"), 0.9),
        (task_of([{"class": "dog"}], [{"class": "cat", "count": 1}], tag="mixed"), 0.3),
    ],
)
def test_a_score_must_be_above_the_threshold(task: Task, threshold: float) -> None:
    def correct(score: float) -> bool:
        return apply_rules(
            {"dog": [seen(score=score, color="red") for _ in range(task.include[0].count)]}, task
        ).correct

    nearest = np.float32(threshold)  # above 0.3 in double precision; GenEval compares arrays of 32 bits
    assert not correct(threshold) and not correct(float(nearest))
    assert correct(float(np.nextafter(nearest, np.float32(1))))
    assert not correct(math.nan)


def test_thresholds_are_settings() -> None:
    low = {"dog": [seen(score=0.2), seen(score=0.2)]}
    assert apply_rules(low, DOG, threshold=0.1).correct
    assert not apply_rules(low, TWO_DOGS, threshold=0.1).correct
    assert apply_rules(low, TWO_DOGS, counting_threshold=0.1).correct


def test_sixteen_of_a_class_count_at_most() -> None:
    crowd = {"dog": [seen(10 * i) for i in range(20)]}
    assert apply_rules(crowd, task_of([{"class": "dog", "count": 16}])).correct
    verdict = apply_rules(crowd, task_of([{"class": "dog", "count": 17}]))
    assert (verdict.correct, verdict.reason) == (False, "expected dog>=17, found 16")
    assert apply_rules(crowd, task_of([], [{"class": "dog", "count": 17}], tag="counting")).correct
    assert not apply_rules(crowd, task_of([], [{"class": "dog", "count": 16}], tag="counting")).correct
    assert apply_rules(crowd, TWO_DOGS, max_objects=2).correct


def test_the_cap_is_by_class_and_keeps_the_most_confident() -> None:
    detections = {
        "dog": [*(seen(10 * i, score=0.5) for i in range(20)), seen(500, score=0.9, color="red")],
        "cat": [seen()],
    }
    assert apply_rules(detections, parse_prompt("a red dog, a cat"), max_objects=1).correct


def test_nothing_is_suppressed_by_default() -> None:
    assert apply_rules({"dog": [seen(), seen()]}, TWO_DOGS).correct


def test_overlap_counts_the_last_pixel() -> None:
    # 10 x 10 pixels each, 10 x 5 shared: IoU 50 / 150. Without the last pixels it were 36 / 126.
    pair = {"dog": [(0, 0, 9, 9, 0.99, None), (0, 5, 9, 14, 0.98, None)]}
    assert not apply_rules(pair, TWO_DOGS, max_overlap=0.3).correct
    # An IoU of just the limit goes.
    assert not apply_rules(pair, TWO_DOGS, max_overlap=1 / 3).correct
    assert apply_rules(pair, TWO_DOGS, max_overlap=math.nextafter(1 / 3, 1)).correct


def test_boxes_that_touch_share_a_column_of_pixels() -> None:
    pair = {"dog": [(0, 0, 9, 9, 0.99, None), (9, 0, 18, 9, 0.98, None)]}
    assert not apply_rules(pair, TWO_DOGS, max_overlap=10 / 190).correct
    apart = {"dog": [(0, 0, 9, 9, 0.99, None), (10, 0, 19, 9, 0.98, None)]}
    assert apply_rules(apart, TWO_DOGS, max_overlap=0.001).correct


def test_only_kept_boxes_suppress_others() -> None:
    # The middle one is removed because of the first, so the last, which overlaps only the middle one, stays.
    chain = {"dog": [(0, 0, 9, 9, 0.99, None), (0, 6, 9, 15, 0.98, None), (0, 12, 9, 21, 0.97, None)]}
    assert apply_rules(chain, TWO_DOGS, max_overlap=0.2).correct


def test_classes_do_not_suppress_each_other() -> None:
    assert apply_rules({"dog": [seen()], "cat": [seen()]}, parse_prompt("a dog and a cat"), max_overlap=0.1).correct


# --- presence and count ---


def test_an_absent_class_is_wrong() -> None:
    verdict = apply_rules({"cat": [seen()], "dog": []}, DOG)
    assert (verdict.correct, verdict.reason) == (False, "expected dog>=1, found 0")


def test_a_correct_image_has_no_reason() -> None:
    verdict = apply_rules({"dog": [seen()]}, DOG)
    assert (verdict.correct, verdict.reason) == (True, "")


def test_extra_objects_hurt_only_what_counts() -> None:
    crowd = {"dog": [seen(10 * i, color="red") for i in range(5)], "cat": [seen(-50)], "cow": [seen()]}
    for prompt in ("a dog", "a dog and a cat", "a red dog", "a cat left of a dog"):
        assert apply_rules(crowd, parse_prompt(prompt)).correct, prompt
    verdict = apply_rules(crowd, TWO_DOGS)
    assert (verdict.correct, verdict.reason) == (False, "expected dog<3, found 5")


@pytest.mark.parametrize(("found", "correct"), [(1, False), (2, True), (3, False), (4, False)])
def test_counting_is_exact(found: int, correct: bool) -> None:
    assert apply_rules({"dog": [seen(10 * i) for i in range(found)]}, TWO_DOGS).correct is correct


def test_doubtful_objects_do_not_spoil_a_count() -> None:
    assert apply_rules({"dog": [seen(), seen(10), seen(20, score=0.9)]}, TWO_DOGS).correct


def test_any_excluded_class_is_wrong() -> None:
    task = task_of([{"class": "dog"}], [{"class": "cat", "count": 1}, {"class": "cow", "count": 2}])
    assert apply_rules({"dog": [seen()], "cow": [seen()]}, task).correct
    assert not apply_rules({"dog": [seen()], "cat": [seen()]}, task).correct
    assert not apply_rules({"dog": [seen()], "cow": [seen(), seen()]}, task).correct


# --- colour ---


def test_only_the_most_confident_object_is_asked_for_its_colour() -> None:
    blue_first = {"dog": [seen(score=0.8, color="red"), seen(10, score=0.9, color="blue")]}
    verdict = apply_rules(blue_first, RED_DOG)
    assert (verdict.correct, verdict.reason) == (False, "expected red dog>=1, found blue")
    red_first = {"dog": [seen(score=0.8, color="blue"), seen(10, score=0.9, color="red")]}
    assert apply_rules(red_first, RED_DOG).correct


def test_equally_confident_objects_are_ordered_by_their_boxes() -> None:
    left, right = seen(0, color="red"), seen(10, color="blue")
    assert apply_rules({"dog": [left, right]}, RED_DOG).correct
    assert apply_rules({"dog": [right, left]}, RED_DOG).correct


def test_all_of_the_first_objects_need_the_colour() -> None:
    task = task_of([{"class": "dog", "count": 2, "color": "red"}])
    best = [seen(score=0.9, color="red"), seen(10, score=0.8, color="red")]
    assert apply_rules({"dog": [*best, seen(20, score=0.7, color="blue")]}, task).correct
    # Two are red, but one of them is third.
    third = [seen(score=0.9, color="red"), seen(10, score=0.8, color="blue"), seen(20, score=0.7, color="red")]
    assert not apply_rules({"dog": third}, task).correct


def test_an_unknown_colour_is_not_a_colour() -> None:
    verdict = apply_rules({"dog": [seen()]}, RED_DOG)
    assert (verdict.correct, verdict.reason) == (False, "expected red dog>=1, found no colour")


# --- position ---


@pytest.mark.parametrize(
    ("x", "y", "relations"),
    [
        *((-10, 0, {"left of"}), (10, 0, {"right of"}), (0, -10, {"above"}), (0, 10, {"below"})),
        *((-10, -10, {"left of", "above"}), (10, 10, {"right of", "below"})),
        (0, 0, set[str]()),
    ],
)
def test_relations_are_measured_from_the_reference_with_y_down(x: float, y: float, relations: set[str]) -> None:
    assert {name for name in ("left of", "right of", "above", "below") if holds(name, x, y)} == relations


def test_an_offset_of_exactly_half_is_not_a_relation() -> None:
    # (10 - 0.1 * 50) / 10 is 0.5 without rounding.
    for relation, x, y in (("left of", -10, 0), ("right of", 10, 0), ("above", 0, -10), ("below", 0, 10)):
        assert not holds(relation, x, y, sizes=(50, 50))
        assert holds(relation, x, y, sizes=(49.9, 49.9))


def test_the_offset_is_shortened_but_its_length_is_not() -> None:
    # Shortened to (4.5, 0) of length 10: 0.45. By its own length it would be 1.
    assert not holds("right of", 8, 6, sizes=(35, 60))
    assert holds("right of", 8, 6, sizes=(29, 60))


def test_sizes_are_without_the_last_pixel() -> None:
    # With one more for each box the offset would shrink to 4.8 of 10.
    assert holds("right of", 10, 0, sizes=(49.9, 0))


def test_offsets_below_a_thousandth_are_none() -> None:
    assert not holds("right of", 0.0009, 0)
    assert holds("right of", 0.001, 0)
    # One axis above the limit is enough.
    assert holds("right of", 0.0009, 0.001)


def test_the_position_threshold_is_a_setting() -> None:
    pair = {"dog": [seen(width=25)], "cat": [seen(-10, width=25)]}
    assert not apply_rules(pair, CAT_LEFT).correct
    assert apply_rules(pair, CAT_LEFT, position_threshold=0.05).correct


def test_every_pair_needs_the_relation() -> None:
    task = task_of([{"class": "dog", "count": 2}, {"class": "cat", "count": 2, "position": ["left of", 0]}])
    dogs, cats = [seen(0), seen(10)], [seen(-20), seen(-10)]
    assert apply_rules({"dog": dogs, "cat": cats}, task).correct
    assert not apply_rules({"dog": [dogs[0], seen(-15)], "cat": cats}, task).correct
    assert not apply_rules({"dog": dogs, "cat": [cats[0], seen(5)]}, task).correct


def test_only_the_first_objects_are_placed() -> None:
    detections = {"dog": [seen(), seen(-30, score=0.5)], "cat": [seen(-10), seen(50, score=0.5)]}
    assert apply_rules(detections, CAT_LEFT).correct
    # The most confident cat is on the wrong side; another cat on the right side does not help.
    assert not apply_rules({"dog": [seen()], "cat": [seen(-10, score=0.5), seen(50)]}, CAT_LEFT).correct


def test_an_incorrect_reference_satisfies_no_relation() -> None:
    task = parse_prompt("a cat left of a red dog")
    verdict = apply_rules({"dog": [seen(color="blue")], "cat": [seen(-10)]}, task)
    assert verdict.reason == "expected red dog>=1, found blue; no dog for cat to be left of"


def test_a_reference_on_the_wrong_side_satisfies_no_relation() -> None:
    task = parse_prompt("a cow above a cat left of a dog")
    good = {"dog": [seen()], "cat": [seen(-10)], "cow": [seen(-10, -10)]}
    assert apply_rules(good, task).correct
    verdict = apply_rules({**good, "dog": [seen(-20)]}, task)
    assert verdict.reason == "expected cat left of dog, found right of; no cat for cow to be above"


def test_a_failing_item_does_not_stop_the_others() -> None:
    task = parse_prompt("a red cat, a blue dog and two cows")
    verdict = apply_rules({"dog": [seen(color="red")], "cow": [seen(), seen(), seen()]}, task)
    assert verdict.reason == "expected cat>=1, found 0; expected blue dog>=1, found red; expected cow<3, found 3"


# --- whole verdicts ---


def test_a_task_without_requirements_is_never_correct() -> None:
    for call in (apply_rules, conditions_met):
        with pytest.raises(UsageError, match="does not say what is correct"):
            call({"dog": [seen()]}, Task(prompt="the stars"))


def test_a_reference_must_come_first() -> None:
    task = task_of([{"class": "cat", "position": ["left of", 1]}, {"class": "dog"}])
    with pytest.raises(UsageError, match="'cat' by item 1"):
        apply_rules({"dog": [seen()], "cat": [seen(-10)]}, task)


def test_a_perfect_scene_of_every_geneval_task_is_correct_and_needs_every_object(shared_data: Path) -> None:
    offsets = {"left of": (-50, 0), "right of": (50, 0), "above": (0, -50), "below": (0, 50)}
    for task in read_tasks(shared_data / "geneval" / "evaluation_metadata.jsonl"):
        scene = {
            item.name: [
                seen(*(offsets[item.position[0]] if item.position else (10 * i, 0)), color=item.color)
                for i in range(item.count)
            ]
            for item in task.include
        }
        assert apply_rules(scene, task).correct, task
        assert set(conditions_met(scene, task).values()) == {1.0}
        for item in task.include:
            assert not apply_rules({**scene, item.name: scene[item.name][1:]}, task).correct, task
            if item.color is not None:
                other = COLORS[COLORS.index(item.color) - 1]
                assert not apply_rules({**scene, item.name: [seen(color=other)]}, task).correct, task
        for item in task.exclude:
            assert not apply_rules({**scene, item.name: [*scene[item.name], seen(99)]}, task).correct, task


names = st.sampled_from(["dog", "cat", "cow"])
# Few values, so that ties, thresholds and correct answers are common.
found = st.builds(
    seen,
    st.sampled_from([-20, -10, 0, 10]),
    st.sampled_from([-10, 0, 5]),
    st.sampled_from([0.0, 0.2, 0.3, 0.31, 0.9, 0.95]),
    st.sampled_from([None, "red", "blue"]),
    st.sampled_from([0, 4, 50]),
)
scenes = st.dictionaries(names, st.lists(found, max_size=4), max_size=3)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    include: list[dict[str, object]] = []
    for name in draw(st.lists(names, min_size=1, max_size=3)):
        position = None
        if include and draw(st.booleans()):
            relation = draw(st.sampled_from(["left of", "right of", "above", "below"]))
            position = (relation, draw(st.integers(0, len(include) - 1)))
        color = draw(st.sampled_from([None, None, "red"]))
        include.append({"class": name, "count": draw(st.integers(1, 2)), "color": color, "position": position})
    exclude = draw(st.lists(st.fixed_dictionaries({"class": names, "count": st.integers(1, 3)}), max_size=1))
    return task_of(include, exclude, tag=draw(st.sampled_from([None, "counting", "position"])))


@given(scenes, tasks(), st.sampled_from([1.0, 0.5]))
def test_all_conditions_are_met_exactly_if_the_verdict_is_correct(
    scene: dict[str, list[Detection]], task: Task, max_overlap: float
) -> None:
    conditions = conditions_met(scene, task, max_overlap=max_overlap)
    assert all(0 <= value <= 1 for value in conditions.values())
    assert all(value == 1 for value in conditions.values()) is apply_rules(scene, task, max_overlap=max_overlap).correct


@given(scenes, st.data())
def test_a_verdict_is_independent_of_the_order_of_detections(
    scene: dict[str, list[Detection]], data: st.DataObject
) -> None:
    task = data.draw(tasks())
    shuffled = {name: data.draw(st.permutations(listed)) for name, listed in scene.items()}
    assert apply_rules(shuffled, task) == apply_rules(scene, task)
    assert conditions_met(shuffled, task) == conditions_met(scene, task)


# --- the soft form ---


def test_conditions_are_named_by_their_question() -> None:
    task = parse_prompt("two red cats left of a dog")
    assert list(conditions_met({}, task)) == [
        "dog: present",
        "cat: at least 2",
        "cat: red",
        "cat: left of dog",
        "cat: fewer than 3",
    ]


def test_an_uncertain_object_counts_by_its_score() -> None:
    conditions = conditions_met({"dog": [seen(score=0.15, color="red")]}, RED_DOG)
    assert conditions == {"dog: present": pytest.approx(0.5), "dog: red": pytest.approx(0.5)}
    assert conditions_met({"dog": [seen(score=0.3)]}, DOG) == {"dog: present": 0.99}
    assert conditions_met({}, RED_DOG) == {"dog: present": 0, "dog: red": 0}


def test_counts_weigh_what_is_missing_and_what_is_too_much() -> None:
    one = conditions_met({"dog": [seen(), seen(score=0.45)]}, TWO_DOGS)
    assert one == {"dog: at least 2": pytest.approx(0.75), "dog: fewer than 3": 1.0}
    four = conditions_met({"dog": [seen() for _ in range(4)]}, TWO_DOGS)
    assert four == {"dog: at least 2": 1.0, "dog: fewer than 3": 0.5}


def test_colours_weigh_their_share() -> None:
    pair = {"dog": [seen(color="red"), seen(color="blue")]}
    assert conditions_met(pair, parse_prompt("two red dogs"))["dog: red"] == 0.5


def test_a_position_rises_from_the_opposite_side_to_its_limit() -> None:
    def value(x: float, y: float) -> float:
        return conditions_met({"dog": [seen()], "cat": [seen(x, y)]}, CAT_LEFT)["cat: left of dog"]

    turning = [value(10 * math.cos(angle / 20 * math.pi), 10 * math.sin(angle / 20 * math.pi)) for angle in range(21)]
    assert turning == sorted(turning)
    assert turning[0] < 0.1
    assert turning[10] == pytest.approx(0.5)
    assert turning[-1] == 1
    assert value(10_000, 0) == pytest.approx(0, abs=1e-3)
    assert value(0, 0) == 0.5
    # Exactly at the limit the condition does not hold.
    tie = {"dog": [seen(width=25)], "cat": [seen(-10, width=25)]}
    assert conditions_met(tie, CAT_LEFT)["cat: left of dog"] == 0.99


def test_doubtful_objects_are_placed_by_their_weights() -> None:
    doubtful = {"dog": [seen(score=0.15)], "cat": [seen(-10, score=0.06)]}
    assert conditions_met(doubtful, CAT_LEFT)["cat: left of dog"] == pytest.approx(0.5 * 0.2)


def test_a_condition_given_twice_counts_by_the_worse_score() -> None:
    task = task_of([{"class": "dog", "count": 2, "color": "red"}, {"class": "dog", "count": 1, "color": "red"}])
    pair = {"dog": [seen(color="red"), seen(10, color="blue")]}
    assert conditions_met(pair, task) == {"dog: at least 2": 1.0, "dog: red": 0.5, "dog: present": 1.0}


@pytest.mark.parametrize("score", [math.nan, 0.0, -1.0])
def test_an_unscored_image_has_no_weight(score: float) -> None:
    assert conditions_met({"dog": [seen(score=score)]}, DOG) == {"dog: present": 0}
