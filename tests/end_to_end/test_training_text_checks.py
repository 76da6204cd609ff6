"""Training pairs of prompts and texts, which teach whether a text meets its prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.tasks import RELATIONS, parse_prompt
from tests.support.icon_world import make_world
from training.text_checks import Demand, change_kinds, change_text, read_demands, sample_check
from training.texts import read_text


def read_objects(prompt: str, text: str) -> tuple[Demand, ...]:
    """Return what a prompt asks of each object of a text that can be read."""
    asked = read_demands(prompt, text)
    assert asked
    return asked.objects


def test_true_and_false_texts_are_as_long_and_name_as_much() -> None:
    world = make_world(placed=0.5, sized=0.3)
    named: dict[bool, list[tuple[bool, bool, bool, bool]]] = {True: [], False: []}
    for _ in range(200):
        _, text, truth = sample_check(world)
        read = read_text(text)
        assert read
        first = read.items[0]
        named[truth].append((bool(first.place), bool(first.size), bool(read.style), bool(read.ground)))
    assert 75 < len(named[True]) < 125
    true, false = (np.mean(named[truth], axis=0) for truth in (True, False))
    assert np.abs(true - false).max() < 0.2


def test_what_can_be_changed_depends_on_the_prompt() -> None:
    assert change_kinds(parse_prompt("a dog and a cat")) == ["object", "number"]
    assert change_kinds(parse_prompt("two red dogs")) == ["object", "number", "color"]
    assert change_kinds(parse_prompt("a dog above a blue cat")) == ["object", "number", "color", "place"]


@given(st.integers(0, 2**32 - 1))
def test_a_changed_number_repeats_an_object_or_leaves_one_out(seed: int) -> None:
    world = make_world(seed)
    task = parse_prompt("two dogs and a cat")
    text = "left dog, right dog, top cat, beach ground"
    changed = change_text(world.random, task, text, "number", world.held_out)
    if changed is not None:
        read = read_text(changed)
        assert read and read.ground == "beach" and len(read.items) in (2, 4)
        assert {item.name for item in read.items} == {"dog", "cat"}
        assert len({item.place for item in read.items}) == len(read.items), "no two in one place"


def test_objects_fit_by_name_colour_and_number() -> None:
    prompt = "two red dogs and a cat"
    text = "left red dog, red dog, red dog, blue cat, blue dog, bed, flat style"
    demands = read_objects(prompt, text)
    assert [demand.fits for demand in demands] == [True, True, False, True, False, False]
    assert [(demand.count, demand.color) for demand in demands][2:] == [
        (2, "red"),
        (1, None),
        (2, "red"),
        (0, None),
    ]
    assert read_demands("the one that barks", text) is read_demands(prompt, "a kitten") is None


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("left dog, right cat, top bed", [True, True, False]),
        ("right dog, left cat", [True, False]),
        ("left cat, right dog", [True, False]),
        ("right dog, cat", [True, True]),
        ("cat, dog", [True, True]),
    ],
)
def test_the_second_of_two_objects_in_a_wrong_relation_does_not_fit(text: str, fits: list[bool]) -> None:
    demands = read_objects("a dog left of a cat", text)
    assert [demand.fits for demand in demands] == fits
    sides = {"dog": 1 + RELATIONS.index("left of"), "cat": 5 + RELATIONS.index("left of"), "bed": 0}
    assert [demand.side for demand in demands] == [sides[part.split()[-1]] for part in text.split(", ")]


@given(st.integers(0, 2**32 - 1))
def test_a_text_that_meets_its_prompt_has_only_objects_that_fit_and_lacks_none(seed: int) -> None:
    prompt, text, truth = sample_check(make_world(seed))
    asked = read_demands(prompt, text)
    if asked:
        assert truth == (all(demand.fits for demand in asked.objects) and asked.missing == 0)


def test_missing_objects_are_counted() -> None:
    prompt = "three dogs and a cat"
    texts = ("dog, dog, dog, cat", "dog, cat, cat", "bed", "a kitten")
    asked = [read_demands(prompt, text) for text in texts]
    assert [one and one.missing for one in asked] == [0, 2, 4, None]


def test_a_text_that_cannot_be_read_is_not_changed() -> None:
    world = make_world()
    assert change_text(world.random, parse_prompt("a dog"), "a kitten", "object", world.held_out) is None
