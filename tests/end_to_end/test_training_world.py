"""The icon world: grounds, scenes and requests, and what training must never show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.rewards.geneval.rules import apply_rules
from milr.tasks import COLORS, COUNT_WORDS, parse_prompt, plural
from milr.types import Task
from tests.support.icon_world import make_bank, make_library, make_scene, make_world
from training import grounds
from training.codebook import cut_patches
from training.grounds import CAMERAS, CODES, GRID, GROUNDS, HORIZONS, TOKEN
from training.prompt_lists import (
    choose_held_out,
    read_forbidden,
    read_geneval_hashes,
    read_held_out,
    read_riddles,
    request_hash,
)
from training.questions import ask_questions
from training.scenes import AIR, PLACES, STYLES, Item, icon_key, object_cells, paste, region, render, token_grid
from training.world import related

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_a_scene_fulfils_its_task_by_genevals_rules(seed: int) -> None:
    world = make_world(seed)
    task = world.request()
    detections: dict[str, list[tuple[float, float, float, float, float, str | None]]] = {}
    for item in world.scene(task).items:
        top, left, bottom, right = (float(TOKEN * side) for side in item.box)
        detections.setdefault(item.name, []).append((left, top, right, bottom, 0.99, item.color))
    assert apply_rules(detections, task).correct


@given(SEEDS)
def test_objects_of_a_scene_never_overlap_and_have_its_style(seed: int) -> None:
    world = make_world(seed)
    scene = world.scene(world.request())
    cells = np.zeros((GRID, GRID), int)
    for item in scene.items:
        top, left, bottom, right = item.box
        assert min(top, left) >= 0 and max(bottom, right) <= GRID
        cells[top:bottom, left:right] += 1
        assert STYLES[item.variant] == scene.style
    assert cells.max() == 1
    assert np.array_equal(object_cells(scene), cells > 0)


def test_objects_are_larger_if_the_camera_is_near() -> None:
    world = make_world()
    sizes: dict[str, list[str]] = {camera: [] for camera in CAMERAS}
    for _ in range(150):
        scene = world.scene(world.request())
        sizes[scene.camera] += [item.size for item in scene.items]
    near, far = (sizes[camera].count("large") / len(sizes[camera]) for camera in CAMERAS)
    assert near > 0.5 > 0.3 > far


@pytest.mark.slow
def test_requests_never_hold_what_is_held_out() -> None:
    world, held_out = make_world(), read_held_out()
    for _ in range(3000):
        for need in world.request().include:
            assert (need.color, need.name) not in held_out.colors
            assert (need.count, need.name) not in held_out.counts


def is_allowed(task: Task) -> bool:
    held_out = read_held_out()
    named = all((need.color, need.name) not in held_out.colors for need in task.include)
    return named and request_hash(task) not in read_forbidden()


@given(SEEDS)
def test_a_reduced_request_asks_for_one_of_its_objects_and_is_allowed(seed: int) -> None:
    world = make_world(seed)
    task = world.request()
    reduced = world.reduce(task)
    assert is_allowed(task) and is_allowed(reduced)
    if reduced is not task:
        (need,) = reduced.include
        assert need.count == 1 and not need.position
        assert (need.name, need.color) in {(one.name, one.color) for one in task.include}
        assert parse_prompt(reduced.prompt).include == reduced.include


def test_a_request_stays_whole_if_training_may_not_show_its_objects_alone() -> None:
    color, name = sorted(read_held_out().colors)[0]
    task = parse_prompt(f"a photo of two {color} {plural(name)}")
    world = make_world()
    assert all(world.reduce(task) is task for _ in range(5))


def test_training_uses_riddles_of_its_split_that_ask_for_one_object() -> None:
    told = {riddle.text: riddle.name for riddle in read_riddles() if riddle.split == "train"}
    world = make_world(riddled=1.0)
    for task in (world.request() for _ in range(200)):
        (item,) = world.scene(task).items
        assert told[task.prompt] == item.name


def test_the_committed_list_is_the_seeded_choice() -> None:
    assert read_held_out() == choose_held_out()


@pytest.mark.slow
def test_genevals_prompts_are_not_trained_on(shared_data: Path) -> None:
    lines = (shared_data / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()
    tasks = [Task.model_validate_json(line) for line in lines]
    hashes = {request_hash(task) for task in tasks if task.tag != "single_object"}
    assert hashes == read_geneval_hashes()
    world = make_world(phrases=(1.0, 0.0, 0.0))
    asked = {request_hash(world.request()) for _ in range(2000)}
    assert not asked & hashes


def test_the_hash_of_a_request_is_independent_of_wording_and_order() -> None:
    first = request_hash(parse_prompt("a photo of a red apple and a dog"))
    assert first == request_hash(parse_prompt("a dog, a red apple"))
    assert first != request_hash(parse_prompt("a red dog and an apple"))
    left = request_hash(parse_prompt("a cat left of a dog"))
    assert left != request_hash(parse_prompt("a dog left of a cat"))


@given(SEEDS)
def test_questions_are_answered_by_the_scene(seed: int) -> None:
    world = make_world(seed)
    scene = world.scene(world.request())
    boxes = {item.name: item.box for item in scene.items}
    for question in ask_questions(world.random, scene, 4):
        assert all(spelled in question.text for spelled, _ in question.names)
        name = question.names[0][1]
        same = [item for item in scene.items if item.name == name]
        words = question.text.removesuffix("?").split()
        if question.kind == "object":
            assert bool(same) == question.truth
        elif question.kind == "color":
            assert any(item.color == words[3] for item in same) == question.truth
        elif question.kind == "count":
            assert (len(same) == COUNT_WORDS[words[-1]]) == question.truth
        else:
            _, other = (name for _, name in question.names)
            relation = next(r for r in ("left of", "right of", "above", "below") if f" {r} the " in question.text)
            assert related(boxes[name], boxes[other], relation) == question.truth


def test_both_answers_and_every_kind_of_question_are_asked() -> None:
    world = make_world(phrases=(0.0, 1.0, 0.0))
    asked = [q for _ in range(40) for q in ask_questions(world.random, world.scene(world.request()), 8, 3.0)]
    assert 0.35 < sum(q.truth for q in asked) / len(asked) < 0.65
    kinds = [q.kind for q in asked]
    assert set(kinds) == {"object", "color", "count", "relation"}
    assert kinds.count("relation") > 1.5 * kinds.count("object")


def test_a_regions_word_depends_on_the_objects_centre() -> None:
    assert [region(y, x) for y in (1.5, 5, 8.5) for x in (1.5, 5, 8.5)] == list(PLACES)
    assert PLACES[4] == "middle" and PLACES[:3] == ("top left", "top", "top right")
    assert Item("dog", None, 0, 2, "small").place == "top left"  # centre 3.5
    assert Item("dog", None, 0, 2, "large").place == "top"  # centre 4
    assert Item("dog", None, 0, 4, "large").place == "top"  # centre 6
    assert Item("dog", None, 0, 5, "small").place == "top right"  # centre 6.5


def test_empty_cells_show_the_ground() -> None:
    cells = np.full((3, 3), 2)
    icon = np.full((3, 3), AIR)
    icon[1, 1] = 7
    paste(cells, icon)
    assert cells.tolist() == [[2, 2, 2], [2, 7, 2], [2, 2, 2]]


def test_an_icon_has_the_same_tokens_and_pixels_wherever_it_is() -> None:
    bank, item = make_bank(), Item("dog", "red", 2, 5, "small", variant=1)
    for ground in GROUNDS:
        scene = make_scene(item, ground=ground)
        grid, image = token_grid(scene, bank), render(scene, make_library())
        assert np.array_equal(grid[2:5, 5:8], bank[icon_key(item)])
        assert not image[2 * TOKEN : 5 * TOKEN, 5 * TOKEN : 8 * TOKEN].any()  # a black icon
        plain = grounds.ground_codes(ground, "near", 5)
        away = ~object_cells(scene)
        assert np.array_equal(grid[away], plain[away])
        shown = np.kron(away, np.ones((TOKEN, TOKEN))) > 0
        assert np.array_equal(image[shown], grounds.ground_pixels(plain)[shown])


def test_every_ground_code_is_a_patch_of_its_own() -> None:
    flat = grounds.patches().reshape(CODES, -1)
    assert len(np.unique(flat, axis=0)) == CODES
    assert flat.min() >= 0 and flat.max() <= 255


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_a_grounds_codes_are_read_from_its_pixels(ground: str, camera: str) -> None:
    for horizon in HORIZONS:
        codes = grounds.ground_codes(ground, camera, horizon)
        assert codes.shape == (GRID, GRID) and codes.min() >= 0 and codes.max() < CODES
        seen = cut_patches(grounds.ground_pixels(codes))  # (10, 10, 768)
        known = grounds.patches().reshape(CODES, -1)
        far = np.square(seen[:, :, None] - known).sum(-1)  # (10, 10, codes)
        assert np.array_equal(far.argmin(-1), codes) and not far.min(-1).any()


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_first_row_of_a_ground_differs_by_camera(ground: str) -> None:
    for horizon in HORIZONS:
        near, far = (grounds.ground_codes(ground, camera, horizon)[0] for camera in ("near", "far"))
        assert not np.array_equal(near, far)


def test_a_ground_is_known_by_its_codes_also_below_objects() -> None:
    for ground in GROUNDS:
        for camera in CAMERAS:
            codes = grounds.ground_codes(ground, camera, 6)
            codes[2:8, 1:9] = CODES + 3
            assert grounds.ground_of(codes) == ground
    assert grounds.ground_of(np.full((GRID, GRID), CODES)) is None
    with pytest.raises(ValueError, match="unknown ground 'sky': one of tiled"):
        grounds.ground_codes("sky", "near", 5)


def test_a_relation_needs_a_margin_over_genevals_rule() -> None:
    middle = (4, 4, 7, 7)
    assert related((4, 0, 7, 3), middle, "left of") and not related((4, 0, 7, 3), middle, "right of")
    assert related((0, 4, 3, 7), middle, "above") and related((7, 4, 10, 7), middle, "below")
    assert not any(related(middle, middle, relation) for relation in ("left of", "right of", "above", "below"))
    assert set(COLORS) >= {color for color, _ in read_held_out().colors}
