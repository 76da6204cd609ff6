"""The codebook of grounds, shapes and tints, and the VQ model around it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.janus.modeling_janus import JanusVQVAE

from milr.models.vq_decoder import leave_out_idle_blocks
from milr.tasks import OBJECT_NAMES
from training import codebook, grounds, scenes, stage, vq
from training.codebook import TINTS
from training.grounds import CODES, GRID, TOKEN
from training.icons import COLORS, Icon, choose_variants

SHAPES = 6


def make_icon(shade: int, color: tuple[int, int, int], opaque: int, side: int = 48) -> np.ndarray:
    """Return a tinted RGBA icon with shaded left columns; the rest is empty."""
    icon = np.zeros((side, side, 4), np.uint8)
    icon[:opaque, :20, :3], icon[:opaque, :20, 3] = [round(shade / 255 * part) for part in color], 255
    return icon


@pytest.fixture
def painted() -> scenes.Library:
    """Return two icons of different shade and form, in both styles and sizes and every tint."""
    tints = {"natural": (200, 100, 50), **COLORS}
    return {
        (name, variant, tint, size): make_icon(shade, color, opaque - 4 * variant, TOKEN * side)
        for name, shade, opaque in (("cat", 255, 16), ("dog", 120, 40))
        for variant in range(len(scenes.STYLES))
        for tint, color in tints.items()
        for size, side in scenes.SIZES.items()
    }


def shrink(folder: Path) -> stage.Settings:
    """Return settings of a small VQ model."""
    settings = stage.read_settings(into=folder)
    settings["vq"] |= {"codebook": CODES + SHAPES * len(TINTS), "rounds": 5, "latent_channels": 32, "batch": 1}
    settings["vq"] |= {"channel_multiplier": [1] * 5, "decoder_steps": 2, "encoder_steps": 2}
    return settings


def test_a_token_is_a_shape_in_a_tint(painted: scenes.Library, tmp_path: Path) -> None:
    settings = shrink(tmp_path)
    shapes = codebook.learn_shapes(settings, painted)
    assert torch.equal(shapes, codebook.learn_shapes(settings, painted)), "kept"
    bank = codebook.build_bank(shapes, painted)
    assert bank.keys() == painted.keys()
    for (_, _, tint, _), grid in bank.items():
        shown = grid[grid != scenes.AIR]
        assert (shown >= CODES).all() and (shown < settings["vq"]["codebook"]).all()
        assert {TINTS[(code - CODES) % len(TINTS)] for code in shown.tolist()} == {tint}
        assert (grid[:, 2:] == scenes.AIR).all(), "nothing stands in the last columns"
    for name in ("cat", "dog"):
        forms = {((bank[name, 0, t, "small"] - CODES) // len(TINTS)).tobytes() for t in TINTS}
        assert len(forms) == 1, "the same shapes in every tint"
    assert not np.array_equal(bank["cat", 0, "red", "small"], bank["dog", 0, "red", "small"])
    assert not np.array_equal(bank["cat", 0, "red", "small"], bank["cat", 1, "red", "small"])


def test_the_codebook_has_room_for_grounds_and_whole_shapes() -> None:
    assert (stage.read_settings()["vq"]["codebook"] - CODES) % len(TINTS) == 0
    kept = np.load("training/shapes.npy")
    assert CODES + len(kept) * len(TINTS) == stage.read_settings()["vq"]["codebook"]


def test_codes_of_one_tint_or_shape_are_nearer_than_others() -> None:
    shapes = torch.rand(40, 512, generator=torch.Generator().manual_seed(0))
    vectors = codebook.code_vectors(shapes, 32)
    tints = len(TINTS)
    assert vectors.shape == (CODES + 40 * tints, 32)
    assert vectors.norm(dim=-1).allclose(torch.ones(len(vectors)))
    red_first, blue_first, red_second, blue_second = (CODES + at for at in (1, 5, tints + 1, tints + 5))
    near = vectors @ vectors.T
    assert near[red_first, blue_first] > near[red_first, blue_second]
    assert near[red_first, red_second] > near[red_first, blue_second]
    near.fill_diagonal_(-1)
    assert near[:CODES].max() < 0.8, "grounds are well apart from each other and from shapes"


@given(st.integers(0, 2**32 - 1))
def test_pixels_and_tokens_of_random_scenes_agree(seed: int) -> None:
    tints = ("natural", *COLORS)
    library = {
        (name, 0, tint, size): np.full((TOKEN * side, TOKEN * side, 4), 255, np.uint8)
        for name in ("cat", "dog")
        for tint in tints
        for size, side in scenes.SIZES.items()
    }
    bank = {key: np.full((len(icon) // TOKEN,) * 2, CODES + TINTS.index(key[2])) for key, icon in library.items()}
    pixels, tokens, front = vq.random_scenes(library, bank, np.random.default_rng(seed), 2)
    assert pixels.shape == (2, GRID * TOKEN, GRID * TOKEN, 3) and tokens.shape == (2, GRID, GRID)
    for image, grid, weight in zip(pixels, tokens, front, strict=True):
        plain = grid < CODES
        expected = grounds.ground_pixels(np.where(plain, grid, 0))
        shown = np.kron(plain, np.ones((TOKEN, TOKEN))) > 0
        assert np.array_equal(image[shown], expected[shown]) and not weight[shown].any()
        assert (image[~shown] == 255).all()


def test_random_scenes_are_full_of_objects_of_both_sizes() -> None:
    random = np.random.default_rng(0)
    covered = np.zeros(200)
    sizes = set[str]()
    for scene in range(len(covered)):
        cells = np.zeros((GRID, GRID), int)
        for size, top, left in vq.place_objects(random, GRID * GRID):
            cells[top : top + scenes.SIZES[size], left : left + scenes.SIZES[size]] += 1
            sizes.add(size)
        assert cells.max() == 1
        covered[scene] = cells.mean()
    assert covered.mean() > 0.65 and sizes == set(scenes.SIZES)


@pytest.mark.slow
def test_blocks_that_are_switched_off_stay_off_and_milr_leaves_them_out(
    painted: scenes.Library, tmp_path: Path
) -> None:
    settings = shrink(tmp_path)
    shapes = codebook.learn_shapes(settings, painted)
    network = vq.train(settings, painted, shapes, codebook.build_bank(shapes, painted), tmp_path)
    assert vq.is_finished(settings, tmp_path) and not vq.is_finished(settings, tmp_path / "elsewhere")
    loaded, step = vq.load(settings, tmp_path)
    assert step == settings["vq"]["decoder_steps"]
    tokens = torch.randint(settings["vq"]["codebook"], (1, 4, 4))
    with torch.no_grad():
        drawn = network.decode(tokens)
        assert torch.equal(drawn, loaded.decode(tokens))
        shipped = JanusVQVAE(vq.vq_config(settings)).eval()
        shipped.load_state_dict(loaded.model.state_dict())
        off = sum(2 - kept for kept in settings["vq"]["decoder_blocks"])
        assert leave_out_idle_blocks(shipped.decoder) >= off + 3, "three attention blocks"
        vq.scale_residuals(shipped, vq.SHIPPED_SCALE)
        vectors = loaded.codes()[tokens].permute(0, 3, 1, 2).contiguous()
        torch.testing.assert_close(shipped.decoder(shipped.post_quant_conv(vectors)), drawn, rtol=1e-3, atol=1e-3)


def test_a_block_that_changes_channels_cannot_be_switched_off(tmp_path: Path) -> None:
    settings = shrink(tmp_path)
    settings["vq"] |= {"channel_multiplier": [1, 2], "decoder_blocks": [2, 0]}
    with pytest.raises(ValueError, match="cannot be switched off"):
        vq.build(settings)


@torch.no_grad()
def test_shipped_scale_draws_and_encodes_as_training_does() -> None:
    """The classes of transformers, with an epsilon of 1e-6 in GroupNorm, give the results of training's classes."""
    settings = stage.read_settings()
    settings["vq"] |= {"codebook": 64, "channel_multiplier": [1, 1], "latent_channels": 16}
    torch.manual_seed(0)
    ours = vq.build(settings).eval()
    for parameter in ours.parameters():  # residual blocks start with zero weights: randomise them
        if parameter.requires_grad and parameter.ndim == 4:
            parameter.add_(0.05 * torch.randn_like(parameter))
    shipped = JanusVQVAE(vq.vq_config(settings)).eval()
    shipped.load_state_dict(ours.model.state_dict())
    codes, pixels = torch.randint(64, (2, GRID, GRID)), torch.rand(2, 3, 20, 20)
    vectors = ours.codes()[codes].permute(0, 3, 1, 2).contiguous()
    drawn, seen = ours.decode(codes), ours.model.encoder(pixels)
    assert not torch.allclose(shipped.decoder(shipped.post_quant_conv(vectors)), drawn, atol=1e-2)
    vq.scale_residuals(shipped, vq.SHIPPED_SCALE)
    torch.testing.assert_close(shipped.decoder(shipped.post_quant_conv(vectors)), drawn, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shipped.encoder(pixels), seen, rtol=1e-3, atol=1e-4)


def test_every_class_has_an_icon_of_each_style_and_the_detectors_icons_begin_with_them() -> None:
    """Read the table alone: the icons' packages are not installed in tests."""
    own = stage.read_settings()["icons"]
    with Path(own["csv"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen: dict[str, dict[str, list[Icon]]] = {}
    for library, kind in own["libraries"].items():
        sets = kind["sets"]
        for name in OBJECT_NAMES:
            usable = [row for row in rows if row["class"] == name and row["iconify_set"] in sets]
            usable.sort(key=lambda row: sets.index(row["iconify_set"]))
            icons = [Icon(name, f"{row['iconify_set']}/{row['icon']}", "") for row in usable]
            chosen.setdefault(library, {})[name] = choose_variants(icons, kind["variants"])
    for name in OBJECT_NAMES:
        drawn = chosen["generator"][name]
        assert len(drawn) == len(scenes.STYLES) and chosen["judge"][name][: len(drawn)] == drawn
