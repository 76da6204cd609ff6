"""The rewards `icons`, `icons-soft` and `icons-judge` with the shipped detectors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from milr.errors import UsageError
from milr.rewards import REWARDS, load_reward
from milr.rewards.icons.detector import DetectorConfig, DetectorNetwork, IconDetector, to_rgb
from milr.rewards.icons.reward import Icons, IconsEvaluator, IconsSoft
from milr.tasks import OBJECT_NAMES, parse_prompt
from milr.types import Requirement, Score, Task, Unscored
from tests.support.paths import DATA, GOLDEN

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS: dict[str, dict[str, list[str]]] = json.loads((DATA / "golden_prompts.json").read_text())
APPLE = parse_prompt("a photo of a red apple")
GREY = (220, 221, 224)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F")


@pytest.fixture(scope="module", params=[Icons, IconsEvaluator])
def icons(request: pytest.FixtureRequest) -> Icons:
    return request.param()


@pytest.fixture(scope="module")
def soft() -> IconsSoft:
    return IconsSoft()


def plain(color=GREY, size=(128, 128)) -> Image.Image:
    return Image.new("RGB", size, color)


def noise(seed: int, size=(128, 128)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def stop_sign(left: int = 8, top: int = 8, side: int = 56, color=(244, 67, 54), size: int = 128) -> Image.Image:
    """A hand-drawn octagon with a white bar."""
    image = plain(size=(size, size))
    draw = ImageDraw.Draw(image)
    scale = size / 128
    x, y, s = left * scale, top * scale, side * scale
    draw.regular_polygon((x + s / 2, y + s / 2, s / 2), 8, rotation=22, fill=color, outline=(250, 250, 250))
    return image


def test_a_batch_equals_single_calls_in_order_and_repeats(icons: Icons, soft: IconsSoft):
    images = [plain(), noise(1), stop_sign(), noise(2, (60, 90)), plain((245, 230, 196), (300, 20))]
    tasks = [APPLE, parse_prompt("two dogs"), parse_prompt("a stop sign"), APPLE, parse_prompt("a cat above a dog")]
    for reward in (icons, soft):
        batch = reward(images, tasks)
        assert batch == [reward([p], [t])[0] for p, t in zip(images, tasks, strict=True)]
        assert batch == reward(images, tasks)
        assert batch[::-1] == reward(images[::-1], tasks[::-1])
        assert all(isinstance(s, Score) and s.reward == reward.name and s.stop_at == 0.9 for s in batch)
    assert icons([], []) == []


def test_unequal_lengths_are_refused(icons: Icons):
    with pytest.raises(ValueError, match="argument"):
        icons([plain()], [])


@pytest.mark.parametrize("color", [GREY, (245, 230, 196), (200, 234, 206), (196, 219, 246), (0, 0, 0), (255,) * 3])
def test_a_blank_image_shows_nothing(icons: Icons, soft: IconsSoft, color):
    assert all(d[4] <= 0.3 for found in icons.detector.detect([plain(color)])[0].values() for d in found)
    score = icons([plain(color)], [APPLE])[0]
    assert isinstance(score, Score)
    assert score.value == 0
    assert "apple" in score.explanation
    slope = soft([plain(color)], [APPLE])[0]
    assert isinstance(slope, Score)
    assert slope.value < 0.5


def test_noise_shows_nothing(icons: Icons):
    for seed in range(4):
        assert all(d[4] <= 0.3 for found in icons.detector.detect([noise(seed)])[0].values() for d in found)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(128, 128), (1, 1), (37, 200)])
def test_every_mode_is_read(icons: Icons, mode: str, size: tuple[int, int]):
    score = icons([Image.new(mode, size)], [APPLE])[0]
    assert isinstance(score, Score)
    assert score.value == 0


def test_a_very_wide_image_is_read(icons: Icons):
    score = icons([plain(size=(4000, 10))], [APPLE])[0]
    assert isinstance(score, Score)
    assert score.value == 0


def test_modes_that_hold_the_same_pixels_score_the_same(icons: Icons):
    image = stop_sign()
    same = [image.convert("RGBA"), image.convert("P", palette=Image.Palette.ADAPTIVE), image.convert("RGBX")]
    expected = icons.detector.detect([image])[0]
    assert "stop sign" in expected
    assert icons.detector.detect(same) == [expected] * 3


def test_a_known_images_detections_come_from_the_cache(icons: Icons, monkeypatch: pytest.MonkeyPatch):
    detector = IconDetector(icons.detector.network, icons.detector.config)
    images = [stop_sign(), plain((255, 0, 0))]
    first = detector.detect(images)
    first[0].clear()  # a caller may change it
    monkeypatch.setattr(detector, "network", None)  # the detector now fails if it is called
    assert detector.detect(images[::-1]) == icons.detector.detect(images[::-1])
    with pytest.raises(AttributeError):
        detector.detect([stop_sign(size=143)])


def test_transparent_pixels_are_white():
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert list(to_rgb(image).get_flattened_data()) == [(255, 255, 255), (10, 20, 30)]


def test_images_of_another_size_have_boxes_in_their_own_pixels(icons: Icons):
    small = icons.detector.detect([stop_sign()])[0]["stop sign"][0]
    large = icons.detector.detect([stop_sign(size=512)])[0]["stop sign"][0]
    assert small[4] > 0.9
    assert small[5] == "red"
    assert small[:4] == pytest.approx((8, 8, 64, 64), abs=4)
    assert large[:4] == pytest.approx([4 * v for v in small[:4]], abs=12)
    assert all(0 <= v <= 512 for v in large[:4])


def test_a_hand_drawn_sign_is_scored_correctly(icons: Icons, soft: IconsSoft):
    image = stop_sign()
    right, colored, two, other = (
        parse_prompt(f"a photo of {words}")
        for words in ("a stop sign", "a red stop sign", "two stop signs", "a blue stop sign")
    )
    assert [s.value for s in icons([image] * 4, [right, colored, two, other]) if isinstance(s, Score)] == [1, 1, 0, 0]
    slope = [s.value for s in soft([image] * 4, [right, colored, two, other]) if isinstance(s, Score)]
    assert slope[:2] == [1, 1]
    assert all(0 < value <= 0.9 for value in slope[2:])
    score = icons([image], [other])[0]
    assert isinstance(score, Score)
    assert score.parts == {"stop sign: present": 1.0, "stop sign: blue": 0.0}
    assert {region.name for region in score.regions} == {"stop sign"}


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_rendered_scenes_are_scored_correctly(icons: Icons, soft: IconsSoft, name: str):
    # Drawn by training/scenes.py; each prompt has exactly one missing or wrong object.
    with Image.open(GOLDEN / name) as image:
        image.load()
    for wanted in ("right", "wrong"):
        tasks = [parse_prompt(words) for words in PROMPTS[name][wanted]]
        for task, hard, slope in zip(
            tasks, icons([image] * len(tasks), tasks), soft([image] * len(tasks), tasks), strict=True
        ):
            assert isinstance(hard, Score)
            assert isinstance(slope, Score)
            assert hard.value == (wanted == "right"), (task.prompt, hard.explanation)
            assert (slope.value == 1) == (wanted == "right")


def test_icons_soft_stops_exactly_where_icons_does(icons: Icons, soft: IconsSoft):
    random = np.random.default_rng(0)
    images = [stop_sign(left=int(random.integers(0, 64)), top=int(random.integers(0, 64))) for _ in range(6)]
    images += [noise(3), plain()]
    for words in ("a stop sign", "a red stop sign", "a stop sign left of a dog"):
        tasks = [parse_prompt(words)] * len(images)
        for hard, slope in zip(icons(images, tasks), soft(images, tasks), strict=True):
            assert isinstance(hard, Score)
            assert isinstance(slope, Score)
            assert (slope.value > slope.stop_at) == (hard.value > hard.stop_at) == (hard.value == 1.0)
            assert slope.parts == hard.parts


def test_tasks_without_conditions_are_unscored(icons: Icons):
    tasks = [
        Task(prompt="a fine day"),
        Task(prompt="no dogs", exclude=(Requirement.model_validate({"class": "dog", "count": 1}),)),
        Task(prompt="a wug", include=(Requirement.model_validate({"class": "wug"}),)),
        APPLE,
    ]
    scores = icons([plain()] * 4, tasks)
    assert [type(s) for s in scores] == [Unscored, Unscored, Unscored, Score]
    assert isinstance(scores[0], Unscored)
    assert "include" in scores[0].reason
    assert isinstance(icons([Image.new("RGB", (0, 5))], [APPLE])[0], Unscored)


def test_scores_are_calibrated_numbers_and_names_are_known(icons: Icons):
    for found in icons.detector.detect([noise(9), stop_sign()]):
        for name, detections in found.items():
            assert name in OBJECT_NAMES
            assert all(0 <= d[4] <= 1 and d[0] <= d[2] and d[1] <= d[3] for d in detections)
            assert detections == sorted(detections, key=lambda d: -d[4])


def test_the_icon_rewards_are_found_by_name():
    assert {"icons", "icons-soft"} <= set(REWARDS)
    assert load_reward().name.startswith("icons@1/")
    assert load_reward("icons-soft", model=object()).name.startswith("icons-soft@1/")
    assert load_reward("icons-judge").name.startswith("icons-judge@1/")


def test_other_weights_are_another_metric(tmp_path):
    detector = Icons().detector
    detector.save(tmp_path / "same")
    for value in detector.network.state_dict().values():
        value.add_(1)
    detector.save(tmp_path / "other")
    assert Icons(tmp_path / "same").name == Icons().name != Icons(tmp_path / "other").name


def test_the_evaluator_is_another_network_than_the_reward():
    reward, evaluator = Icons().detector, IconsEvaluator().detector
    assert reward.config.architecture != evaluator.config.architecture
    assert reward.network.state_dict().keys() != evaluator.network.state_dict().keys()


def test_an_unknown_reward_name_is_reported():
    with pytest.raises(UsageError, match="did you mean 'icons'"):
        load_reward("icon")


def test_a_folder_without_a_detector_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"model\.safetensors is missing"):
        Icons(tmp_path)
    config = DetectorConfig(widths=(4, 4, 4), blocks=1)
    IconDetector(DetectorNetwork(config), config).save(tmp_path)
    assert IconDetector.from_folder(tmp_path).config == config
    (tmp_path / "config.json").write_text(config.model_copy(update={"blocks": 2}).model_dump_json())
    with pytest.raises(UsageError, match="holds no icon detector"):
        Icons(tmp_path)


def test_a_saved_detector_gives_the_same_detections(tmp_path, icons: Icons):
    icons.detector.save(tmp_path)
    assert Icons(tmp_path).detector.detect([stop_sign()]) == icons.detector.detect([stop_sign()])
