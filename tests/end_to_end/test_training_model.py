"""The unified model: rotary positions, tables of codes, its training from phase to phase."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import JanusForConditionalGeneration, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.support.icon_world import (
    CODEBOOK,
    draw_first_code,
    make_bank,
    make_library,
    make_model,
    make_tokenizer,
    make_world,
    shrink,
)
from tests.support.paths import ROOT
from training import stage, unified
from training.codebook import TINTS
from training.export import own_settings
from training.feeder import Feeder
from training.grounds import CODES, GRID
from training.model import (
    Factored,
    build_model,
    factor,
    multiply_out,
    raster_rotation,
    tables_of_codes,
    to_bfloat16,
    trainable,
)
from training.optimiser import Masters, Optimiser, schedule
from training.probes import Probes

pytestmark = pytest.mark.usefixtures("one_thread")


def test_raster_lines_have_their_own_wavelengths() -> None:
    settings = stage.read_settings()
    width = settings["model"]["width"] // settings["model"]["heads"]
    config = LlamaConfig(hidden_size=64, num_attention_heads=1, head_dim=width, rope_parameters=raster_rotation(width))
    turning = LlamaRotaryEmbedding(config)
    found = [2 * torch.pi / float(frequency) for frequency in turning.inv_freq]
    for wanted in (5, 10, 40, 80, 160):
        assert any(length == pytest.approx(wanted, rel=1e-5) for length in found)
    cosine, _ = turning(torch.zeros(1), torch.tensor([[3, 3 + GRID]]))
    assert turning.attention_scaling == 1.0
    same = (cosine[0, 0] - cosine[0, 1]).abs() < 1e-5
    assert same[:4].tolist() == [True, False, True, False], "a half and the whole of a line"


def test_rotary_frequencies_stay_exact_in_training() -> None:
    """Rounded frequencies would rotate positions differently from the loaded model."""
    model = to_bfloat16(make_model())
    assert model.dtype == torch.bfloat16
    assert model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_code_that_was_never_shown_learns_from_its_shape_and_its_tint() -> None:
    tints, shapes = len(TINTS), 5
    parts = Factored()
    torch.manual_seed(0)
    made = [torch.randn(number, 3, requires_grad=True) for number in (CODES, shapes, tints)]
    table = parts(*made)
    assert table.shape == (CODES + shapes * tints, 3)
    assert torch.equal(table[CODES + 2 * tints + 7], made[1][2] + made[2][7])
    again = parts(*parts.right_inverse(table.detach()))
    assert torch.allclose(again, table, atol=1e-6)
    # Training shows shape 2 in tint 3 and shape 4 in tint 7, but not shape 2 in tint 7.
    (table[CODES + 2 * tints + 3] + table[CODES + 4 * tints + 7]).sum().backward()
    with torch.no_grad():
        moved = parts(*(part + part.grad for part in made if part.grad is not None)) - table
    assert moved[CODES + 2 * tints + 7].tolist() == [2, 2, 2]
    assert not moved[CODES + 3 * tints + 8].any()


def codes_in(table: torch.nn.Module) -> torch.Tensor:
    """Return the rows of a table of codes."""
    weight = table.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach()


def test_tables_of_codes_are_plain_where_they_are_shipped() -> None:
    model = make_model()
    plain = [name for name, _ in model.named_parameters()]
    factor(model)
    sums = [codes_in(table).clone() for table in tables_of_codes(model)]
    assert all(len(table) == CODEBOOK for table in sums)
    assert [name for name, _ in model.named_parameters()] != plain
    multiply_out(model)
    assert sorted(name for name, _ in model.named_parameters()) == sorted(plain)
    for table, weight in zip(tables_of_codes(model), sums, strict=True):
        assert torch.equal(codes_in(table), weight)


def test_codes_with_equal_initial_vectors_are_predicted_equally() -> None:
    settings = shrink(stage.read_settings())
    codes = torch.nn.functional.normalize(torch.randn(CODEBOOK, settings["vq"]["embed_dim"]), dim=-1)
    codes[5] = codes[6]
    embeddings, head = map(codes_in, tables_of_codes(build_model(settings, make_tokenizer(), codes)))
    assert torch.equal(embeddings, codes)
    assert torch.allclose(head[5], head[6]) and not torch.allclose(head[4], head[6])


def test_the_vq_model_is_not_trained_and_muon_has_the_hidden_matrices() -> None:
    model = make_model()
    names = trainable(model)
    assert names and not any("vqmodel" in name for name in names)
    masters = Masters(names)
    own = Optimiser(masters, Probes(32), {"learning_rate": 1e-3})
    hidden = {id(p) for group in own.parts["muon"].param_groups for p in group["params"]}
    rest = {id(p) for group in own.parts["adamw"].param_groups for p in group["params"]}
    for name, master in masters.named():
        assert (id(master) in hidden) == (".layers." in name and master.ndim == 2) != (id(master) in rest)


def test_master_weights_are_averaged_and_written_back() -> None:
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    masters = Masters({"weight": weight})
    with torch.no_grad():
        masters.masters[0].fill_(3.0)
    masters.give_back(0.5)
    assert weight.tolist() == [3, 3] and masters.averages[0].tolist() == [2, 2]
    with masters.averaged():
        assert weight.tolist() == [2, 2]
    assert weight.tolist() == [3, 3] and masters.averages[0].tolist() == [2, 2]


def test_only_the_last_phase_is_examined_and_its_learning_rate_has_fallen() -> None:
    settings = stage.read_settings()["unified"]
    *others, last = unified.phases(settings)
    assert last["examined_every"] and not any(phase["examined_every"] for phase in others)
    assert others[-1]["until"] == settings["decayed_at"]
    assert schedule(last["until"] - 1, last) == last["lowest_rate"] < 1 == schedule(1000, others[0])
    ends = [phase["until"] for phase in (*others, last)]
    assert ends == sorted(set(ends))


def test_only_phases_after_the_vision_tower_was_trained_use_images() -> None:
    own = list(unified.phases(stage.read_settings()["unified"]))
    looks = [phase["looking_at"] == "images" and bool(phase["looking_every"]) for phase in own]
    sees = [bool(phase["seeing_every"]) for phase in own]
    assert looks.index(True) > sees.index(True)
    assert all(phase["looking_at"] == "words" for phase in own[: sees.index(True)])


def make_settings(folder: Path, phases: int) -> dict[str, Any]:
    """Return settings of so many phases of two steps, with a tiny model and tiny batches."""
    settings = shrink(stage.read_settings(into=folder))
    own = settings["unified"]
    own |= {"reasoning_batch": 1, "checking_batch": 1, "looking_batch": 2, "seeing_batch": 2, "questions": 1}
    own |= {"described": 0.0, "decoded_images": 4, "decoded_chunk": 2, "examined": 1, "texts_wanted": 2.0}
    own["phases"] = own["phases"][:phases]
    for number, phase in enumerate(own["phases"], 1):
        phase |= {"until": 2 * number}
    for each in (own, *own["phases"]):
        if "drawings" in each:
            each["drawings"] = [kind | {"batch": 1} for kind in each["drawings"]]
    return settings


@pytest.mark.slow
def test_training_resumes_from_its_last_phase_and_ships_its_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unified, "LOGGED_EVERY", 1)
    worlds: list[int] = []

    def open_feeder(world: dict[str, Any], seed: int) -> Feeder:
        worlds.append(seed)
        return Feeder(make_world(seed, **world), make_tokenizer(), make_bank(), make_library(), draw_first_code)

    def train(phases: int) -> list[str]:
        settings = make_settings(tmp_path, phases)
        codes = torch.nn.functional.normalize(torch.randn(CODEBOOK, settings["vq"]["embed_dim"]), dim=-1)
        unified.train(settings, make_tokenizer(), open_feeder, codes, tmp_path)
        assert stage.Checkpoint(tmp_path / "unified.pt").step() == settings["unified"]["phases"][-1]["until"]
        return [line.split()[2] for line in capsys.readouterr().err.splitlines() if " unified " in line]

    every = len(stage.read_settings()["unified"]["phases"])
    assert train(1) == ["step=1", "step=2"] and len(set(worlds)) == 1
    assert train(every) == [f"step={step}" for step in range(3, 2 * every + 1)]
    assert len(set(worlds)) >= every, "every phase has worlds of its own"
    settings = make_settings(tmp_path, every)
    stored = torch.load(tmp_path / "unified.pt", weights_only=True)["masters"]
    model = unified.load(settings, make_tokenizer(), tmp_path)
    shipped = copy.deepcopy(dict(model.named_parameters()))
    assert model.dtype == torch.bfloat16 and not model.training
    assert not any("parametrizations" in name for name in shipped)
    names = list(trainable(_factored(settings)))
    average = stored[f"averages.{names.index('lm_head.weight')}"]
    assert torch.equal(shipped["lm_head.weight"], average.bfloat16())


def _factored(settings: dict[str, Any]) -> JanusForConditionalGeneration:
    model = build_model(settings, make_tokenizer())
    factor(model)
    return model


@pytest.mark.parametrize("size", [None, "small"])
def test_the_recipe_writes_the_shipped_models_own_settings(size: str | None) -> None:
    settings = stage.read_settings(size=size)
    shipped = ROOT / settings["export"]["folder"] / "milr.json"
    assert own_settings(settings) == json.loads(shipped.read_text())
