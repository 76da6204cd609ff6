"""The rows of the embedded model's property table count what their names say."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from milr.tasks import parse_prompt
from milr.types import Reasoning, Task
from training import labels, report
from training.grounds import GROUNDS, TOKEN, ground_codes
from training.prompt_lists import read_held_out
from training.properties import (
    beginnings,
    codes,
    generality,
    looking,
    obedience,
    pools,
    reading,
    sampling,
    sizes,
    surroundings,
)
from training.properties.ledger import Ledger, open_ledger
from training.properties.shares import difference, gap, mean_over, share, share_by, spread
from training.properties.studio import Drawing, Seen, find_objects
from training.scenes import STYLES, Item, Scene, mention_all, write_text
from training.text_checks import change_kinds, change_text, sample_check, text_question, write_named
from training.texts import change_surroundings, names_what_is_asked, read_text
from training.world import open_world

BLANK = Image.new("RGB", (160, 160))


class FakeStudio:
    """A studio whose drawings and texts are given; it counts what was asked of it."""

    def __init__(self, verdicts: Sequence[tuple[bool, bool]] = ((False, False),), text: str = "dog") -> None:
        """Take the verdicts of evaluator and reward that drawings get in turn, over and over, and one text."""
        self.verdicts, self.text = list(verdicts), text
        self.drawings = 0
        self.starts: list[Sequence[int]] = []

    def write(self, tasks: Sequence[Task], label: str = "") -> list[Reasoning]:
        return [Reasoning(self.text, ()) for _ in tasks]

    def draw(
        self,
        tasks: Sequence[Task],
        texts: Sequence[Reasoning | None],
        label: str,
        *,
        starts: Sequence[Sequence[int]] | None = None,
    ) -> list[Drawing]:
        drawn: list[Drawing] = []
        for row in range(len(tasks)):
            verdicts = self.verdicts[self.drawings % len(self.verdicts)]
            drawn.append(Drawing((self.drawings, *[0] * 99), BLANK, *verdicts))
            self.drawings += 1
            self.starts.append(starts[row] if starts else ())
        return drawn


def see(item: Item, inset: float = 3) -> Seen:
    """Return an object as a detector would find it, its box a little smaller than its cells."""
    top, left, bottom, right = (TOKEN * side for side in item.box)
    return Seen(item.name, item.color, (left + inset, top + inset, right - inset, bottom - inset))


def test_a_share_has_wilsons_interval() -> None:
    assert share([True] * 8 + [False] * 2) == {"value": 0.8, "low": 0.4902, "high": 0.9433, "of": 10}
    assert math.isnan(share([])["value"])


def test_shares_are_computed_per_group_and_their_mean_weighs_groups_equally() -> None:
    groups, right = ["a", "a", "a", "b"], [True, True, True, False]
    assert {name: one["value"] for name, one in share_by(groups, right).items()} == {"a": 1.0, "b": 0.0}
    assert mean_over(groups, right)["value"] == 0.5
    assert spread(share_by(groups, right), least=1) == 1.0
    assert math.isnan(spread(share_by(groups, right), least=2)), "small groups tell nothing"


def test_differences_have_a_sign() -> None:
    assert difference([1.0, 1.0, 0.0, 1.0])["value"] == 0.75
    found = gap([True] * 30 + [False] * 10, [True] * 10 + [False] * 30)
    assert found["value"] == 0.5 and 0 < found["low"] < 0.5 < found["high"] < 1
    assert gap([True], []).get("of") == 0


def test_a_part_is_measured_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make(chunk: Sequence[int], start: int) -> list[int]:
        made.extend(chunk)
        return [start + one for one in chunk]

    for _ in range(2):
        ledger = Ledger(tmp_path / "state.json")
        assert ledger.take_chunks("part", [1, 2, 3], 2, make) == [1, 2, 5]
    assert made == [1, 2, 3]
    assert ledger.take("text", lambda: ("a", "b")) == ["a", "b"], "a new result has the types of a stored one"
    assert ledger.cost("part")["drawings"] == 0


def test_the_state_of_other_weights_other_defaults_or_another_scale_is_another_file(tmp_path: Path) -> None:
    for name, weights, own in (("a", b"1", "{}"), ("b", b"2", "{}"), ("c", b"1", '{"search": {"temperature": 0.5}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "milr.json").write_text(own)
    files = {open_ledger(tmp_path / "state.json", tmp_path / name, scale).file for name in "abc" for scale in (1, 0.02)}
    assert len(files) == 6


SCENE = Scene(
    (
        Item("dog", None, 0, 0, "small"),
        Item("dog", None, 6, 6, "large"),
        Item("teddy bear", "red", 0, 7, "small"),
    ),
    "meadow",
    "far",
    5,
    "flat",
)


@pytest.fixture
def text() -> str:
    return write_text(SCENE, mention_all(SCENE))


def test_an_image_shows_its_own_scenes_text(text: str) -> None:
    read = read_text(text)
    assert read
    seen = [see(item) for item in SCENE.items]
    assert obedience.find_faults(seen, read) == []
    assert obedience.find_faults(seen[1:], read) == ["number"]
    assert obedience.find_faults(seen[:2], read) == ["object"]
    assert obedience.find_faults([*seen, see(Item("cat", None, 4, 0, "small"))], read) == ["object"]
    assert obedience.find_faults([*seen[:2], replace(seen[2], color="blue")], read) == ["color"]
    moved = see(replace(SCENE.items[2], top=4, left=3))
    assert obedience.find_faults([*seen[:2], moved], read) == ["place"]


@given(st.integers(0, 2**32 - 1))
def test_every_scene_shows_what_any_text_names_of_it(seed: int) -> None:
    world = open_world(seed)
    scene = world.scene(world.request())
    read = read_text(write_text(scene, world.mention(scene)))
    assert read and obedience.shows([see(item) for item in scene.items], read)


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_region_of_a_found_box_is_its_items_or_beside_it(size: str) -> None:
    for top in range(7):
        item = Item("dog", None, top, 3, size)
        places = obedience.places_of(see(item).box)
        assert item.place in places and len(places) <= 4
        if size == "small":
            assert places == {item.place}, "centres of small objects are half a cell from the next region"


def test_a_box_with_two_names_is_one_object_and_faint_ones_are_none() -> None:
    box = (0.0, 0.0, 48.0, 48.0)
    found = {"dog": [(*box, 0.5, None)], "cat": [(*box, 0.9, "red")], "cow": [(60.0, 0.0, 99.0, 40.0, 0.3, None)]}
    assert find_objects(found) == [Seen("cat", "red", box)]


@given(st.integers(0, 2**32 - 1))
def test_a_found_scene_has_its_objects_where_they_were(seed: int) -> None:
    world = open_world(seed)
    scene = world.scene(world.request())
    found = looking.to_scene([see(item, inset=1) for item in scene.items])
    assert [replace(item, variant=0) for item in scene.items] == list(found.items)


def test_the_best_drawing_is_the_first_that_the_reward_calls_right() -> None:
    pool = pools.Pool("tag", right=[False, True, True, False], chosen=[False, False, False, True])
    assert not pool.best()
    assert pools.Pool("tag", right=[True, False], chosen=[False, True]).best() is False
    assert pools.Pool("tag", right=[True, False], chosen=[False, False]).best() is True, "none is right: the first one"
    assert pools.Pool("tag", right=[False, True], chosen=[False, True]).best(1) is False


def test_a_pool_ends_when_no_drawing_can_change_it() -> None:
    tasks = [parse_prompt("a photo of a dog"), parse_prompt("a photo of a cat")]
    found = pools.read_pools(pools.draw_pools(FakeStudio([(True, True)]), tasks, "label", "greedy"))  # type: ignore[arg-type]
    assert [len(pool.right) for pool in found] == [pools.FIRST] * 2
    assert [pool.names for pool in found] == [True, False]
    hopeless = pools.read_pools(pools.draw_pools(FakeStudio(), tasks, "label", "greedy"))  # type: ignore[arg-type]
    assert [len(pool.right) for pool in hopeless] == [pools.BEST_OF] * 2
    sampled = pools.read_pools(pools.draw_pools(FakeStudio(), tasks, "label", "sampled"))  # type: ignore[arg-type]
    assert [len(pool.texts) for pool in sampled] == [pools.BEST_OF] * 2
    (plain,) = pools.read_pools(pools.draw_pools(FakeStudio(), tasks[:1], "label", "plain", 1))  # type: ignore[arg-type]
    assert len(plain.right) == 1 and not plain.texts


def test_chance_and_text_are_differences_of_best_drawings() -> None:
    lucky = pools.Pool("a", ["dog"], [False] * 7 + [True], [False] * 7 + [True], ["beach"] * 8, True)
    unlucky = pools.Pool("b", ["dog"], [False] * 21, [False] * 21, ["tiled"] * 21, True)
    found = pools.describe_chance([lucky, unlucky])
    assert found["one shot"]["value"] == 0.0
    assert found["best of 21 minus one shot"]["value"] == 0.5
    assert found["mixed, of texts that name what is asked"]["value"] == 0.5
    text = pools.describe_text([unlucky], [lucky])
    assert text["minus best of 21 of the greedy text"]["value"] == 1.0
    shots = pools.describe_one_shot([lucky, unlucky], [unlucky])
    assert shots["plain"]["all"]["value"] == 0.0
    assert set(shots["after reasoning"]["by tag"]) == {"a", "b"}
    assert pools.read_pools([asdict(lucky)]) == [lucky]


def test_success_is_counted_by_the_ground_that_was_drawn() -> None:
    for ground in GROUNDS:
        assert pools.name_ground(ground_codes(ground, "near", 5).ravel().tolist()) == ground
    right = pools.Pool("a", ["dog, flat style, beach ground"], [True], [True], ["beach"], True)
    wrong = pools.Pool("a", ["dog, meadow ground"], [False], [False], ["tiled"], True)
    found = pools.describe_grounds([right, wrong])
    assert found["by ground"]["beach"]["value"] == 1.0 and found["by ground"]["tiled"]["value"] == 0.0
    assert found["by style"]["flat"]["of"] == 1 and found["by style"]["not named"]["of"] == 1
    assert found["the ground that the text names"]["value"] == 0.5


def test_first_tokens_of_right_and_wrong_drawings_are_kept() -> None:
    studio = FakeStudio([(True, True), (False, False)], text="dog")
    world = open_world(0, phrases=(1.0, 0.0, 0.0), counted=0.0, colored=0.0)
    assert beginnings.draw_mixed(studio, world, 3, "label") == [], "texts that name other objects are left out"  # type: ignore[arg-type]
    pool = pools.Pool("a", ["dog"], [True, False] * 4, [True, False] * 4, [None] * 8, True, [1] * 100, [2] * 100)
    mixed = beginnings.take_mixed([pool], [parse_prompt("a dog")])
    studio = FakeStudio([(True, True)] * 4 + [(False, False)] * 4)
    (redrawn,) = beginnings.redraw(studio, mixed, 10, "label")  # type: ignore[arg-type]
    assert redrawn == {"right": [True] * 4, "wrong": [False] * 4}
    assert studio.starts == [[1] * 10] * 4 + [[2] * 10] * 4
    found = beginnings.describe_beginnings([redrawn])
    assert found["difference"]["value"] == 1.0 and found["difference"]["of"] == 1


def test_texts_that_fit_and_that_do_not_are_counted_separately() -> None:
    found = reading.describe_checks([{"truth": True, "answer": True}, {"truth": False, "answer": True}])
    assert found["all"]["value"] == 0.5 and found["fits"]["value"] == 1.0 and found["mean of both"] == 0.5


@given(st.integers(0, 2**32 - 1))
def test_a_pair_of_prompt_and_text_has_its_truth(seed: int) -> None:
    world = open_world(seed, riddled=0.0)
    prompt, text, truth = sample_check(world)
    assert names_what_is_asked(text, parse_prompt(prompt)) is truth
    read = read_text(text)
    assert read and write_named(read) == text
    assert not world.held_out.colors & {(item.color, item.name) for item in read.items}
    assert text_question(prompt, f" {text}") == f"does this fit? {prompt}: {text}"


@pytest.mark.parametrize("kind", ["object", "number", "color", "place"])
def test_a_changed_text_differs_in_one_thing(kind: str) -> None:
    task = parse_prompt("a red dog left of a blue cat")
    text, random = "left red dog, right blue cat, beach ground", np.random.default_rng(0)
    assert kind in change_kinds(task)
    changed = {change_text(random, task, text, kind, read_held_out()) for _ in range(60)} - {None}
    assert len(changed) > 1
    for one in changed:
        read, before = read_text(str(one)), read_text(text)
        assert read and before and read.ground == before.ground
        if kind == "color":
            assert [(item.name, item.place) for item in read.items] == [(i.name, i.place) for i in before.items]
        if kind == "place":
            assert [(item.name, item.color) for item in read.items] == [(i.name, i.color) for i in before.items]


def test_held_out_combinations_are_asked_as_often_as_others() -> None:
    asked, held_out = generality.ask_combinations(56), read_held_out()
    assert len(asked) == 112
    for task, unseen, form in asked:
        (need,) = task.include
        known = (need.color, need.name) in held_out.colors or (need.count, need.name) in held_out.counts
        assert known is unseen and form == ("color" if need.color else "count")
    forms = [[form for _, unseen, form in asked if unseen is side].count("color") for side in (True, False)]
    assert forms == [40, 40]
    found = generality.describe_combinations(
        [{"held out": unseen, "form": f, "right": unseen} for _, unseen, f in asked]
    )
    assert found["held out minus others"]["value"] == 1.0 and found["held out"]["count"]["of"] == 16


def test_the_codebooks_use_leaves_empty_patches_out() -> None:
    found = codes.count_codes([np.array([[0, 1], [-1, 1]]), np.array([0])], 4)
    assert found == {"codes used": 2, "of": 4, "share used": 0.5, "perplexity": 2.0}


def test_the_default_is_compared_with_the_best_point() -> None:
    points = [(1.0, 2.0), (0.5, 2.0)]
    found = sampling.describe_sweep(points, [[True, False], [True, True]])
    assert found["default"]["temperature"] == 1.0 and found["best"]["temperature"] == 0.5
    assert found["default minus best"]["value"] == -0.5
    assert sampling.describe_sweep(points, [[True, True], [True, False]])["default minus best"]["value"] == 0.0


def test_the_check_of_the_sweep_compares_the_default_with_the_chosen_point_alone() -> None:
    points = [(1.0, 1.5), (0.5, 1.5)]
    found = sampling.describe_check(points, [[True, False, False, False], [True, True, True, False]])
    assert found["default"]["temperature"] == 1.0 and found["best of the sweep"]["temperature"] == 0.5
    assert found["default minus best of the sweep"]["value"] == -0.5


def test_a_changed_ground_or_style_leaves_the_objects() -> None:
    text = "top left red dog, large cat, flat style, shaded ground"
    assert change_surroundings(text, ground="beach") == "top left red dog, large cat, flat style, beach ground"
    assert change_surroundings(text, style="classic") == "top left red dog, large cat, classic style, shaded ground"
    assert change_surroundings("dog", ground="tiled") == "dog, tiled ground"
    assert change_surroundings(text) == text


def test_every_ground_and_style_is_drawn_after_the_same_texts() -> None:
    class Listening(FakeStudio):
        """A studio that is right on the shaded ground alone."""

        heard: ClassVar[list[str]] = []

        def draw(self, tasks: Sequence[Task], texts: Sequence[Reasoning | None], label: str, **_: object) -> Any:
            self.heard.extend(text.text for text in texts if text)
            return [Drawing((0,), BLANK, bool(text and "shaded" in text.text), False) for text in texts]

    tasks = [parse_prompt("a dog")] * 25
    drawn: Any = surroundings.draw_surroundings(cast(Any, Listening()), tasks, ["dog, tiled ground"] * 25, "label")
    found = surroundings.describe_surroundings(drawn)
    assert set(Listening.heard) == {f"dog, {ground} ground" for ground in GROUNDS} | {
        f"dog, {style} style, tiled ground" for style in STYLES
    }
    assert found["by ground"]["shaded"]["value"] == 1.0 and found["by ground"]["beach"]["value"] == 0.0
    assert found["largest minus smallest, grounds"] == 1.0 and found["largest minus smallest, styles"] == 0.0


def test_what_a_greedy_texts_first_drawing_shows_is_looked_up() -> None:
    class Looking(FakeStudio):
        """A studio that sees one dog in the drawing with the tokens (1,), else nothing."""

        class model:
            @staticmethod
            def show_tokens(tokens: Sequence[int]) -> Any:
                return tuple(tokens)

        def look(self, images: Sequence[Any]) -> list[list[Seen]]:
            return [[Seen("dog", None, (0, 0, 48, 48))] if image == (1,) else [] for image in images]

    right = pools.Pool("tag", ["top left dog"], right=[True, False], right_tokens=[1], wrong_tokens=[2])
    wrong = pools.Pool("tag", ["dog"], right=[False, True], right_tokens=[1], wrong_tokens=[2])
    unreadable = pools.Pool("tag", ["?"], right=[True], right_tokens=[1])
    found = obedience.show_greedy(cast(Any, Looking()), [right, wrong, unreadable])
    assert [one["shown"] for one in found] == [True, False]
    assert obedience.describe_named(found)["faults"]["object"] == 1


def test_prompts_are_spread_over_the_tags() -> None:
    assert report.spread_places(6, 3) == [1, 3, 5]
    assert report.spread_places(3, 9) == [0, 1, 2]


def test_every_row_that_is_smaller_than_asked_says_why() -> None:
    for name, size in sizes.SIZES.items():
        if size.number < size.asked:
            assert size.why, name
    assert len(sizes.explain(1.0)) == sum(size.number < size.asked for size in sizes.SIZES.values())
    assert json.dumps(sizes.explain(0.02))


def test_sheets_are_numbered_and_have_a_line_for_each_drawing(tmp_path: Path) -> None:
    drawn = [(parse_prompt("a dog"), Reasoning("dog", ()), Drawing((1, 2), BLANK, True, True))] * 31
    labels.write_sheets(drawn, tmp_path, "sheet", "drawings", [str(n) for n in range(31)])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["drawings.jsonl", "sheet_0000.png", "sheet_0030.png"]
    lines = (tmp_path / "drawings.jsonl").read_text().splitlines()
    assert len(lines) == 31 and json.loads(lines[0]) == {"prompt": "a dog", "text": "dog", "tokens": [1, 2]}
    with Image.open(tmp_path / "sheet_0000.png") as sheet:
        assert sheet.width == labels.COLUMNS * (160 + 8)
