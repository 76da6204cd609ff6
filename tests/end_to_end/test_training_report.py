"""The figures on the embedded model's card count what their names say."""

from __future__ import annotations

import pytest

from milr.tasks import parse_prompt
from training import report
from training.scenes import PLACES, TOKEN, Item, Scene


def test_a_share_has_wilsons_interval() -> None:
    assert report.share([True] * 8 + [False] * 2) == {"share": 0.8, "low": 0.4902, "high": 0.9433, "of": 10}


def test_a_plans_objects_are_read_back_whatever_their_place_and_size() -> None:
    scene = Scene(
        (
            Item("teddy bear", "red", "top left", "small"),
            Item("dog", None, "middle", "large"),
            Item("dog", None, "right", "small"),
        ),
        "sky",
    )
    assert report.named_objects(scene.plan) == ["dog", "dog", "red teddy bear"]
    assert report.asked_objects(parse_prompt("a red teddy bear and two dogs")) == report.named_objects(scene.plan)


@pytest.mark.parametrize("place", PLACES)
def test_an_object_stands_where_its_plan_says_and_nowhere_else(place: str) -> None:
    item = Item("apple", "red", place, "small")
    top, left, bottom, right = (TOKEN * side for side in item.box)
    found = {"apple": [(left + 3, top + 3, right - 3, bottom - 3, 0.9, "red")]}
    assert report.stands(item, found)
    assert not report.stands(Item("apple", "blue", place, "small"), found)
    assert not report.stands(Item("dog", None, place, "small"), found)
    assert [report.stands(Item("apple", None, other, "small"), found) for other in PLACES].count(True) == 1


def test_a_weak_detection_is_ignored() -> None:
    item = Item("apple", None, "middle", "small")
    top, left, bottom, right = (float(TOKEN * side) for side in item.box)
    assert not report.stands(item, {"apple": [(left, top, right, bottom, 0.3, None)]})


@pytest.mark.parametrize("place", PLACES)
def test_a_detection_lies_nearest_to_its_own_place(place: str) -> None:
    top, left, bottom, right = (float(TOKEN * side) for side in Item("apple", None, place, "small").box)
    assert report.nearest_place(left + right, top + bottom) == place


def test_tags_are_reported_apart() -> None:
    tasks = [parse_prompt("a photo of a dog"), parse_prompt("a photo of two dogs"), parse_prompt("a photo of a cat")]
    shares = report.by_tag(tasks, [True, False, False])
    assert shares["single_object"]["share"] == 0.5
    assert shares["counting"] == report.share([False])
