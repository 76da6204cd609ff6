"""Tests of checkpoints in DeepSeek's layout, compared with the architecture in plain PyTorch in float32."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from milr.decode.sampling import open_stream
from milr.errors import UsageError
from milr.models import deepseek_layout
from milr.models.base import ImageRequest, TaskState
from milr.models.checkpoint import open_checkpoint
from milr.models.janus import Janus
from milr.settings import SamplingParams
from milr.types import Reasoning, Task
from tests.support.janus_folders import (
    describe,
    make_tokenizer,
    tiny_sizes,
    write_deepseek,
    write_settings,
    write_weights,
)
from tests.support.plain_janus import TINY, PlainJanus

PROMPT = "two dogs"


@pytest.fixture(scope="module", autouse=True)
def tables() -> Iterator[None]:
    with tiny_sizes():
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PlainJanus]:
    """Return a checkpoint in one file, and the plain model with its weights."""
    folder = tmp_path_factory.mktemp("deepseek") / "Janus-Pro-Tiny"
    return folder, write_deepseek(folder)


@pytest.fixture(scope="module")
def plain(written: tuple[Path, PlainJanus]) -> PlainJanus:
    return written[1]


@pytest.fixture(scope="module")
def model(written: tuple[Path, PlainJanus]) -> Janus:
    return Janus(written[0])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, TINY.side, TINY.side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def text_ids() -> torch.Tensor:
    return torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(1))


def image_ids() -> torch.Tensor:
    return torch.randint(0, TINY.codes, (2, 16), generator=torch.Generator().manual_seed(2))


# --- the arithmetic


def test_the_text_logits_are_the_plain_models(model: Janus, plain: PlainJanus) -> None:
    ids = text_ids()
    expected = plain.language_model.lm_head(plain.language_model.read(plain.embed_text(ids)))
    with torch.inference_mode():
        found = model.network(input_ids=ids).logits
    assert float(expected.std()) > 0.1
    close(found, expected)


def test_the_image_logits_are_the_plain_models(model: Janus, plain: PlainJanus) -> None:
    """Text is followed by image tokens in the same context, which the image head reads."""
    row = torch.cat([plain.embed_text(text_ids()), plain.embed_image(image_ids())], dim=1)
    expected = plain.image_logits(plain.language_model.read(row))
    network = model.network
    with torch.inference_mode():
        embeddings = [network.get_input_embeddings()(text_ids())]
        embeddings += [network.prepare_embeddings_for_image_generation(image_ids())]
        states = network.model.language_model(inputs_embeds=torch.cat(embeddings, dim=1)).last_hidden_state
        close(network.model.generation_head(states), expected)


def test_the_vision_path_is_the_plain_models(model: Janus, plain: PlainJanus) -> None:
    """The vision tower and aligner, and the words after an image, are equal."""
    features = plain.encode(pixels())
    row = torch.cat([plain.embed_text(text_ids()[:, :3]), features, plain.embed_text(text_ids()[:, 3:])], dim=1)
    expected = plain.language_model.lm_head(plain.language_model.read(row))
    inner = model.network.model
    with torch.inference_mode():
        close(inner.aligner(inner.vision_model(pixels()).last_hidden_state), features)
        ids = torch.cat([text_ids()[:, :3], torch.full((2, 16), model.tokenizer.image_token_id), text_ids()[:, 3:]], 1)
        close(model.network(input_ids=ids, pixel_values=pixels()).logits, expected)


@pytest.mark.slow
def test_images_are_decoded_as_the_plain_model_does(model: Janus, plain: PlainJanus) -> None:
    """In float64, because the last digits of float32 convolutions depend on the number of threads."""
    vq, vision = deepcopy(model.network.model.vqmodel).double(), deepcopy(plain.gen_vision_model).double()
    with torch.inference_mode():
        found = vq.decode(image_ids())
    assert found.dtype == torch.float64
    close(found, vision.decode(image_ids(), TINY.side))


@pytest.mark.slow
def test_the_encoders_features_are_the_plain_models(model: Janus, plain: PlainJanus) -> None:
    """The features that are compared with the codes.

    The comparison itself differs: transformers leaves out the normalisation, so its codes of an image are not
    DeepSeek's. milr encodes no images into codes.
    """
    vq, vision = deepcopy(model.network.model.vqmodel).double(), deepcopy(plain.gen_vision_model).double()
    with torch.inference_mode():
        close(vq.quant_conv(vq.encoder(pixels().double())), vision.read(pixels().double()))


def test_an_image_of_our_engine_is_the_plain_models(model: Janus, plain: PlainJanus) -> None:
    """With guidance and almost no temperature, every token is the plain model's most probable one."""
    task, reasoning = Task(prompt=PROMPT), Reasoning("a dog", ())
    request = ImageRequest(TaskState(task), reasoning, open_stream(0, "any", 0, 0))
    (image,) = model.draw([request], SamplingParams(temperature=1e-6))
    prompt = torch.tensor([model.prompts.image(PROMPT, reasoning)])
    padded = prompt.clone()
    padded[:, 1:-1] = model.prompts.padding
    tokens = torch.tensor(image.sample.tokens)[None]
    guided: list[torch.Tensor] = []
    for ids in (prompt, padded):
        states = plain.language_model.read(torch.cat([plain.embed_text(ids), plain.embed_image(tokens[:, :-1])], dim=1))
        guided.append(plain.image_logits(states[0, -tokens.shape[1] :]))
    expected = guided[1] + 5.0 * (guided[0] - guided[1])
    assert torch.equal(expected.argmax(-1), tokens[0])


# --- the files


def test_every_tensor_is_loaded_and_none_is_left_over(written: tuple[Path, PlainJanus]) -> None:
    """All tensors of the files, renamed, are those of the network."""
    source = load_file(written[0] / "model.safetensors")
    converted: dict[str, torch.Tensor] = {}
    dropped: list[str] = []
    for key, tensor in source.items():
        renamed = deepseek_layout.convert(key, tensor)
        assert renamed is not None, key
        dropped += [] if renamed else [key]
        assert not converted.keys() & renamed.keys()
        converted |= renamed
    # Not of `model`, whose decoder has matrices in oneDNN's own layout.
    loaded = open_checkpoint(written[0]).load_network(torch.float32).state_dict()
    assert converted.keys() == loaded.keys()
    assert all(torch.equal(converted[name], loaded[name]) for name in loaded)
    assert sorted(name for name in dropped if "attn_pool" not in name) == ["gen_vision_model.quantize.codebook_used"]


@pytest.mark.slow
def test_the_full_size_map_fills_transformers_model() -> None:
    """With Janus-Pro-1B's config, without numbers, the plain model's names become transformers' names, all of them."""
    from types import SimpleNamespace

    from transformers import JanusForConditionalGeneration

    sizes = SimpleNamespace(
        width=2048, inner=5632, layers=24, heads=16, words=102400, tower_width=1024, tower_layers=24, tower_heads=16,
        side=384, depth=2, base=128, steps=(1, 1, 2, 2, 4), blocks=2, latent=256, codes=16384, code_width=8,
    )  # fmt: skip
    described = describe(sizes)
    described["vision_config"]["params"]["model_name"] = "siglip_large_patch16_384"
    described["gen_vision_config"]["cls"] = "VQ-16"
    with torch.device("meta"):
        weights = PlainJanus(sizes).state_dict()
        live = JanusForConditionalGeneration(deepseek_layout.translate_config(described, {}, "1B")).state_dict()
    shapes: dict[str, torch.Size] = {}
    for key, tensor in weights.items():
        shapes |= {name: part.shape for name, part in (deepseek_layout.convert(key, tensor) or {}).items()}
    assert shapes == {name: tensor.shape for name, tensor in live.items()}


@pytest.mark.slow
def test_shards_hold_the_same_model(tmp_path: Path, model: Janus) -> None:
    write_deepseek(tmp_path / "sharded", shards=3)
    loaded = Janus(tmp_path / "sharded").network.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.network.state_dict().items())


def test_weights_take_the_dtype_that_is_asked_for(written: tuple[Path, PlainJanus]) -> None:
    network = Janus(written[0], dtype="bfloat16").network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


# --- the tokenizer and the images


def test_the_tokenizer_is_the_files_and_prompts_begin_with_one_first_token(model: Janus) -> None:
    """Although the config names Llama's class, and whether or not the file adds the first token."""
    text = "User: three  blue\n\nowls é"
    assert model.tokenizer(text, add_special_tokens=False)["input_ids"] == make_tokenizer().encode(text).ids
    prompt = model.prompts.reasoning(PROMPT)
    assert prompt[0] == model.tokenizer.bos_token_id and model.tokenizer.bos_token_id not in prompt[1:]


def test_the_special_tokens_are_known(model: Janus) -> None:
    vocabulary = make_tokenizer().get_vocab()
    assert model.tokenizer.pad_token_id == vocabulary["<｜▁pad▁｜>"] == model.prompts.padding
    assert model.tokenizer.boi_token_id == vocabulary["<begin_of_image>"] == model.prompts.image_start
    assert model.tokenizer.image_token_id == vocabulary["<image_placeholder>"] == model.network.config.image_token_id


def test_images_are_prepared_as_the_folder_says(model: Janus) -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    (values,) = model.vqa.image_processor([image], return_tensors="pt")["pixel_values"]
    assert values.shape == (3, TINY.side, TINY.side)
    assert values[:, TINY.side // 2, 0].tolist() == pytest.approx([1, -1, -1])
    assert values[:, 0, 0].tolist() == pytest.approx([127 / 127.5 - 1] * 3, abs=1e-5)  # the grey of the padding


def test_questions_about_images_are_answered(model: Janus) -> None:
    images = [Image.new("RGB", (30, 30), colour) for colour in ("black", "red")]
    values = model.answer(images, ["Is it red?"] * 2)
    assert all(map(math.isnan, values))  # random weights answer neither yes nor no
    assert model.reply(images, ["Is it red?"] * 2, 4) == [model.reply([one], ["Is it red?"], 4)[0] for one in images]
    first, second = model.vqa._embed(images, ["Is it red?"] * 2, model.prompts.question)  # pyright: ignore[reportPrivateUsage]
    assert not torch.equal(first, second), "the question holds the image"


# --- what is refused


Spoil = Callable[[dict[str, torch.Tensor]], object]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda weights: weights.pop("gen_head.vision_head.bias"), "1 missing: model.generation_head.vision_head.bias"),
        (lambda weights: weights.update({"adapter.w": torch.zeros(1)}), "1 that milr does not know: adapter.w"),
        (
            lambda weights: weights.update({"aligner.layers.4.weight": torch.zeros(1)}),
            "1 left over: model.aligner.hidden_layers.1.weight",
        ),
        (
            lambda weights: weights.update({"gen_embed.weight": torch.zeros(7, 8)}),
            "1 of another shape: model.generation_embeddings.weight",
        ),
    ],
)
def test_wrong_weights_are_named(tmp_path: Path, plain: PlainJanus, spoil: Spoil, said: str) -> None:
    weights = dict(plain.state_dict())
    spoil(weights)
    write_settings(tmp_path)
    write_weights(tmp_path, weights)
    with pytest.raises(UsageError, match=said):
        Janus(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_deepseek(tmp_path, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match=r"lacks model-00002-of-00002\.safetensors"):
        Janus(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_config": {"model_name": "siglip_huge"}}, "names 'siglip_huge', but milr knows"),
        ({"aligner_config": {"projector_type": "identity"}}, "projector_type is 'identity'"),
        ({"vision_config": {"select_layer": -2}}, "select_layer is -2"),
        ({"gen_head_config": {"n_embed": None}}, "has no gen_head_config.params.n_embed"),
    ],
)
def test_configs_that_transformers_cannot_build_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Only the config is read: there are no weights."""
    write_settings(tmp_path)
    (tmp_path / "model.safetensors").touch()
    described = describe()
    for part, parameters in change.items():
        described[part]["params"] |= parameters
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match=said):
        open_checkpoint(tmp_path)


def test_a_tokenizer_without_the_special_tokens_is_refused(tmp_path: Path) -> None:
    write_settings(tmp_path)
    (tmp_path / "model.safetensors").touch()
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace("<begin_of_image>", "<other>"))
    with pytest.raises(UsageError, match="lacks <begin_of_image>"):
        open_checkpoint(tmp_path).load_tokenizer()


def test_capabilities_are_read_from_the_config_alone(tmp_path: Path) -> None:
    write_settings(tmp_path)
    (tmp_path / "model.safetensors").touch()
    found = open_checkpoint(tmp_path).capabilities
    assert (found.image_size, found.image_tokens, found.width) == (TINY.side, 16, TINY.width)
    assert (found.latents, found.passes) == ("both", 2)


@pytest.mark.slow
def test_other_weights_in_a_folder_of_the_same_name_make_another_model(tmp_path: Path) -> None:
    names = list[str]()
    for place, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(place) / "model"
        write_deepseek(folder, seed=seed)
        names.append(Janus(folder).name)
    first, same, other = names
    assert first == same != other
    assert all(re.fullmatch(r"janus:model@[0-9a-f]{8}", name) for name in names)
