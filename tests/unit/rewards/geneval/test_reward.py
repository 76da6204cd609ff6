"""The rewards `geneval` and `geneval-hf`: colours, verdicts of all six tags, self-test, doctor. Weights are tiny."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.random_weights import tiny_clip, write_clip, write_detector
from milr.cli.main import main
from milr.errors import MilrError, UsageError
from milr.rewards import load_reward
from milr.rewards.geneval.colors import ColorClassifier, cut_out, prepare
from milr.rewards.geneval.detector import Instance
from milr.rewards.geneval.known_answers import check_arithmetic, check_colors, check_detector, tiny_config
from milr.rewards.geneval.reward import GenEval, GenEvalHub
from milr.rewards.geneval.weights import CLIP, DETECTOR
from milr.selftest.doctor import DOCTORS, examine
from milr.tasks import COLORS, parse_prompt
from milr.types import Region, Score, Task, Unscored

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]  # they run a whole detector


# --- colours ---


def test_pixels_outside_the_object_become_grey() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2:5] = True
    mask[1, 2] = False
    cut = cut_out(Image.new("RGB", (6, 4), (200, 0, 0)), mask, (2.0, 1.0, 5.0, 3.0))
    assert cut.size == (3, 2)
    assert [cut.getpixel((x, y)) for y in range(2) for x in range(3)] == [(153,) * 3, *[(200, 0, 0)] * 5]


def columns(pixels: torch.Tensor) -> list[int]:
    """Return the red channel of the first row."""
    return [round((float(value) * 0.26862954 + 0.48145466) * 255) for value in pixels[0, 0]]


@pytest.mark.parametrize(("width", "first"), [(224, 0), (225, 0), (226, 1), (227, 2), (229, 2), (231, 4)])
def test_the_middle_is_cut_out_with_halves_to_the_even_side(width: int, first: int) -> None:
    ramp = np.tile(np.arange(width, dtype=np.uint8)[None, :, None], (224, 1, 3))
    assert columns(prepare(Image.fromarray(ramp), 224)) == list(range(first, first + 224))


def test_the_long_side_is_rounded_down() -> None:
    # 3 x 5 at 32: the long side is 53.3, so 53; 10.5 pixels are cropped on the left, so 10.
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8))
    expected = image.resize((53, 32), Image.Resampling.BICUBIC).crop((10, 0, 42, 32))
    assert columns(prepare(image, 32)) == [expected.getpixel((x, 0))[0] for x in range(32)]


class FakeClip:
    """A fake CLIP: a text's direction and length depend on its colour, an image's direction on its first pixel."""

    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=4))

    def __init__(self) -> None:
        self.texts: list[str] = []

    def float(self) -> FakeClip:
        return self

    eval = float

    def requires_grad_(self, _: bool) -> FakeClip:
        return self

    def to(self, _: str) -> FakeClip:
        return self

    def __call__(self, texts: Sequence[str], **_: object):
        self.texts += texts
        angles = torch.tensor([COLORS.index(next(color for color in COLORS if f" {color}" in text)) for text in texts])
        # The third text has another direction and ten times the length: it must not count more than the others.
        turned = angles + torch.tensor([0.0, 0.0, 1.2])
        length = torch.tensor([1.0, 1.0, 10.0])
        return Batch(input_ids=torch.stack([turned.cos() * length, turned.sin() * length], dim=1), attention_mask=None)

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: None):
        return SimpleNamespace(pooler_output=input_ids)

    def get_image_features(self, pixel_values: torch.Tensor):
        angle = torch.tensor([float(columns(pixel_values[0])[0]) / 20])
        return SimpleNamespace(pooler_output=7 * torch.stack([angle.cos(), angle.sin()], dim=1))


class Batch(dict[str, object]):
    def to(self, _: str) -> Batch:
        return self


def whole(name: str, size: int = 4) -> Instance:
    return Instance(name, 0.9, (0.0, 0.0, float(size), float(size)), np.ones((size, size), dtype=bool))


def test_a_colour_is_the_mean_of_three_normalised_texts() -> None:
    clip = FakeClip()
    colors = ColorClassifier(clip, clip)
    # With normalised texts the mean of angles 0, 0 and 1.2 is 0.39; without, it would be near 1.2.
    image = Image.new("RGB", (4, 4), (round(20 * (2 + 0.39)), 0, 0))
    assert colors.classify(image, [whole("tv remote")]) == [COLORS[2]]
    assert clip.texts[:3] == [
        "a photo of a red tv remote",
        "a photo of a red-colored tv remote",
        "a photo of a red object",
    ]
    assert len(clip.texts) == 30
    colors.classify(image, [whole("tv remote"), whole("car")])
    assert len(clip.texts) == 60


def test_a_clip_without_quick_gelu_is_refused(tmp_path: Path) -> None:
    config = tiny_clip()
    config.vision_config.hidden_act = "gelu"
    write_clip(tmp_path / "clip", config)
    with pytest.raises(UsageError, match="quick_gelu"):
        ColorClassifier.from_folder(tmp_path / "clip")


# --- verdicts ---


class SeesThis:
    """A detector with prepared detections for any image."""

    def __init__(self, *seen: tuple[str, float, tuple[int, int, int, int]]) -> None:
        self.seen = seen

    def detect(self, image: Image.Image) -> list[Instance]:
        instances = []
        for name, score, (x0, y0, x1, y1) in self.seen:
            mask = np.zeros((image.height, image.width), dtype=bool)
            mask[y0:y1, x0:x1] = True
            instances.append(Instance(name, score, (float(x0), float(y0), float(x1), float(y1)), mask))
        return instances


class SaysThis:
    """A fake colour classifier by the left edge of the object's box; it records its calls."""

    def __init__(self, **by_left: str) -> None:
        self.by_left = {int(left[1:]): color for left, color in by_left.items()}
        self.asked: list[tuple[str, float]] = []

    def classify(self, image: Image.Image, objects: Sequence[Instance]) -> list[str]:
        self.asked += [(seen.name, seen.box[0]) for seen in objects]
        return [self.by_left[int(seen.box[0])] for seen in objects]


@pytest.fixture
def reward(geneval_weights: Path) -> GenEval:
    return GenEval(self_test=False)


PICTURE = Image.new("RGB", (100, 100))
LEFT, RIGHT, TOP = (0, 40, 20, 60), (70, 40, 90, 60), (40, 0, 60, 20)
GREEN_DOG = parse_prompt("a photo of a green dog")


def score(reward: GenEval, task: Task, *seen: tuple[str, float, tuple[int, int, int, int]], **colors: str) -> Score:
    reward.detector = SeesThis(*seen)  # type: ignore[assignment]
    reward._colors = SaysThis(**colors)  # type: ignore[assignment]
    (found,) = reward([PICTURE], [task])
    assert isinstance(found, Score)
    return found


@pytest.mark.parametrize(
    ("prompt", "tag", "right", "wrong"),
    [
        ("a photo of a dog", "single_object", [("dog", 0.31, LEFT)], [("dog", 0.3, LEFT)]),
        (
            "a photo of a dog and a cat",
            "two_object",
            [("dog", 0.5, LEFT), ("cat", 0.5, LEFT)],
            [("dog", 0.5, LEFT), ("cow", 0.5, LEFT)],
        ),
        (
            "a photo of two dogs",
            "counting",
            [("dog", 0.91, LEFT), ("dog", 0.91, RIGHT), ("dog", 0.9, TOP)],
            [("dog", 0.91, LEFT), ("dog", 0.91, RIGHT), ("dog", 0.91, TOP)],
        ),
        ("a photo of a green dog", "colors", [("dog", 0.5, LEFT)], [("dog", 0.5, RIGHT)]),
        (
            "a photo of a dog right of a cat",
            "position",
            [("dog", 0.5, RIGHT), ("cat", 0.5, LEFT)],
            [("dog", 0.5, LEFT), ("cat", 0.5, RIGHT)],
        ),
        (
            "a photo of a green dog and a red cat",
            "color_attr",
            [("dog", 0.5, LEFT), ("cat", 0.5, RIGHT)],
            [("dog", 0.5, RIGHT), ("cat", 0.5, LEFT)],
        ),
    ],
)
def test_images_of_each_tag_are_scored_correctly(
    reward: GenEval, prompt: str, tag: str, right: list, wrong: list
) -> None:
    task = parse_prompt(prompt)
    assert task.tag == tag
    yes, no = (score(reward, task, *seen, _0="green", _70="red") for seen in (right, wrong))
    assert (yes.value, yes.explanation) == (1, "correct")
    assert no.value == 0
    assert no.explanation.startswith("expected ")
    assert yes.reward == reward.name and reward.name.startswith("geneval@1/")


def test_only_the_most_confident_object_is_asked_for_its_colour(reward: GenEval) -> None:
    found = score(reward, GREEN_DOG, ("dog", 0.5, LEFT), ("dog", 0.6, RIGHT), _0="green", _70="red")
    assert found.value == 0
    assert reward._colors.asked == [("dog", 70)]  # type: ignore[union-attr]
    assert found.regions == (Region("dog", (70, 40, 90, 60), 0.6, "red"), Region("dog", (0, 40, 20, 60), 0.5, None))


def test_no_colour_is_asked_for_where_objects_are_missing(reward: GenEval) -> None:
    assert score(reward, GREEN_DOG, ("dog", 0.3, LEFT), ("cat", 0.9, LEFT)).value == 0
    assert reward._colors.asked == []  # type: ignore[union-attr]


def test_regions_are_only_the_objects_that_count(reward: GenEval) -> None:
    found = score(reward, parse_prompt("a dog"), ("dog", 0.2, LEFT), ("cat", 0.9, RIGHT), ("cow", 0.1, TOP))
    assert found.regions == (Region("cat", (70, 40, 90, 60), 0.9, None),)


def test_unscorable_images_are_unscored(reward: GenEval) -> None:
    for image, task in (
        (PICTURE, Task(prompt="the stars")),
        (Image.new("RGB", (0, 3)), parse_prompt("a dog")),
    ):
        (found,) = reward([image], [task])
        assert isinstance(found, Unscored)
        assert found.reward == reward.name


@pytest.mark.slow
def test_photographs_are_scored_by_networks_of_the_real_classes(geneval_weights: Path) -> None:
    data = pytest.importorskip("skimage.data", reason='needs pip install "milr[dev]"')
    images = [Image.fromarray(data.chelsea()), Image.fromarray(data.coffee()).convert("L")]
    reward = load_reward("geneval-hf", self_test=False)
    seen = [name for name, _ in examine_names(reward, images[0])]
    tasks = [parse_prompt(f"a photo of a red {seen[0]}"), parse_prompt("a photo of two cups")]
    first = reward(images, tasks)
    assert all(isinstance(one, Score) and one.value in (0, 1) for one in first)
    assert first == [*reward(images[:1], tasks[:1]), *reward(images[1:], tasks[1:])]
    # The CLIP in the folder classified the most confident object's colour.
    best = next(region for region in first[0].regions if region.name == seen[0])  # type: ignore[union-attr]
    assert best.color in COLORS


def examine_names(reward, image: Image.Image) -> list[tuple[str, float]]:
    found = sorted(reward.detector.detect(image), key=lambda seen: -seen.score)
    assert found[0].score > 0.3
    return [(seen.name, seen.score) for seen in found]


def test_the_approximation_says_so_and_reads_its_own_detector(geneval_weights: Path) -> None:
    reward = load_reward("geneval-hf", self_test=False)
    assert isinstance(reward, GenEvalHub)
    (found,) = reward([PICTURE], [Task(prompt="the stars")])
    assert "approximation" in found.reward
    official = GenEval(self_test=False)
    pixels = torch.zeros(1, 3, 64, 96)
    assert not torch.equal(reward.detector.run(pixels)[0], official.detector.run(pixels)[0])


# --- required files ---


def test_missing_weights_are_named_with_the_commands(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path))
    with pytest.raises(UsageError) as error:
        load_reward("geneval")
    assert "milr convert geneval-detector mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco" in str(error.value)
    assert "$MILR_WEIGHTS" in str(error.value)
    with pytest.raises(UsageError, match="hf download facebook/mask2former-swin-small-coco-instance"):
        load_reward("geneval-hf")
    write_detector(tmp_path / DETECTOR.name, tiny_config())
    with pytest.raises(UsageError, match="hf download openai/clip-vit-large-patch14"):
        load_reward("geneval")


def test_an_option_that_a_reward_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="'icons' has no option 'self_test'"):
        load_reward("icons", self_test=False)


def test_a_detector_of_other_classes_is_refused(tmp_path: Path, monkeypatch) -> None:
    config = tiny_config()
    config.num_labels = 3
    write_detector(tmp_path / DETECTOR.name, config)
    write_clip(tmp_path / CLIP.name, tiny_clip())
    monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path))
    with pytest.raises(UsageError, match="knows 3 classes, but GenEval has 80"):
        GenEval(self_test=False)


def test_an_absent_device_is_refused(geneval_weights: Path) -> None:
    with pytest.raises(UsageError, match="no device 'cuda:99' here"):
        GenEval(device="cuda:99")


# --- self-test and doctor ---


def test_the_arithmetic_is_right_on_this_machine() -> None:
    findings = list(check_arithmetic("cpu"))
    assert [finding.fine for finding in findings] == [True, True, True], findings


def test_wrong_arithmetic_is_detected(monkeypatch) -> None:
    import milr.rewards.geneval.known_answers as check

    monkeypatch.setattr(check, "resize", lambda pixels, height, width: np.zeros((height, width, 3), np.uint8))
    monkeypatch.setattr(check, "_formula", lambda name, shape: torch.ones(shape))
    monkeypatch.setattr(check, "read_output", lambda *_: [])
    assert [finding.fine for finding in check_arithmetic("cpu")] == [False, False, False]


@pytest.mark.slow
def test_weights_that_detect_nothing_are_refused(geneval_weights: Path) -> None:
    with pytest.raises(MilrError, match="fails its self-test, so nothing is scored: .*milr doctor geneval"):
        GenEval()


def test_a_detector_with_correct_detections_passes() -> None:
    class Sees:
        def __init__(self, *names: str) -> None:
            self.names = list(names)

        def detect(self, image: Image.Image) -> list[Instance]:
            name = self.names.pop(0)
            return [whole("cup"), Instance(name, 0.95, (0.0, 0.0, 4.0, 4.0), np.ones((4, 4), dtype=bool))]

    def fine(*names: str) -> list[bool | None]:
        return [finding.fine for finding in check_detector(Sees(*names))]  # type: ignore[arg-type]

    assert fine("person", "cat") == [True, True]
    assert fine("cat", "cat") == [False, True]


def test_wrong_colours_are_detected() -> None:
    class Says:
        def classify(self, image: Image.Image, objects: Sequence[Instance]) -> list[str]:
            return ["red"]

    assert [finding.fine for finding in check_colors(Says())] == [True, False, False]  # type: ignore[arg-type]


def test_the_first_colour_is_asked_for_after_the_self_test(geneval_weights: Path) -> None:
    reward = GenEval(self_test=False)
    reward._self_test = True
    reward.detector = SeesThis(("dog", 0.9, LEFT))  # type: ignore[assignment]
    assert isinstance(reward([PICTURE], [parse_prompt("a dog")])[0], Score)
    with pytest.raises(MilrError, match="colour of a"):
        reward([PICTURE], [GREEN_DOG])


def test_the_doctor_says_what_is_missing_and_how_to_get_it(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path))
    assert main(["doctor", "geneval"]) == 1
    said = capsys.readouterr().out
    assert "WRONG geneval-detector/model.safetensors: missing" in said
    assert "ok    self-test: resize" in said
    assert "?     self-test: weights: not run before all files are right" in said
    assert f"--local-dir {tmp_path}/clip-vit-large-patch14" in said
    assert said.count("milr convert geneval-detector") == 1
    assert said.splitlines()[-1] == "geneval: 7 wrong"


def test_the_doctor_recognises_files_that_are_not_official(geneval_weights: Path) -> None:
    findings = {finding.subject: finding for finding in examine("geneval")}
    assert "743b7d99... or c9d0c4f2... is the official checkpoint" in findings["geneval-detector: its source"].said
    assert findings["clip-vit-large-patch14/model.safetensors"].fine is False
    assert "1,710,540,580 are expected" in findings["clip-vit-large-patch14/model.safetensors"].said
    # The hash of the hub's file is unknown, so no one says that it is right.
    hub = {finding.subject: finding for finding in examine("geneval-hf")}
    assert hub["mask2former-swin-small-coco-instance/model.safetensors"].fine is None


def test_doctor_refuses_an_absent_device(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path))
    assert main(["doctor", "geneval", "--device", "cuda:99"]) == 2
    assert "no device 'cuda:99' here" in capsys.readouterr().err


def test_doctor_refuses_an_unknown_name() -> None:
    assert {"geneval", "geneval-hf"} <= set(DOCTORS)
    assert main(["doctor", "genevla"]) == 2
