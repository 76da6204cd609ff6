"""GenEval's detector: preparation compared with OpenCV's arrays, reading the output with hand-made cases."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from milr.rewards.geneval.detector import (
    GenEvalDetector,
    Prepared,
    decode,
    make_pattern,
    prepare,
    read_output,
    resize,
)
from milr.tasks import OBJECT_NAMES
from tests.support.paths import DATA

pytestmark = pytest.mark.usefixtures("one_thread")

OPENCV = np.load(DATA / "opencv_resize.npz")
CASES = [name.removesuffix("_resized") for name in OPENCV.files if name.endswith("_resized")]


# --- preparing ---


@pytest.mark.parametrize("name", CASES)
def test_the_resize_is_opencvs(name: str) -> None:
    height, width, stride = OPENCV[f"{name}_size"].tolist()
    found = resize(OPENCV[f"{name}_picture"], height, width)
    assert found.shape == (height, width, 3)
    difference = np.abs(found[::stride, ::stride].astype(int) - OPENCV[f"{name}_resized"])
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.001


def test_pils_resize_is_not() -> None:
    height, width, _ = OPENCV["smaller_size"].tolist()
    image = Image.fromarray(OPENCV["smaller_picture"]).resize((width, height), Image.Resampling.BILINEAR)
    difference = np.abs(np.asarray(image).astype(int) - OPENCV["smaller_resized"])
    assert (difference > 1).mean() > 0.1


def test_the_whole_preparation_is_mmdets() -> None:
    prepared = prepare(Image.fromarray(OPENCV["prepared_picture"]))
    assert prepared.pixels.shape == (1, 3, 800, 1344)
    assert (prepared.resized, prepared.original) == ((800, 1333), (60, 100))
    found = prepared.pixels[0].permute(1, 2, 0).numpy()[::31, ::31]
    difference = np.abs(found - OPENCV["prepared"]) * np.array([58.395, 57.12, 57.375])
    assert difference.max() <= 1.001
    assert (difference > 0.001).mean() <= 0.001


def test_the_padding_is_grey_before_normalising() -> None:
    prepared = prepare(Image.fromarray(OPENCV["prepared_picture"]))
    corner = prepared.pixels[0, :, -1, -1] * torch.tensor([58.395, 57.12, 57.375])
    assert (corner + torch.tensor([123.675, 116.28, 103.53])).tolist() == pytest.approx([128] * 3)


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((1024, 1024), (800, 800), (800, 800)),
        ((640, 480), (800, 1067), (800, 1088)),
        ((480, 640), (1067, 800), (1088, 800)),
        ((2000, 1000), (667, 1333), (672, 1344)),
        ((1333, 800), (800, 1333), (800, 1344)),
        ((3000, 1), (1, 1333), (32, 1344)),
    ],
)
def test_images_are_resized_and_padded_to_known_sizes(
    size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]
) -> None:
    prepared = prepare(Image.new("RGB", size))
    assert prepared.resized == resized
    assert tuple(prepared.pixels.shape[-2:]) == padded
    assert prepared.original == (size[1], size[0])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_the_resize_differs_from_exact_bilinear_by_one_level_at_most(
    old_h: int, old_w: int, h: int, w: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (old_h, old_w, 3), dtype=np.uint8)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].double(), (h, w), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    assert np.abs(resize(pixels, h, w) - exact.numpy()).max() < 1.5


@given(st.integers(0, 255), st.integers(1, 50), st.integers(1, 50))
def test_a_plain_image_stays_plain(level: int, height: int, width: int) -> None:
    plain = np.full((7, 5, 3), level, dtype=np.uint8)
    assert np.abs(resize(plain, height, width).astype(int) - level).max() <= 1


# --- decoding ---


def test_transparency_is_dropped_not_blended() -> None:
    image = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert decode(image).getpixel((0, 0)) == (10, 20, 30)


def test_exif_turns_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2)).save(buffer, format="PNG", exif=exif)
    with Image.open(buffer) as image:
        assert decode(image).size == (2, 4)


def test_sixteen_bit_images_keep_their_upper_eight_bits() -> None:
    assert decode(Image.fromarray(np.array([[0x12FF]], dtype=np.uint16))).getpixel((0, 0)) == (0x12, 0x12, 0x12)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="0 x 5"):
        decode(Image.new("RGB", (0, 5)))


# --- reading the output ---


def prepared(size: tuple[int, int]) -> Prepared:
    """Return `prepare`'s frame for an image of (width, height); its pixels do not matter."""
    return prepare(Image.new("RGB", size))


def logits(*rows: dict[str, float], nothing: float = 0.0) -> torch.Tensor:
    """Return class logits, one query per row, from log probabilities; other classes are impossible."""
    found = torch.full((len(rows), len(OBJECT_NAMES) + 1), -1e4)
    found[:, -1] = nothing
    for query, row in enumerate(rows):
        for name, value in row.items():
            found[query, OBJECT_NAMES.index(name)] = value
    return found


def masks(count: int, size: tuple[int, int], value: float = -10.0) -> torch.Tensor:
    return torch.full((count, *size), value)


def test_a_score_is_class_probability_times_mask_score() -> None:
    # 3 : 1 against "no object"; all of the mask at logit 2.
    (seen,) = read_output(logits({"dog": np.log(3)}), masks(1, (200, 200), 2.0), prepared((32, 32)))
    sigmoid = 1 / (1 + np.exp(-2))
    assert (seen.name, seen.score) == ("dog", pytest.approx(0.75 * sigmoid, abs=1e-5))
    assert seen.box == (0, 0, 32, 32)
    assert seen.mask.all()
    assert seen.mask.shape == (32, 32)


def test_one_query_may_give_two_detections() -> None:
    found = read_output(logits({"dog": 0.0, "cat": 0.5}, nothing=-9.0), masks(1, (200, 200), 9.0), prepared((32, 32)))
    assert [seen.name for seen in found] == ["cat", "dog"]
    assert found[0].box == found[1].box
    assert found[0].score + found[1].score == pytest.approx(1, abs=1e-3)


def test_boxes_end_after_the_last_pixel() -> None:
    mask = masks(1, (200, 200))
    # Each pixel of the image is 25 of the input, 6.25 of the map: columns 4 to 7, rows 8 to 23.
    mask[0, 50:150, 25:50] = 10.0
    (seen,) = read_output(logits({"dog": 9.0}), mask, prepared((32, 32)))
    assert seen.box == (4, 8, 8, 24)
    assert seen.mask[8:24, 4:8].all()
    assert seen.mask.sum() == 16 * 4


def test_the_mask_is_cropped_before_it_is_resized_to_the_image() -> None:
    # 64 x 32 becomes 1333 x 667, padded to 1344 x 672: masks in the padding are ignored.
    shape = prepared((64, 32))
    assert shape.pixels.shape[-2:] == (672, 1344)
    mask = masks(1, (168, 336))
    mask[0, :, 167:] = 10.0  # from 668 of 1333 on: the right half
    (seen,) = read_output(logits({"dog": 9.0}), mask, shape)
    assert seen.box == (32, 0, 64, 32)
    mask = masks(1, (168, 336))
    mask[0, :, 335:] = 10.0
    assert read_output(logits({"dog": 9.0}), mask, shape) == []


def test_an_empty_mask_scores_nothing_and_has_an_empty_box() -> None:
    (seen,) = read_output(logits({"dog": 9.0}), masks(1, (200, 200)), prepared((32, 32)), least_score=0.0)[:1]
    assert (seen.score, seen.box, seen.mask.any()) == (0, (0, 0, 0, 0), np.False_)


def test_a_mask_of_logit_zero_is_empty() -> None:
    assert read_output(logits({"dog": 9.0}), masks(1, (200, 200), 0.0), prepared((32, 32))) == []


def test_there_are_at_most_a_hundred_pairs_and_the_most_probable_come_first() -> None:
    class_logits = torch.randn(10, 81, generator=torch.Generator().manual_seed(0))
    found = read_output(class_logits, masks(10, (200, 200), 9.0), prepared((32, 32)), least_score=0.0)
    assert len(found) == 100
    probabilities = class_logits.softmax(-1)[:, :80].flatten()
    expected = probabilities.sort(descending=True).values[:100]
    assert [seen.score for seen in found] == pytest.approx((expected * torch.tensor(9.0).sigmoid()).tolist(), rel=1e-4)
    best = int(probabilities.argmax())
    assert found[0].name == OBJECT_NAMES[best % 80]


def test_the_mean_is_over_the_mask_at_the_images_size() -> None:
    mask = masks(1, (200, 200))
    mask[0, :, :100] = 1.0
    mask[0, :, :50] = 3.0
    (seen,) = read_output(logits({"dog": 99.0}), mask, prepared((32, 32)))
    inside = [1 / (1 + np.exp(-3))] * 8 + [1 / (1 + np.exp(-1))] * 8
    assert seen.score == pytest.approx(np.mean(inside), abs=1e-5)


# --- the whole detector, with tiny random weights in the real class ---


@pytest.mark.slow
def test_a_photographs_detections_are_reproducible_and_inside_it() -> None:
    from transformers import Mask2FormerForUniversalSegmentation

    from milr.rewards.geneval.known_answers import tiny_config

    data = pytest.importorskip("skimage.data", reason='needs pip install "milr[dev]"')
    torch.manual_seed(0)
    detector = GenEvalDetector(Mask2FormerForUniversalSegmentation(tiny_config()))
    image = Image.fromarray(data.chelsea())
    found = detector.detect(image, least_score=0.0)
    assert len(found) == 100
    for seen in found:
        x0, y0, x1, y1 = seen.box
        assert 0 <= x0 <= x1 <= image.width
        assert 0 <= y0 <= y1 <= image.height
        assert 0 <= seen.score <= 1
        assert seen.mask.shape == (image.height, image.width)
    again = detector.detect(image, least_score=0.0)
    assert [(a.name, a.score, a.box) for a in found] == [(b.name, b.score, b.box) for b in again]


def test_the_pattern_is_the_same_everywhere() -> None:
    pattern = np.asarray(make_pattern(5, 4))
    assert pattern.shape == (4, 5, 3)
    assert pattern[2, 3].tolist() == [3 * 3 + 2 * 7, 3 * 4 + 2 * 5, 3 * 5 + 2 * 3]
