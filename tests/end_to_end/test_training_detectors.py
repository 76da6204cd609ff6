"""Training of the icon detectors, at tiny sizes: layouts, damage, targets, calibration, a run that resumes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from milr.rewards.geneval.rules import apply_rules
from milr.rewards.icons.detector import BOX_UNIT, CELL, DetectorConfig, DetectorNetwork, IconDetector
from milr.tasks import COLORS, OBJECT_NAMES
from training import calibration, damage, detector, detector_report, image_store, layouts, scenes, stage
from training.augment import augment
from training.codebook import TINTS
from training.coders import Encoded, PixelCoder, VqCoder, near_codes
from training.grounds import CODES, GRID, TOKEN
from training.icons import COLORS as PAINTS
from training.icons import NATURAL
from training.layouts import EMPTY, IGNORE, MIXED, MOST, SIDE, UNKNOWN
from training.prompt_lists import HeldOut
from training.world import World

pytestmark = pytest.mark.slow  # its library of icons takes a second

QUIET = dict.fromkeys(["shift", "resize", "blur", "noise", "blot", "empty", "gain", "light"], 0.0)


def make_icon(number: int, variant: int, color: str, side: int) -> np.ndarray:
    """Return an RGBA icon: a frame with a bar whose position shows its class."""
    icon = np.zeros((side, side, 4), np.uint8)
    bottom = 12 if color == NATURAL else -1  # few pixels, because to name their colour takes time
    icon[1:bottom, 3:-3] = (*PAINTS.get(color, (90, 100, 110)), 255)
    top, left = divmod(number, 10)
    icon[5 + 3 * top : 8 + 3 * top, 5 + 3 * left : 8 + 3 * left, :3] = 120 * variant
    return icon


@pytest.fixture(scope="module")
def library() -> scenes.Library:
    return {
        (name, variant, color, size): make_icon(number, variant, color, side * TOKEN)
        for number, name in enumerate(OBJECT_NAMES)
        for variant in range(2)
        for color in TINTS
        for size, side in scenes.SIZES.items()
    }


@pytest.fixture(scope="module")
def sampler(library: scenes.Library) -> layouts.Sampler:
    return layouts.Sampler(library)


@given(st.integers(0, 2**32 - 1))
def test_icons_of_a_layout_share_no_cell(sampler: layouts.Sampler, seed: int) -> None:
    layout = sampler.layout(np.random.default_rng(seed))
    cells = np.zeros((GRID, GRID), int)
    for icon in layout.placed:
        cells[icon.area] += 1
    assert cells.max(initial=0) <= 1
    assert cells.sum() == sum(icon.side**2 for icon in layout.placed), "inside the grid"


def test_layouts_have_every_ground_both_styles_and_every_column(sampler: layouts.Sampler) -> None:
    random = np.random.default_rng(0)
    made = [sampler.layout(random) for _ in range(600)]
    assert len({(layout.ground, layout.camera) for layout in made}) == 12
    assert {icon.key[1] for layout in made for icon in layout.placed} == {0, 1}
    assert {icon.left for layout in made for icon in layout.placed} == set(range(GRID - 2))


@given(st.integers(0, 2**32 - 1))
def test_a_scene_as_a_layout_has_the_same_pixels(sampler: layouts.Sampler, seed: int) -> None:
    world = World(np.random.default_rng(seed), HeldOut(frozenset(), frozenset()), frozenset())
    scene = world.scene(world.request())
    drawn = sampler.draw(layouts.to_layout(scene))
    assert (drawn == scenes.render(scene, sampler.library).round()).all()


def test_labels_are_tight_boxes_of_opaque_pixels(sampler: layouts.Sampler) -> None:
    icon = layouts.Placed(("cat", 1, "red", "small"), 2, 7)
    rows = sampler.labels(layouts.Layout((icon,), "tiled", "far", 4))
    assert rows[0].tolist() == [OBJECT_NAMES.index("cat"), 115, 33, 157, 79, COLORS.index("red")]
    assert (rows[1:] == EMPTY).all() and rows.shape == (MOST, 6)


@pytest.mark.parametrize(
    ("shares", "color"),
    [({"red": 0.7, "blue": 0.3}, COLORS.index("red")), ({"red": 0.4, "blue": 0.6}, COLORS.index("blue"))]
    + [({"red": 0.4, "blue": 0.3, "green": 0.3}, MIXED), ({"red": 0.55, "blue": 0.45}, UNKNOWN)],
)
def test_an_icons_own_color_is_the_color_of_most_pixels(shares: dict[str, float], color: int) -> None:
    icon = np.full((1, 100, 4), 255, np.uint8)
    icon[0, :, :3] = np.repeat([PAINTS[name] for name in shares], [round(100 * s) for s in shares.values()], axis=0)
    assert layouts.main_color(icon) == color


def test_the_pixel_coder_loses_nothing(sampler: layouts.Sampler) -> None:
    random, coder = np.random.default_rng(1), PixelCoder(sampler)
    made = [sampler.layout(random) for _ in range(5)]
    assert (coder.images(coder.tokens(made)) == np.stack([sampler.draw(layout) for layout in made])).all()


def test_images_without_damage_show_their_layouts(sampler: layouts.Sampler) -> None:
    images, labels = damage.coded_images(sampler, PixelCoder(sampler), np.random.default_rng(2), 4, damaged=0.0)
    random = np.random.default_rng(2)
    made = [sampler.layout(random) for _ in range(4)]
    assert (images == np.stack([sampler.draw(layout) for layout in made])).all()
    assert (labels == np.stack([sampler.labels(layout) for layout in made])).all()


@pytest.mark.slow
def test_an_icon_is_gone_if_its_label_says_so(sampler: layouts.Sampler) -> None:
    """Labels of whole icons have most of the icon's pixels; damage of all kinds occurs."""
    random = np.random.default_rng(3)
    images, labels = damage.coded_images(sampler, PixelCoder(sampler), random, 200, damaged=1.0)
    random = np.random.default_rng(3)
    made = [sampler.layout(random) for _ in range(200)]
    kept = {"whole": 0, "ignored": 0, "gone": 0}
    for image, rows, layout in zip(images, labels, made, strict=True):
        clean = sampler.draw(layout)
        for row, before, icon in zip(rows, sampler.labels(layout), layout.placed, strict=False):
            top, left, bottom, right = (TOKEN * value for value in icon.box)
            differ = (image != clean)[top:bottom, left:right].any(-1).mean()
            if row[0] == IGNORE:
                kept["ignored"] += 1
            elif row[0] == EMPTY:
                kept["gone"] += 1
                assert differ > 0
            else:
                kept["whole"] += 1
                assert (row[:5] == before[:5]).all()
                assert differ < 0.3 or row[5] in (MIXED, UNKNOWN, before[5])
    assert min(kept.values()) > 20


@pytest.mark.parametrize(
    ("kind", "share", "whole", "name", "color"),
    [
        ("ground", 0.18, False, 3, 4),
        ("ground", 0.3, False, IGNORE, 4),
        ("class", 0.4, False, EMPTY, EMPTY),
        ("near", 0.4, False, 3, 4),
        ("near", 0.5, False, IGNORE, 4),
        ("color", 0.1, False, 3, 4),
        ("color", 0.3, False, 3, UNKNOWN),
        ("color", 0.5, False, 3, MIXED),
        ("color", 0.5, True, 3, UNKNOWN),
    ],
)
def test_damage_changes_name_and_colour_of_a_label(kind: str, share: float, whole: bool, name: int, color: int) -> None:
    label = np.array([3, 0, 0, 48, 48, 4], np.float32)
    damage._relabel(label, kind, share, whole)
    assert (label[0], label[5]) == (name, color)


def test_near_codes_keep_the_tint_and_grounds_are_their_own() -> None:
    shapes = torch.arange(12.0)[:, None].expand(12, 4)
    near = near_codes(shapes)
    assert near.shape == (CODES + 12 * len(TINTS), 8)
    assert (near[:CODES] == np.arange(CODES)[:, None]).all()
    code = CODES + 5 * len(TINTS) + 3
    assert set(near[code][:2]) == {code - len(TINTS), code + len(TINTS)}
    assert ((near[CODES:] - CODES) % len(TINTS) == ((np.arange(CODES, len(near)) - CODES) % len(TINTS))[:, None]).all()


def test_boxes_move_with_a_shifted_image() -> None:
    images = np.zeros((8, SIDE, SIDE, 3), np.uint8)
    images[:, 40:90, 50:80] = 255
    labels = np.full((8, MOST, 6), EMPTY, np.float32)
    labels[:, 0] = (5, 50, 40, 80, 90, 0)
    changed, moved = augment(images, labels, np.random.default_rng(0), QUIET | {"shift": 1.0})
    assert len({tuple(rows[0, 1:3]) for rows in moved}) > 3
    for image, rows in zip(changed, moved, strict=True):
        x0, y0, x1, y1 = rows[0, 1:5].astype(int)
        assert image[y0:y1, x0:x1].min() == 255 and image.sum() == 3 * 255 * 50 * 30
        assert (rows[1:] == EMPTY).all()


def test_empty_images_show_nothing() -> None:
    images = np.full((64, SIDE, SIDE, 3), 90, np.uint8)
    labels = np.zeros((64, MOST, 6), np.float32)
    changed, rows = augment(images, labels, np.random.default_rng(0), QUIET | {"empty": 1.0})
    assert (rows == EMPTY).all()
    plain = [tuple(image[0, 0]) for image in changed if (image == image[0, 0]).all()]
    assert {(0, 0, 0), (255, 255, 255), (255, 0, 0)} <= set(plain) and 20 < len(plain) < 64


def test_strength_zero_changes_nothing() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    changed, _ = augment(images, np.zeros((4, MOST, 6), np.float32), np.random.default_rng(1), QUIET)
    assert (changed == images).all()


class Perfect(torch.nn.Module):
    """Stands for a network whose maps are the targets."""

    def __init__(self, targets: detector.Targets) -> None:
        super().__init__()
        self.heads = torch.nn.Conv2d(1, 1, 1)
        self.targets = targets

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        targets, at = self.targets, self.targets.cells
        assert pixels.shape[-2:] == (SIDE, SIDE)
        maps = [torch.zeros(*targets.centre.shape, size) for size in (len(OBJECT_NAMES), 4, len(COLORS) + 1)]
        maps[0][at] = 30 * torch.nn.functional.one_hot(targets.names, len(OBJECT_NAMES)).float()
        maps[1][at] = targets.boxes
        maps[2][at] = torch.nn.functional.one_hot(targets.colors, len(COLORS) + 1).float()
        return (targets.centre * 40 - 20, *maps)


@given(st.integers(0, 2**32 - 1))
def test_a_network_that_gives_the_targets_detects_what_the_labels_say(sampler: layouts.Sampler, seed: int) -> None:
    layout = sampler.layout(np.random.default_rng(seed))
    labels = sampler.labels(layout)
    labels[labels[:, 5] == UNKNOWN, 5] = MIXED
    targets = detector.make_targets(labels[None])
    perfect = IconDetector(Perfect(targets), DetectorConfig(image_size=SIDE))  # type: ignore[arg-type]
    seen = perfect.detect([Image.fromarray(sampler.draw(layout))])[0]
    results, best = calibration.match(seen, labels)
    assert min(best, default=1.0) > 0.99
    for detection, correct, index in results:
        if detection[4] > 0.5:
            assert correct and calibration.iou(detection, labels[index]) > 0.98
    expected = detector_report.truth(sampler, layout)
    strong = {name: [d for d in found if d[4] > 0.5] for name, found in seen.items()}
    assert {name: len(found) for name, found in expected.items()} == {
        name: len(found) for name, found in strong.items() if found
    }


def test_the_loss_leaves_ignored_objects_out() -> None:
    labels = np.full((1, MOST, 6), EMPTY, np.float32)
    labels[0, 0] = (IGNORE, 40, 40, 80, 80, 0)
    labels[0, 1] = (3, 100, 100, 148, 132, UNKNOWN)
    targets = detector.make_targets(labels)
    row, column = 116 // CELL, 124 // CELL
    assert [int(cell) for cell in targets.cells] == [0, row, column]
    assert targets.weight[0, 7, 7] == 0 and targets.weight[0, row, column] == 1 == targets.centre.sum()
    assert targets.boxes[0].tolist() == pytest.approx([0.0, 0.0, 0.0, math.log(32 / BOX_UNIT)], abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    maps = tuple(torch.randn(1, GRID * 2, GRID * 2, *size, generator=generator) for size in ((), (80,), (4,), (11,)))
    loss, figures = detector.detector_loss(maps, targets)  # type: ignore[arg-type]
    assert figures["colors"] == 0 and torch.isfinite(loss)
    maps[0][0, 7, 7] += 5
    assert detector.detector_loss(maps, targets)[0] == loss  # type: ignore[arg-type]


def test_platt_scaling_finds_the_probabilities() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 20000)
    correct = random.random(20000) < 1 / (1 + np.exp(-(1.5 * logits - 0.7)))
    points = [(1 / (1 + math.exp(-x)), bool(c)) for x, c in zip(logits, correct, strict=True)]
    assert calibration.fit_platt(points) == pytest.approx((1.5, -0.7), abs=0.06)


def test_float32_depthwise_convolutions_change_no_result() -> None:
    torch.manual_seed(0)
    network = DetectorNetwork(DetectorConfig(architecture="patches", widths=(8,), blocks=2))
    pixels = torch.randn(1, 3, 32, 32)
    expected = network(pixels)
    names = list(network.state_dict())
    detector.widen_depthwise(network)
    for ours, plain in zip(network(pixels), expected, strict=True):
        assert torch.equal(ours, plain)
    assert list(network.state_dict()) == names


def test_each_round_rises_and_falls_once_to_a_lower_peak() -> None:
    own = {"steps": 600, "warmup_steps": 100, "round_decay": 0.5}
    rates = [detector.round_rate(step, own) for step in range(1200)]
    assert rates[600:] == [rate / 2 for rate in rates[:600]] and max(rates) <= 1
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:600] == sorted(rates[top:600], reverse=True)


def test_pairs_are_judged_by_their_labels(sampler: layouts.Sampler) -> None:
    pairs, _ = detector_report.make_pairs(sampler, np.random.default_rng(0), 60)
    assert [pair.matching for pair in pairs] == [True] * 60 + [False] * 60
    assert {pair.kind for pair in pairs[60:]} == {"object", "count", "color", "relation"}
    for pair in pairs:
        assert apply_rules(detector_report.truth(sampler, pair.layout), pair.task).correct is pair.matching


def test_no_objects_are_counted_if_nothing_is_detected() -> None:
    network = DetectorNetwork(DetectorConfig(widths=(2, 2, 2), blocks=1))
    torch.nn.init.constant_(network.heads.bias[0], -50.0)
    assert detector_report.count_false_objects(IconDetector(network, network_config())) == 0


def network_config() -> DetectorConfig:
    return DetectorConfig(image_size=SIDE, widths=(2, 2, 2), blocks=1)


@pytest.fixture
def settings(tmp_path: Path) -> stage.Settings:
    """Return settings that make a detector in seconds."""
    small = stage.read_settings(into=tmp_path)
    small["vq"] |= {"codebook": CODES + 12 * len(TINTS), "rounds": 2, "latent_channels": 32, "embed_dim": 32}
    small["vq"] |= {"channel_multiplier": [1, 1, 1, 1, 1]}
    for name, own in small["critics"].items():
        own |= {"widths": (4, 4, 4) if name == "icons-detector" else (8,), "blocks": 1, "batch": 4, "steps": 2}
        own |= {"rounds": 2, "warmup_steps": 1, "chunk": 2, "coded_images": 4, "first_images": 2, "coded_from": 1}
        own |= {"grow_every": 2, "calibration_images": 2, "report_images": 2, "report_pairs": 2}
    return small


class Lossless(PixelCoder):
    """Stands for the VQ model's coders: loses nothing and takes no time."""

    step = 0

    def __init__(self, settings: stage.Settings, library: scenes.Library, folder: Path) -> None:
        super().__init__(layouts.Sampler(library))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["icons-detector", "icons-judge"])
def test_training_resumes_and_is_reported(
    name: str, settings: stage.Settings, library: scenes.Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (detector, detector_report, image_store):
        monkeypatch.setattr(module, "VqCoder", Lossless)
    for module in (calibration, detector_report, image_store):
        monkeypatch.setattr(module, "Encoded", lambda coder, sampler: coder)
    facts = layouts.icon_facts(library)  # once, not for every sampler
    monkeypatch.setattr(layouts, "icon_facts", lambda _: facts)
    monkeypatch.setattr(detector, "_SAVED_EVERY", 1)
    monkeypatch.setattr(image_store, "psnr", lambda coder, sampler: 0.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = detector.train(settings, name, library, library, whole)
    settings["critics"][name]["rounds"] = 1
    with monkeypatch.context() as killed:
        killed.setattr(detector, "calibrate", None)
        with pytest.raises(TypeError):
            detector.train(settings, name, library, library, parts)
    settings["critics"][name]["rounds"] = 2
    resumed = detector.train(settings, name, library, library, parts)
    for ours, other in zip(resumed.network.parameters(), first.network.parameters(), strict=True):
        torch.testing.assert_close(ours, other)
    assert resumed.config == first.config and first.config.image_size == SIDE
    figures = detector_report.report(settings, name, library, parts)
    assert set(calibration.KINDS) < figures.keys()
    assert {"rendered", "coded", "encoded"} < figures["pairs"].keys()


@pytest.mark.slow
def test_the_encoders_images_have_the_right_shape(
    settings: stage.Settings, sampler: layouts.Sampler, tmp_path: Path
) -> None:
    coder = VqCoder(settings, sampler.library, tmp_path)
    random = np.random.default_rng(0)
    made = [sampler.layout(random) for _ in range(2)]
    for made_by in (coder, Encoded(coder, sampler)):
        tokens = made_by.tokens(made)
        assert tokens.shape == (2, GRID, GRID) and tokens.dtype == np.int64 and tokens.max() < coder.number
        images = made_by.images(tokens)
        assert images.shape == (2, SIDE, SIDE, 3) and images.dtype == np.uint8
    scene_cells = np.zeros((GRID, GRID), bool)
    for icon in made[0].placed:
        scene_cells[icon.area] = True
    pasted = coder.tokens(made)[0]
    assert (pasted[~scene_cells] == made[0].codes()[~scene_cells]).all()
