"""BLIP from checkpoint to answer, compared with a BLIP in plain PyTorch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from milr.convert import blip_vqa, convert
from milr.errors import UsageError
from milr.rewards.compbench.blip_vqa import NO, YES, BlipVqa, clean_question, make_questions, multiply
from milr.rewards.compbench.prompts import CATEGORIES, Analysis, analyse
from milr.rewards.compbench.weights import describe_blip
from tests.support.compbench_weights import VOCABULARY, make_blip_config, write_bert_vocabulary
from tests.support.plain_blip import PlainBlip

QUESTIONS = ("a red bench?", "the small plastic toy of a dog?", "cat?", "a red bench?")


@pytest.fixture(scope="module")
def plain() -> PlainBlip:
    torch.manual_seed(0)
    model = PlainBlip(width=16, layers=2, heads=2, side=32, patch=8, words=VOCABULARY + 2, places=64).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than the default, so that answers differ from 0.5
            parameter.mul_(2.0)
    return model


@pytest.fixture(scope="module")
def folder(plain: PlainBlip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert as a user does, at a small size."""
    root = tmp_path_factory.mktemp("blip")
    torch.save({"model": plain.state_dict()}, root / "model.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blip_vqa, "make_config", make_blip_config)
        convert("blip-vqa", root / "model.pth", root / "converted")
    write_bert_vocabulary(root / "converted")
    return root / "converted"


@pytest.fixture(scope="module")
def blip(folder: Path) -> BlipVqa:
    return BlipVqa.from_folder(folder)


def photograph() -> Image.Image:
    data = pytest.importorskip("skimage.data", reason="scikit-image has the photographs: milr[dev]")
    return Image.fromarray(data.astronaut())


def test_the_official_size_maps_with_none_missing_and_none_left_over() -> None:
    from transformers import BlipForQuestionAnswering

    with torch.device("meta"):
        source = PlainBlip(width=768, layers=12, heads=12, side=480, patch=16, words=30524, places=512).state_dict()
        target = BlipForQuestionAnswering(blip_vqa.make_config()).state_dict()
    carried: dict[str, torch.Size] = {}
    for key, tensor in source.items():
        renamed = blip_vqa.carry(key, tensor)
        assert renamed is not None, key
        carried |= {name: value.shape for name, value in renamed.items()}
    assert carried == {name: value.shape for name, value in target.items()}
    assert len(source) - len(carried) == 2  # both tables of position numbers
    assert target["vision_model.embeddings.position_embedding"].shape == (1, 901, 768)


def test_the_official_config_has_blips_settings() -> None:
    config = blip_vqa.make_config()
    assert config.text_config.num_attention_heads == 12
    assert config.vision_config.num_attention_heads == 12
    assert config.vision_config.layer_norm_eps == 1e-6
    assert config.vision_config.image_size == 480
    assert config.text_config.bos_token_id == 30522


def test_keys_unknown_or_missing_are_named(plain: PlainBlip) -> None:
    state = plain.state_dict()
    with pytest.raises(UsageError, match=r"does not know: itm_head\.weight"):
        blip_vqa.make_network({**state, "itm_head.weight": torch.zeros(2)}, make_blip_config())
    short = {key: tensor for key, tensor in state.items() if key != "visual_encoder.blocks.1.attn.qkv.weight"}
    with pytest.raises(UsageError, match=r"lacks: vision_model\.encoder\.layers\.1\.self_attn\.qkv\.weight"):
        blip_vqa.make_network(short, make_blip_config())
    with pytest.raises(UsageError, match="another shape"):
        blip_vqa.make_network({**state, "visual_encoder.cls_token": torch.zeros(1, 1, 8)}, make_blip_config())


def test_a_conversion_is_not_overwritten(folder: Path, plain: PlainBlip, tmp_path: Path) -> None:
    torch.save({"model": plain.state_dict()}, tmp_path / "model.pth")
    with pytest.raises(UsageError, match="exists"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(blip_vqa, "make_config", make_blip_config)
        convert("blip-vqa", tmp_path / "model.pth", folder)


def test_answers_equal_those_of_the_original_padded_and_masked_model(plain: PlainBlip, blip: BlipVqa) -> None:
    """Our questions are grouped by length without padding; the plain model has one padded, masked batch."""
    picture = photograph()
    small = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = torch.from_numpy((small - np.float32(mean)) / np.float32(deviation)).permute(2, 0, 1)[None]
    ids = [[VOCABULARY + 1, *blip.tokenizer(question)["input_ids"][1:]] for question in QUESTIONS]
    longest = max(map(len, ids))
    assert len({len(one) for one in ids}) == 3
    padded = torch.tensor([one + [0] * (longest - len(one)) for one in ids])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids])
    with torch.inference_mode():
        expected = plain.answer(pixels.expand(len(ids), -1, -1, -1), padded, mask, VOCABULARY, YES, NO).tolist()
    found = blip.answer([picture], [QUESTIONS])[0]
    assert found == pytest.approx(expected, abs=6e-5)  # four decimals
    assert max(found) - min(found) > 0.01
    assert found[0] == found[3]


def test_a_batch_equals_single_calls(blip: BlipVqa) -> None:
    pictures = [photograph(), Image.new("RGB", (7, 90), "red"), photograph().rotate(90)]
    asked = [QUESTIONS, QUESTIONS[1:2], ("a blue bowl?", "dog?")]
    together = blip.answer(pictures, asked)
    for picture, questions, answers in zip(pictures, asked, together, strict=True):
        assert answers == pytest.approx(blip.answer([picture], [questions])[0], abs=1e-4)
        assert [blip.answer([picture], [[question]])[0][0] for question in questions] == pytest.approx(
            answers, abs=1e-4
        )
    assert blip.answer(pictures, [(), (), ()]) == [[], [], []]


def test_the_number_of_heads_changes_the_answers(plain: PlainBlip, blip: BlipVqa) -> None:
    """With transformers' default number of heads, the same weights give other answers."""
    config = make_blip_config()
    config.text_config.num_attention_heads = 4
    wrong = BlipVqa(blip_vqa.make_network(plain.state_dict(), config), blip.tokenizer)
    assert wrong.answer([photograph()], [QUESTIONS])[0] != pytest.approx(
        blip.answer([photograph()], [QUESTIONS])[0], abs=1e-3
    )


def test_untied_matrices_survive(plain: PlainBlip, folder: Path) -> None:
    from safetensors.torch import load_file

    saved = load_file(folder / "model.safetensors")
    head = saved["text_decoder.cls.predictions.decoder.weight"]
    assert torch.equal(head, plain.state_dict()["text_decoder.cls.predictions.decoder.weight"])
    assert not torch.equal(head, saved["text_decoder.bert.embeddings.word_embeddings.weight"])


def test_kinds_of_folders_are_recognised(folder: Path, tmp_path: Path) -> None:
    converted = describe_blip(folder)
    assert not converted.is_official  # 32 pixels
    assert "model.pth at 32 px" in converted.title
    text = (folder / "config.json").read_text().replace('"image_size": 32', '"image_size": 480')
    (tmp_path / "config.json").write_text(text)
    assert describe_blip(tmp_path).title == "hub copy at 480 px"
    assert not describe_blip(tmp_path).is_official
    (tmp_path / "conversion.json").write_text((folder / "conversion.json").read_text())
    assert describe_blip(tmp_path).is_official
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="doctor"):
        describe_blip(tmp_path)


def test_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nyes\nno\n")
    with pytest.raises(UsageError, match="bert-base-uncased"):
        BlipVqa.from_folder(tmp_path)
    with pytest.raises(UsageError, match="milr convert blip-vqa"):
        BlipVqa.from_folder(tmp_path / "nothing")


# --- questions ---


def test_questions_are_noun_phrases_with_a_question_mark() -> None:
    phrases = ("a green bench", "the left", "a blue bowl", "top", "the top", "the side", "the right")
    analysis = Analysis("by hand", (), phrases, "by hand")
    assert make_questions(analysis) == ("a green bench?", "a blue bowl?", "the top?")
    many = Analysis("by hand", (), ("the left", *(f"thing {i}" for i in range(10))), "by hand")
    assert make_questions(many) == tuple(f"thing {i}?" for i in range(8))


@pytest.mark.parametrize(
    ("question", "cleaned"),
    [
        ("The Red Hat?", "the red hat?"),
        ('a "big", (small) dog*#:;~!.?', "a big, small dog?"),
        ("a man's half-open door?", "a man's half-open door?"),
        ("The big, round, red ball?", "the big, round, red ball?"),  # `pre_question` keeps commas
        (" ".join(["word"] * 60), " ".join(["word"] * 50)),
        ("", ""),
    ],
)
def test_questions_are_cleaned_as_blips_data_set_does(question: str, cleaned: str) -> None:
    assert clean_question(question) == cleaned


def test_questions_with_commas_keep_them(shared_data: Path) -> None:
    """Commas are in 72 questions of the official prompts: 5 of 5 colour prompts, 67 of 64 complex ones."""
    questions, prompts = Counter[str](), Counter[str]()
    for category in CATEGORIES:
        lines = (shared_data / "t2i_compbench" / f"{category}_val.txt").read_text(encoding="utf-8").splitlines()
        for prompt in filter(None, map(str.strip, lines)):
            asked = [question for question in make_questions(analyse(prompt)) if "," in question]
            assert all(clean_question(question).count(",") == question.count(",") for question in asked)
            questions[category] += len(asked)
            prompts[category] += bool(asked)
    assert +questions == {"color": 5, "complex": 67} and +prompts == {"color": 5, "complex": 64}


def test_a_score_is_the_product_to_four_decimals() -> None:
    assert multiply([0.9, 0.5, 1.0]) == 0.45
    assert multiply([0.3333, 0.3333]) == 0.1111
    assert multiply([]) == 1.0
