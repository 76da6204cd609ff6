"""The parts of the paper's MixedReward: GroundingDINO, GIT and the weights by tag."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from milr.errors import MilrError, UsageError
from milr.rewards.mixed import known_answers
from milr.rewards.mixed.git_vqa import GitVqa, write_question
from milr.rewards.mixed.grounding_dino import (
    GroundingDino,
    find_words,
    fit,
    score_counts,
    score_places,
    span_mean,
    suppress,
    to_corners,
    write_caption,
)
from milr.rewards.mixed.known_answers import check_cat, refuse_blind
from milr.rewards.mixed.weights import WEIGHTS, weights_for, write_mix
from milr.tasks import parse_prompt
from milr.testing import FakeReward
from milr.types import Requirement, Score, Task, Unscored
from milr.weights import Finding
from tests.support.compbench_weights import write_git, write_grounding_dino

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def photograph() -> Image.Image:
    data = pytest.importorskip("skimage.data", reason="scikit-image has the photographs: milr[dev]")
    return Image.fromarray(data.coffee())


# --- weights ---


def test_the_weights_by_tag_are_the_published_ones() -> None:
    """benchmarks.md, section 4.8, both versions."""
    for tag in TAGS:
        is_color = tag in ("colors", "color_attr")
        assert list(weights_for(tag).values()) == ([0.4, 0.4, 0.2] if is_color else [0.6, 0.2, 0.2])
        assert list(weights_for(tag, "reward4").values()) == ([0.5, 0.5] if is_color else [0.75, 0.25])
    assert all(sum(parts.values()) == pytest.approx(1) for version in WEIGHTS.values() for parts in version.values())
    assert weights_for(None) == weights_for("position")
    with pytest.raises(UsageError, match="did you mean 'reward4'"):
        weights_for("colors", "reward5")


def test_the_mix_of_a_tag_is_written_as_a_reward_name() -> None:
    assert write_mix("color_attr") == "mix:grounding-dino*0.4+git-vqa*0.4+unified-reward*0.2"
    assert write_mix("position", "reward4") == "mix:grounding-dino*0.75+git-vqa*0.25"


# --- GroundingDINO's rules ---


def test_names_are_joined_to_a_caption_and_found_in_it() -> None:
    names = ("traffic light", "dog", "big red bus")
    caption = write_caption(names)
    assert caption == "traffic light . dog . big red bus."
    found = [[caption[first : last + 1] for first, last in spans] for spans in find_words(names)]
    assert found == [["traffic", "light"], ["dog"], ["big", "bus"]]


def test_a_score_is_the_mean_of_its_span_and_not_the_largest() -> None:
    chances = torch.tensor([[0.9, 0.8, 0.1, 0.6], [0.0, 0.2, 0.2, 0.4]])  # two queries, four tokens
    found = span_mean(chances, [[1, 2], [3]])
    assert found.shape == (2, 2)
    assert found[0].tolist() == pytest.approx([0.45, 0.2], abs=1e-5)
    assert found[1].tolist() == pytest.approx([0.6, 0.4], abs=1e-5)
    assert span_mean(chances, [[1, 1, 2]])[0].tolist() == pytest.approx(found[0].tolist())  # a token counts once


def test_boxes_become_corners_in_pixels() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.25, 0.75, 0.5, 0.5]])
    assert to_corners(boxes, 200, 400) == [(50, 150, 150, 250), (0, 200, 100, 400)]


def test_suppression_compares_corners_of_boxes() -> None:
    """Two boxes beside each other; if centres and sizes were read as corners, they would overlap."""
    centred = torch.tensor([[0.3, 0.5, 0.2, 0.8], [0.55, 0.5, 0.2, 0.8]])
    corners = to_corners(centred, 100, 100)
    assert len(suppress([(0.9, corners[0]), (0.8, corners[1])])) == 2
    wrong = [tuple(row) for row in (centred * 100).tolist()]
    assert wrong[0][0] > wrong[0][2]  # read as corners, such a box would be reversed
    near = [(0.5, (0.0, 0.0, 10.0, 10.0)), (0.9, (1.0, 0.0, 11.0, 10.0)), (0.4, (6.0, 0.0, 16.0, 10.0))]
    assert suppress(near) == [near[1], near[2]]


def include(words: str) -> tuple[Requirement, ...]:
    return parse_prompt(words).include


def boxes(count: int, x: float = 0) -> list[tuple[float, tuple[float, float, float, float]]]:
    return [(0.9 - 0.1 * i, (x + 50.0 * i, 0.0, x + 50.0 * i + 20, 20.0)) for i in range(count)]


@pytest.mark.parametrize(("seen", "value"), [(0, 0.0), (1, 0.2), (2, 1.0), (3, 0.2)])
def test_counts_are_exact(seen: int, value: float) -> None:
    parts = score_counts(include("two dogs"), {"dog": boxes(seen)})
    assert parts == {f"dog: {seen} of 2": value}


def test_an_extra_object_is_punished_where_geneval_allows_it() -> None:
    parts = score_counts(include("a dog and a cat"), {"dog": boxes(2), "cat": boxes(1)})
    assert sum(parts.values()) / 2 == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("dog", "cat", "value"),
    [(boxes(1), boxes(1, 100), 0.9), (boxes(1, 100), boxes(1), 0.4), (boxes(1), [], 0.2), ([], [], 0.0)],
)
def test_presence_and_position_are_scored(dog, cat, value: float) -> None:
    found, parts = score_places(include("a dog left of a cat"), {"dog": dog, "cat": cat})
    assert found == pytest.approx(value)
    assert parts["dog: present"] == float(bool(dog))


def test_positions_come_from_the_most_confident_boxes() -> None:
    dogs = [(0.5, (200.0, 0.0, 220.0, 20.0)), (0.9, (0.0, 0.0, 20.0, 20.0))]
    assert score_places(include("a dog left of a cat"), {"dog": dogs, "cat": boxes(1, 100)})[0] == pytest.approx(0.9)


@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_all_four_relations_are_scored(relation: str) -> None:
    at = {"left of": (0, 100), "right of": (200, 100), "above": (100, 0), "below": (100, 200)}[relation]
    dog = [(0.9, (at[0], at[1], at[0] + 20.0, at[1] + 20.0))]
    cat = [(0.9, (100.0, 100.0, 120.0, 120.0))]
    assert score_places(include(f"a dog {relation} a cat"), {"dog": dog, "cat": cat})[0] == pytest.approx(0.9)
    assert score_places(include(f"a cat {relation} a dog"), {"dog": dog, "cat": cat})[0] == pytest.approx(0.4)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_resized_images_fit_the_limits(width: int, height: int) -> None:
    fitted = fit(width, height, 800, 1333)
    ratio = max(width, height) / min(width, height)
    assert 1 <= min(fitted) <= 800
    assert max(fitted) <= 1333 + ratio  # the shorter side is rounded, the longer one follows
    assert (width < height) == (fitted[0] < fitted[1]) or 800 in fitted or ratio < 1.1


def test_resized_images_have_known_sizes() -> None:
    assert fit(384, 384, 800, 1333) == (800, 800)
    assert fit(640, 480, 800, 1333) == (1066, 800)
    assert fit(1000, 500, 800, 1333) == (1332, 666)


# --- GroundingDINO's model ---


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    write_git(root / "git-large-vqav2")
    write_grounding_dino(root / "grounding-dino-tiny")
    return root


@pytest.fixture
def dino(root: Path, monkeypatch: pytest.MonkeyPatch) -> GroundingDino:
    monkeypatch.setenv("MILR_WEIGHTS", str(root))
    return GroundingDino(short_side=128, long_side=200, self_test=False)


@pytest.mark.slow
def test_grounding_dino_scores_photographs(dino: GroundingDino) -> None:
    tasks = [parse_prompt("a dog left of a traffic light"), parse_prompt("two cats"), Task(prompt="a fine day")]
    scores = dino([photograph()] * 3, tasks)
    assert scores == dino([photograph()] * 3, tasks)
    assert scores[0] == dino([photograph()], tasks[:1])[0]
    assert [type(score) for score in scores] == [Score, Score, Unscored]
    for image in (Image.new("CMYK", (1, 1)), Image.new("RGBA", (3, 1)), photograph().convert("P")):
        assert isinstance(dino([image], tasks[:1])[0], Score)
    empty = dino([Image.new("RGB", (0, 3))], tasks[:1])[0]
    assert isinstance(empty, Unscored)
    assert "shows nothing" in empty.reason
    small = GroundingDino(short_side=16, long_side=16, self_test=False)([photograph()], tasks[:1])[0]
    assert isinstance(small, Unscored)
    assert "7 places for 20 boxes" in small.reason  # of 16 x 10 pixels: 2 x 2, then one at each of three strides


def test_detections_are_the_span_means_above_the_threshold(
    dino: GroundingDino, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milr.rewards.mixed.grounding_dino.THRESHOLD", 0.0)
    names = ("traffic light", "dog")
    found = dino.detect(photograph(), names)
    encoded = dino.tokenizer("traffic light . dog.", return_tensors="pt")
    assert encoded.tokens()[1:-1] == ["traffic", "light", ".", "dog", "."]
    pixels = dino._pixels(photograph())
    with torch.inference_mode():
        out = dino.network(
            pixel_values=pixels, input_ids=encoded["input_ids"], token_type_ids=encoded["token_type_ids"]
        )
    chances = out.logits[0].sigmoid()
    light = chances[:, 1:3].mean(-1).sort(descending=True).values
    assert [score for score, _ in found["traffic light"]] == pytest.approx(light.tolist(), abs=1e-5)
    assert [score for score, _ in found["dog"]] == pytest.approx(
        chances[:, 4].sort(descending=True).values.tolist(), abs=1e-5
    )


# --- GIT ---


@pytest.mark.parametrize(
    ("item", "question"),
    [
        ({"class": "bed"}, "Is this a bed?"),
        ({"class": "apple", "color": "red"}, "Is this a red apple?"),
        ({"class": "knife", "count": 3}, "Are there 3 knifes?"),
        ({"class": "bus", "count": 2, "color": "blue"}, "Are there 2 blue buss?"),
    ],
)
def test_questions_use_the_authors_words(item: dict[str, object], question: str) -> None:
    assert write_question(Requirement.model_validate(item)) == question


def test_git_answers_about_photographs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILR_WEIGHTS", str(root))
    git = GitVqa(self_test=False)
    tasks = [parse_prompt("a red apple and a blue bed"), parse_prompt("two cats"), Task(prompt="a fine day")]
    scores = git([photograph()] * 3, tasks)
    assert [type(score) for score in scores] == [Score, Score, Unscored]
    assert scores[0] == git([photograph()], tasks[:1])[0]
    first = scores[0]
    assert isinstance(first, Score)
    assert first.value == pytest.approx(sum(first.parts.values()) / 2)
    assert list(first.parts) == ["Is this a red apple?", "Is this a blue bed?"]
    assert isinstance(git([Image.new("CMYK", (1, 1))], tasks[:1])[0], Score)
    # The answer by hand: [CLS] and the question without [SEP]; the last position counts.
    ids = git.tokenizer("Is this a red apple?")["input_ids"][:-1]
    with torch.inference_mode():
        logits = git.network(input_ids=torch.tensor([ids]), pixel_values=git._pixels(photograph())).logits[0, -1]
    yes, no = logits[[2748, 2053]].exp().tolist()
    assert first.parts["Is this a red apple?"] == pytest.approx(yes / (yes + no), abs=1e-5)


@pytest.mark.parametrize("made", [GroundingDino, GitVqa])
def test_missing_weights_are_named_with_their_command(made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path))
    with pytest.raises(UsageError, match="hf download"):
        made()


# --- self-test ---


@pytest.mark.parametrize(("cat", "pizza", "fine"), [(0.6, 0.4, True), (0.4, 0.6, False), (0.5, 0.5, False)])
def test_a_cat_is_recognised_before_a_pizza(cat: float, pizza: float, fine: bool) -> None:
    values = {"a photo of a cat": cat, "a photo of a pizza": pizza}
    reward = FakeReward(lambda image, task: values[task.prompt])
    assert check_cat(reward).fine is fine
    with nullcontext() if fine else pytest.raises(MilrError, match="nothing is scored: .*type: milr doctor mixed"):
        refuse_blind(reward)


@pytest.mark.slow
def test_a_part_that_ignores_the_image_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILR_WEIGHTS", str(root))
    monkeypatch.setattr(known_answers, "check_cat", lambda reward: Finding(reward.name, False, "blind"))
    for make in (partial(GroundingDino, short_side=128, long_side=200), GitVqa):
        with pytest.raises(MilrError, match="fails its self-test, so nothing is scored"):
            make()
        make(self_test=False)
