"""The converted GenEval detector equals mmdet's network, written for tests without code of transformers."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from milr.cli.main import main
from milr.convert import CONVERTERS, geneval_detector
from milr.convert.checkpoint import read_checkpoint
from milr.convert.geneval_detector import UNUSED, carry, make_config, make_network, reorder_merging
from milr.errors import UsageError
from milr.rewards.geneval.detector import load_network
from milr.weights import CONVERSION, hash_file
from tests.support.mmdet_model import MmdetMask2Former, Shape

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Shape(
    width=8,
    depths=(2, 1, 2, 2),
    swin_heads=(1, 1, 2, 2),
    window=4,
    embed=32,
    heads=2,
    encoder_layers=2,
    encoder_hidden=48,
    decoder_layers=4,
    decoder_hidden=40,
    queries=10,
)
# 5 x 6 places at the coarsest stage: more than a window, and no multiple of it.
SIZE = (160, 192)


def tiny_config():
    from transformers import Mask2FormerConfig, SwinConfig

    backbone = SwinConfig(
        embed_dim=TINY.width,
        depths=list(TINY.depths),
        num_heads=list(TINY.swin_heads),
        window_size=TINY.window,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=TINY.embed,
        mask_feature_size=TINY.embed,
        hidden_dim=TINY.embed,
        encoder_feedforward_dim=TINY.encoder_hidden,
        dim_feedforward=TINY.decoder_hidden,
        encoder_layers=TINY.encoder_layers,
        decoder_layers=TINY.decoder_layers + 1,
        num_attention_heads=TINY.heads,
        num_queries=TINY.queries,
        num_labels=TINY.classes,
    )


@pytest.fixture(scope="module")
def mmdet() -> MmdetMask2Former:
    # In float64, so that the bound tests the mapping of weights and not the rounding.
    model = MmdetMask2Former(TINY).eval()
    model.randomise(0)
    return model.double()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(scope="module")
def expected(mmdet: MmdetMask2Former, pixels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return mmdet(pixels)


def differences(network, pixels: Tensor, expected: tuple[Tensor, Tensor]) -> tuple[float, float]:
    with torch.inference_mode():
        output = network.double()(pixel_values=pixels)
    found = (output.class_queries_logits, output.masks_queries_logits)
    assert [one.shape for one in found] == [one.shape for one in expected]
    classes, masks = ((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))
    return classes, masks


def test_the_converted_network_computes_what_mmdets_does(mmdet, pixels, expected) -> None:
    classes, masks = differences(make_network(mmdet.state_dict(), tiny_config()), pixels, expected)
    assert classes < 1e-4
    assert masks < 1e-4
    # The outputs are not equal because they are empty.
    assert expected[0].std() > 0.3
    assert 0.05 < (expected[1] > 0).float().mean() < 0.95


def as_mmdet_3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of mmdet 2.x -> those of 3.x."""

    def rename(key: str) -> str:
        own, cross = ("attentions.1", "attentions.0") if "transformer_decoder" in key else ("attentions.0", "none")
        return key.replace(own, "self_attn").replace(cross, "cross_attn").replace("ffns.0", "ffn")

    return {rename(key): tensor for key, tensor in state.items()}


def test_the_names_of_mmdet_3_are_known_too(mmdet, pixels, expected) -> None:
    renamed = as_mmdet_3(mmdet.state_dict())
    assert len(renamed.keys() - mmdet.state_dict().keys()) == 2 * 12 + 4 * 12
    assert max(differences(make_network(renamed, tiny_config()), pixels, expected)) < 1e-4


def test_the_names_of_mmdet_3_match_its_network() -> None:
    with torch.device("meta"):
        source = as_mmdet_3(MmdetMask2Former(Shape()).state_dict())
        there = {key: list(tensor.shape) for key, tensor in source.items()}
        assert [key for key, tensor in source.items() if carry(key, tensor) is None] == []
    # Hash of names and shapes in mmdet 3.3.0's own network, from mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py.
    assert hashlib.sha256(json.dumps(there, sort_keys=True).encode()).hexdigest()[:16] == "2fbf60cc29126549"


def test_a_weight_under_both_names_is_refused(mmdet: MmdetMask2Former) -> None:
    state = mmdet.state_dict()
    with pytest.raises(UsageError, match="88 weights that two keys fill: "):
        make_network({**state, **as_mmdet_3(state)}, tiny_config())


def test_the_converted_network_needs_the_reordering_of_patch_merging(monkeypatch, mmdet, pixels, expected) -> None:
    monkeypatch.setattr(geneval_detector, "reorder_merging", lambda tensor: tensor)
    classes, _ = differences(make_network(mmdet.state_dict(), tiny_config()), pixels, expected)
    assert classes > 0.1


def test_patch_merging_weights_are_put_in_transformers_order() -> None:
    # Named c, dy, dx on mmdet's side; transformers joins four maps: (0, 0), (1, 0), (0, 1), (1, 1) of dy, dx.
    mmdet_order = torch.tensor([0, 1, 10, 11, 100, 101, 110, 111])
    assert reorder_merging(mmdet_order).tolist() == [0, 100, 10, 110, 1, 101, 11, 111]
    matrix = torch.stack([mmdet_order, mmdet_order + 1000])
    assert reorder_merging(matrix)[1].tolist() == [1000, 1100, 1010, 1110, 1001, 1101, 1011, 1111]


@pytest.mark.slow
def test_every_key_of_the_full_size_network_is_mapped() -> None:
    from transformers import Mask2FormerForUniversalSegmentation

    with torch.device("meta"):
        source = MmdetMask2Former(Shape()).state_dict()
        live = Mask2FormerForUniversalSegmentation(make_config()).state_dict()
    assert len(source) == 649
    carried = {key: carry(key, tensor) for key, tensor in source.items()}
    assert [key for key, names in carried.items() if names is None] == []
    assert sum(not names for names in carried.values()) == 24  # index buffers
    mapped = {name: tensor for names in carried.values() for name, tensor in (names or {}).items()}
    assert len(mapped) == 757
    assert live.keys() - mapped.keys() == set(UNUSED)
    assert mapped.keys() - live.keys() == set()
    assert {name for name, tensor in mapped.items() if tensor.shape != live[name].shape} == set()


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmdet: MmdetMask2Former) -> Path:
    """Write the tiny network as a file in mmdet's form, which the converter accepts as the official one."""
    path = tmp_path / "tiny.pth"
    torch.save({"meta": {"CLASSES": ("person", "cat"), "epoch": 50}, "state_dict": mmdet.state_dict()}, path)
    monkeypatch.setattr(geneval_detector, "make_config", tiny_config)
    monkeypatch.setattr(geneval_detector, "SOURCES", {hash_file(path)[:8]: "the tiny one"})
    return path


@pytest.mark.slow
def test_a_checkpoint_is_converted_to_a_folder(checkpoint: Path, tmp_path: Path, pixels, expected, capsys) -> None:
    target = tmp_path / "detector"
    assert main(["convert", "geneval-detector", str(checkpoint), str(target)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"made {target}"
    assert max(differences(load_network(target).eval(), pixels, expected)) < 1e-4
    record = json.loads((target / CONVERSION).read_text())
    assert record["source_sha256"] == hash_file(checkpoint)
    assert record["files"] == {name: hash_file(target / name) for name in ("config.json", "model.safetensors")}
    assert main(["convert", "geneval-detector", str(checkpoint), str(target)]) == 2
    assert "nothing was overwritten" in capsys.readouterr().err


def test_the_folder_is_found_by_default(checkpoint: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path / "weights"))
    assert main(["convert", "geneval-detector", str(checkpoint)]) == 0
    assert (tmp_path / "weights" / "geneval-detector" / "model.safetensors").is_file()


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), SafetensorError("No space left on device")])
def test_a_folder_that_cannot_be_written_is_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch, capsys, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("transformers.Mask2FormerForUniversalSegmentation.save_pretrained", fail)
    assert main(["convert", "geneval-detector", str(checkpoint), str(tmp_path / "detector")]) == 2
    said = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'detector'} (" in said
    assert "Read-only file system" in said or "No space left on device" in said
    assert not (tmp_path / "detector").exists()


def test_a_file_of_unknown_hash_is_refused_without_any_hash(
    checkpoint: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(geneval_detector, "SOURCES", {"743b7d99": "one", "c9d0c4f2": "the other"})
    command = ["convert", "geneval-detector", str(checkpoint), str(tmp_path / "detector")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "begins with 743b7d99 or c9d0c4f2" in said
    assert "--any-hash" in said
    assert not (tmp_path / "detector").exists()
    assert main([*command, "--any-hash"]) == 0


def test_the_official_hashes_are_openmmlabs() -> None:
    assert [(start, title[:30]) for start, title in geneval_detector.SOURCES.items()] == [
        ("743b7d99", "OpenMMLab's file for mmdet 2.x"),
        ("c9d0c4f2", "OpenMMLab's file for mmdet 3.x"),
    ]


def test_unknown_and_missing_keys_are_named(mmdet: MmdetMask2Former) -> None:
    state = dict(mmdet.state_dict())
    del state["panoptic_head.cls_embed.bias"]
    state["panoptic_head.surprise.weight"] = torch.zeros(1)
    with pytest.raises(UsageError) as error:
        make_network(state, tiny_config())
    assert "1 keys that the map does not know: panoptic_head.surprise.weight" in str(error.value)
    assert "1 weights that the checkpoint lacks: class_predictor.bias" in str(error.value)


def test_weights_of_another_shape_are_named(mmdet: MmdetMask2Former) -> None:
    state = {**mmdet.state_dict(), "panoptic_head.cls_embed.bias": torch.zeros(134)}
    with pytest.raises(UsageError, match=r"class_predictor.bias \(134,\) for \(81,\)"):
        make_network(state, tiny_config())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": Evil()}, path)
    with pytest.raises(UsageError, match=r"no checkpoint of tensors and plain values: it asks for \w+\.mkdir"):
        read_checkpoint(path, "", any_hash=True)
    assert not Path("evil").exists()


@pytest.mark.parametrize("content", [b"", b"abc", b"not a checkpoint", b"PK\x03\x04", b"\x80\x02"])
def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="file.pth"):
        read_checkpoint(path, "", any_hash=True)


def test_the_file_format_before_torch_1_6_is_read(tmp_path: Path) -> None:
    # OpenMMLab's publishing script asks for it.
    path = tmp_path / "file.pth"
    content = {"meta": {"CLASSES": ("person",), "seed": None}, "state_dict": torch.nn.Linear(2, 1).state_dict()}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert list(read_checkpoint(path, "", any_hash=True)) == ["weight", "bias"]


def test_a_checkpoints_tensors_are_found_under_either_name(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    for saved in ({"model": {"a": torch.ones(2)}}, {"state_dict": {"a": torch.ones(2)}, "x": 1}, {"a": torch.ones(2)}):
        torch.save(saved, path)
        assert read_checkpoint(path, "", any_hash=True)["a"].tolist() == [1, 1]
    torch.save({"state_dict": {"a": 1}}, path)
    with pytest.raises(UsageError, match="holds no state dict"):
        read_checkpoint(path, "", any_hash=True)


def test_the_converter_is_found_by_its_name() -> None:
    assert "geneval-detector" in CONVERTERS
    assert main(["convert", "geneval-detecter", "file", "out"]) == 2
