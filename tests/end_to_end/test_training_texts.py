"""Texts name what a prompt asks for, are read back, and are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.tasks import COLORS, OBJECT_NAMES, parse_prompt
from tests.support.icon_world import make_scene, make_world
from training.grounds import GROUNDS
from training.scenes import PLACES, STYLES, Item, Mentions, describe, mention_all, write_text
from training.text_checks import write_named
from training.texts import Named, Text, names_what_is_asked, read_text

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.builds(
    Named,
    st.sampled_from(OBJECT_NAMES),
    st.none() | st.sampled_from(COLORS),
    st.none() | st.sampled_from(PLACES),
    st.none() | st.sampled_from(("small", "large")),
)
TEXTS = st.builds(
    Text,
    st.lists(NAMES, min_size=1, max_size=5).map(tuple),
    st.none() | st.sampled_from(STYLES),
    st.none() | st.sampled_from(GROUNDS),
)


@given(TEXTS)
def test_a_text_is_read_as_it_was_written(text: Text) -> None:
    assert read_text(f" {write_named(text)}") == text, "a tokenizer leaves a space before the first word"


@given(SEEDS, st.data())
def test_a_text_names_what_its_task_asks_for_with_any_set_of_parts(seed: int, data: st.DataObject) -> None:
    world = make_world(seed)
    task = world.request()
    scene = world.scene(task)
    number = len(scene.items)
    some = st.lists(st.booleans(), min_size=number, max_size=number).map(tuple)
    mentions = data.draw(st.builds(Mentions, some, some, st.booleans(), st.booleans()))
    text = write_text(scene, mentions)
    assert names_what_is_asked(text, task)
    assert read_text(text) == Text(
        tuple(
            Named(item.name, item.color, item.place if placed else None, item.size if sized else None)
            for item, placed, sized in zip(scene.items, mentions.placed, mentions.sized, strict=True)
        ),
        scene.style if mentions.style else None,
        scene.ground if mentions.ground else None,
    )


@given(SEEDS)
def test_a_text_with_a_missing_or_wrong_object_does_not_name_what_is_asked(seed: int) -> None:
    world = make_world(seed)
    task = world.request()
    scene = world.scene(task)
    read = read_text(write_text(scene, world.mention(scene)))
    assert read is not None
    stranger = next(name for name in OBJECT_NAMES if name not in {one.name for one in read.items})
    unused = next(color for color in COLORS if color not in {one.color for one in read.items})
    for index, item in enumerate(read.items):
        others = [replace(item, name=stranger), *([replace(item, color=unused)] if item.color else [])]
        for wrong in [(), *((other,) for other in others)]:
            changed = replace(read, items=(*read.items[:index], *wrong, *read.items[index + 1 :]))
            assert not names_what_is_asked(write_named(changed), task)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("left small cat, right small dog, classic style, tiled ground", True),
        ("right small dog, left large cat, flat style", True),
        ("cat, dog", True),  # places are left to the image
        ("left cat, dog", True),
        ("left black cat, right dog", True),  # a colour that was not asked for
        ("right small cat, left small dog", False),  # reversed
        ("top cat, bottom dog", False),  # another relation
        ("left cat, right dog, grey ground", False),  # no such ground
        ("left cat, right dog, tiled ground, flat style", False),  # another order
        ("left cat, right dog, right bed", False),
        ("left cat, right dog, dog", False),
        ("left small kitten, right small dog", False),
        ("small left cat, right dog", False),
        ("tiled ground", False),
        ("", False),
    ],
)
def test_a_text_names_what_its_prompt_asks_for_by_its_parts(text: str, right: bool) -> None:
    assert names_what_is_asked(text, parse_prompt("a photo of a cat left of a dog")) is right


def test_a_text_leaves_out_what_is_not_mentioned() -> None:
    scene = make_scene(Item("apple", "red", 0, 0, "large"), Item("dog", None, 4, 6, "small"))
    assert write_text(scene, mention_all(scene)) == (
        "top left large red apple, right small dog, classic style, meadow ground"
    )
    assert write_text(scene, Mentions((False, True), (True, False), style=False, ground=True)) == (
        "large red apple, right dog, meadow ground"
    )


def test_a_description_names_everything_in_reading_order() -> None:
    scene = make_scene(Item("dog", None, 7, 0, "small", 1), Item("apple", "red", 0, 6, "large", 1), ground="beach")
    assert describe(scene) == "top right large red apple, bottom left small dog, flat style, beach ground"


def test_texts_mention_their_parts_as_often_as_the_world_says() -> None:
    world = make_world(placed=0.7, sized=0.2, styled=0.0, grounded=1.0)
    scene = world.scene(parse_prompt("four dogs"))
    made = [world.mention(scene) for _ in range(600)]
    assert sum(sum(one.placed) for one in made) / 2400 == pytest.approx(0.7, abs=0.08)
    assert sum(sum(one.sized) for one in made) / 2400 == pytest.approx(0.2, abs=0.08)
    assert not any(one.style for one in made) and all(one.ground for one in made)
    assert {sum(one.placed) for one in made} == {0, 1, 2, 3, 4}, "all, some or none"
    assert sum(len(set(one.placed)) == 1 for one in made) > 400, "mostly all or none"
