"""Plans are parsed to scenes and judged by GenEval's rules."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.tasks import COLORS, OBJECT_NAMES, parse_prompt
from training.planning import KINDS, fulfils, kind_of, read_plan, request_each_kind
from training.scenes import Scene, World, overlap, read_forbidden, read_held_out

SEEDS = st.integers(0, 2**32 - 1)


def make_world(seed: int) -> World:
    return World(np.random.default_rng(seed), read_held_out(), read_forbidden())


@given(SEEDS)
def test_a_plan_is_parsed_to_its_scene_which_satisfies_the_request(seed: int) -> None:
    world = make_world(seed)
    task = world.request()
    scene = world.scene(task)
    assert read_plan(scene.plan) == scene
    assert fulfils(f" {scene.plan}", task), "a tokenizer leaves a space before the first word"


@given(SEEDS)
def test_a_plan_with_a_missing_or_wrong_object_does_not_satisfy_the_request(seed: int) -> None:
    world = make_world(seed)
    task = world.request()
    scene = world.scene(task)
    for index, item in enumerate(scene.items):
        before, after = scene.items[:index], scene.items[index + 1 :]
        assert not fulfils(Scene((*before, *after), scene.ground).plan, task)
        stranger = next(name for name in OBJECT_NAMES if name not in {one.name for one in scene.items})
        assert not fulfils(Scene((*before, replace(item, name=stranger), *after), scene.ground).plan, task)
        if item.color:
            color = next(color for color in COLORS if color not in {one.color for one in scene.items})
            assert not fulfils(Scene((*before, replace(item, color=color), *after), scene.ground).plan, task)


@given(SEEDS)
def test_two_objects_in_one_place_do_not_satisfy_the_request(seed: int) -> None:
    world = make_world(seed)
    task = world.request()
    scene = world.scene(task)
    for a, b in combinations(range(len(scene.items)), 2):
        items = list(scene.items)
        items[b] = replace(items[b], place=items[a].place)
        assert overlap(items[a].box, items[b].box) and not fulfils(Scene(tuple(items), scene.ground).plan, task)


@pytest.mark.parametrize(
    ("plan", "right"),
    [
        ("left small cat, right small dog, grey ground", True),
        ("right small dog, left large cat, grey ground", True),
        ("right small cat, left small dog, grey ground", False),  # reversed
        ("left small cat, right small dog, purple ground", False),  # no such ground
        ("left small cat, right small dog", False),  # cut off
        ("small cat, right small dog, grey ground", False),  # no place
        ("left cat, right small dog, grey ground", False),  # no size
        ("left small kitten, right small dog, grey ground", False),
        ("", False),
    ],
)
def test_the_parts_of_a_complete_plan(plan: str, right: bool) -> None:
    assert fulfils(plan, parse_prompt("a photo of a cat left of a dog")) is right


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("a photo of a red cat", None),
        ("three blue cats", "count"),
        ("a cat and two dogs", "count"),
        ("a cat and a red dog", "two"),
        ("a blue cat and a red dog", "colors"),
        ("a blue cat above a red dog", "relation"),
        ("a cat, a dog and a bed", "three"),
    ],
)
def test_the_kind_of_a_request(prompt: str, kind: str | None) -> None:
    assert kind_of(parse_prompt(prompt)) == kind


def test_as_many_requests_of_each_kind() -> None:
    asked = request_each_kind(make_world(3), 7)
    assert tuple(asked) == KINDS
    for kind, tasks in asked.items():
        assert list(map(kind_of, tasks)) == [kind] * 7
