"""LlamaGen: a tiny checkpoint in its authors' layout is converted, loaded, compared with the formula, and searched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import _disable_current_modes

from milr import search
from milr.cli.main import main
from milr.convert import convert
from milr.decode.sampling import open_stream
from milr.errors import UsageError
from milr.methods.needs import check_able, list_working
from milr.models import describe_model, load_model, read_capabilities
from milr.models.base import ImageOutput, ImageRequest
from milr.models.captions import clean_caption
from milr.models.llamagen import LlamaGen
from milr.models.llamagen_folder import LlamaGenConfig, LlamaGenFolder, VqConfig, rename_vq
from milr.runs import read_run
from milr.settings import SamplingParams
from milr.testing import FakeReward, brightness
from milr.testing.contracts import check_model
from milr.types import Task
from tests.support.llamagen_folders import XL, Size, fill, gpt_shapes, vq_shapes, write_official
from tests.support.pretended_device import DEVICE, pretended_device, watch

TINY = Size()
PROMPTS = ("a red apple, left of a blue clock", "x", "a long prompt " * 20)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("official") / "pretrained_models")


@pytest.fixture(scope="module")
def folder(official: Path) -> Path:
    return convert("llamagen", official, official.parent / "llamagen-tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> LlamaGen:
    return LlamaGen(folder)


def plain_logits(features: torch.Tensor, tokens: list[int], guidance: float) -> torch.Tensor:
    """Compute logits (T, V) of an image's tokens in one pass over 120 padded positions, as the authors' masks say."""
    weights, size = fill(gpt_shapes(TINY), 0), TINY
    caption, width = size.caption, 64
    unconditional = weights["cls_embedding.uncond_embedding"].clone()
    conditional = torch.zeros_like(unconditional)
    conditional[caption - len(features) :] = features
    both = torch.stack([conditional, unconditional])
    hidden = F.gelu(both @ weights["cls_embedding.cap_proj.fc1.weight"].T, approximate="tanh")
    hidden = hidden @ weights["cls_embedding.cap_proj.fc2.weight"].T
    image = weights["tok_embeddings.weight"][tokens[:-1]].expand(2, -1, -1)
    states = torch.cat([hidden, image], dim=1)
    length = states.shape[1]
    sees = torch.ones(length, length, dtype=torch.bool).tril()
    sees[:, : caption - len(features)] = False
    sees |= torch.eye(length, dtype=torch.bool)
    frequencies = 10000.0 ** (-torch.arange(0, width // 2, 2) / (width // 2))
    angles = [torch.cat([row * frequencies, column * frequencies]) for row in range(4) for column in range(4)]
    turns = torch.cat([torch.zeros(caption, width // 2), torch.polar(torch.tensor(1.0), torch.stack(angles))])[:length]

    def norm(name: str, states: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(states, states.shape[-1:], weights[name], 1e-5)

    def turn(states: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2)

    for place in range(size.layers):
        own = f"layers.{place}."
        projected = norm(f"{own}attention_norm.weight", states) @ weights[f"{own}attention.wqkv.weight"].T
        query, key, value = (part.unflatten(-1, (-1, width)).transpose(1, 2) for part in projected.chunk(3, -1))
        found = F.scaled_dot_product_attention(turn(query), turn(key), value, sees)
        states = states + found.transpose(1, 2).flatten(2) @ weights[f"{own}attention.wo.weight"].T
        normal = norm(f"{own}ffn_norm.weight", states)
        gate = F.silu(normal @ weights[f"{own}feed_forward.w1.weight"].T)
        states = states + (gate * (normal @ weights[f"{own}feed_forward.w3.weight"].T)) @ (
            weights[f"{own}feed_forward.w2.weight"].T
        )
    conditional, unconditional = (norm("norm.weight", states) @ weights["output.weight"].T)[:, caption - 1 :]
    return unconditional + guidance * (conditional - unconditional)


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_logits_equal_those_of_one_pass_over_padded_captions(model: LlamaGen, guidance: float) -> None:
    """Prompts of unequal lengths in one batch; one is cut at 120 tokens."""
    total = model.capabilities.image_tokens
    states = model.start([Task(prompt=prompt) for prompt in PROMPTS])
    requests = [
        ImageRequest(state, None, open_stream(0, "any", place, 0), keep_hidden=total)
        for place, state in enumerate(states)
    ]
    for prompt, drawn in zip(PROMPTS, model.draw(requests, SamplingParams(guidance=guidance)), strict=True):
        ids = model.read_tokens(prompt)
        assert ids[-1] == 1
        assert len(ids) == min(120, len(prompt.split()) + len(prompt.replace(" ", "")) + 1)
        assert drawn.hidden is not None
        found = model.image_logits(drawn.hidden, guidance)
        with torch.inference_mode():
            wanted = plain_logits(model.encode(ids), list(drawn.sample.tokens), guidance)
        assert float(wanted.std()) > 0.5
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-4)


def test_a_converted_folder_says_what_it_holds(official: Path, folder: Path, model: LlamaGen) -> None:
    assert json.loads((folder / "config.json").read_text())["heads"] == 2
    record = json.loads((folder / "conversion.json").read_text())
    assert sorted(record["sources"]) == ["pytorch_model.bin", "t2i_tiny_8.pt", "vq_tiny.pt"]
    assert "text_encoder/model.safetensors" in record["files"]
    able = read_capabilities(folder)
    assert able == model.capabilities
    assert (able.image_size, able.image_tokens, able.latents, able.writes_text) == (8, 16, "image", False)
    described = describe_model(folder)
    assert described.defaults == {"guidance": 7.5, "top_k": 1000}
    assert described.size is not None
    assert described.size.parameters["decoder"] == sum(
        torch.Size(shape).numel() for name, shape in gpt_shapes(TINY).items() if name.startswith(("layers.", "norm."))
    )
    assert model.settings("one-shot").sampling.guidance == 7.5
    kept = {name for name in vq_shapes(TINY) if name.startswith(("decoder.", "post_quant_conv.", "quantize.emb"))}
    assert {rename_vq(name) for name in kept} == set(model.vq.state_dict())


def test_names_and_shapes_of_the_full_model_fit(folder: Path) -> None:
    vq = VqConfig(channels=128, multipliers=(1, 1, 2, 2, 4), blocks=2, latent_channels=256, code_width=8)
    config = LlamaGenConfig(dim=1280, layers=36, heads=20, inner=3584, codes=16384, grid=16, caption_dim=2048, vq=vq)
    full = LlamaGenFolder(folder, config, {"model_type": "t5"})
    made = {name: tuple(tensor.shape) for name, tensor in full.make_gpt().state_dict().items()}
    assert made == gpt_shapes(XL)
    assert len(made) == 258
    listed = {
        rename_vq(name): shape
        for name, shape in vq_shapes(XL).items()
        if name.startswith(("decoder.", "post_quant_conv.", "quantize.embedding"))
    }
    assert {name: tuple(tensor.shape) for name, tensor in full.make_vq().state_dict().items()} == listed
    assert config.image_size == 256


def test_methods_that_need_a_text_are_refused_by_capability(model: LlamaGen) -> None:
    able = model.capabilities
    assert {"one-shot", "best-of-n", "milr", "keep-right", "grid-prune"} <= set(list_working(able))
    for method, given, said in (
        ("reflection", {}, "needs a reasoning text"),
        ("milr", {"strategy": "steer"}, "this model has image latents alone"),
        ("milr", {"text_ratio": 0.2}, "this model has no text latents"),
    ):
        with pytest.raises(UsageError, match=said):
            check_able(method, given, able)


@pytest.mark.parametrize("strategy", ["joint", "no-text"])
def test_a_search_moves_image_latents(model: LlamaGen, strategy: str) -> None:
    reward = FakeReward(lambda image, task: 0.9 * brightness(image))
    tasks = [Task(prompt=prompt) for prompt in PROMPTS[:2]]
    changes = {"strategy": strategy, "steps": 3, "image_ratio": 0.5, "learning_rate": 0.5, "top_k": 20, "stop_at": 1.0}
    records = list(search(tasks, model, reward, model.settings("milr", **changes)))
    last = [record for record in records if record.step == 3]
    assert len(last) == 2
    for record in last:
        assert record.trace is not None
        assert (record.trace.text_latents, record.trace.image_latents) == (0, 8)
        assert record.trace.image_shift > 0
        assert record.trace.log_probability is not None
        assert record.trace.log_probability > -100, "the tokens are credited under the distribution they came from"


@pytest.mark.slow
def test_llamagen_keeps_the_contract(folder: Path) -> None:
    check_model(str(folder))
    check_model(LlamaGen(folder, deterministic=True))


@pytest.mark.slow
def test_commands_convert_the_official_layout_and_make_a_run(official: Path, tmp_path: Path) -> None:
    """`milr convert llamagen`, then `milr generate` with a reward from a file, and a second time the same images."""
    made = tmp_path / "llamagen"
    assert main(["convert", "llamagen", str(official / "t2i_tiny_8.pt"), str(made)]) == 0
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def blue(images, tasks):\n    return [i.resize((1, 1)).getpixel((0, 0))[2] / 255 for i in images]\n"
    )
    runs = [tmp_path / "runs" / name for name in ("one", "two")]
    for run in runs:
        command = ["generate", "a red apple", "two dogs", "--model", str(made), "--reward", f"{reward}:blue"]
        assert main([*command, "--steps", "2", "--stop-at", "1", "--image-ratio", "0.5", "--out", str(run)]) == 0
    one, two = (read_run(run) for run in runs)
    assert [len(task.steps) for task in one.tasks] == [3, 3]
    tokens = [[image.tokens for step in task.steps for image in step.images] for task in one.tasks]
    assert tokens == [[image.tokens for step in task.steps for image in step.images] for task in two.tasks]


def _other_width(made: Path) -> None:
    config = made / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"d_model": 32', '"d_model": 64'))


def _no_t5(made: Path) -> None:
    (made / "text_encoder" / "config.json").write_text('{"model_type": "bert"}')


def _swap(made: Path) -> None:
    shutil.copy(made / "gpt.safetensors", made / "vq.safetensors")


def _two_heads_more(made: Path) -> None:
    config = made / "config.json"
    config.write_text(config.read_text().replace('"heads": 2', '"heads": 3'))


def _other_size(made: Path) -> None:
    config = made / "config.json"
    config.write_text(config.read_text().replace('"inner": 512', '"inner": 256'))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda made: (made / "vq.safetensors").unlink(), r"lacks vq\.safetensors: type milr convert llamagen"),
        (lambda made: shutil.rmtree(made / "text_encoder"), r"lacks text_encoder/model\.safetensors"),
        (_other_width, "holds a T5 of width 64, and this LlamaGen reads captions of width 32"),
        (_no_t5, "holds a model of type 'bert': LlamaGen reads a T5 encoder"),
        (_swap, "does not hold a whole LlamaGen checkpoint; weights .* missing"),
        (_two_heads_more, "3 heads do not divide dim 128"),
        (_other_size, r"6 of another shape: layers\.0\.feed_forward"),
        (lambda made: (made / "gpt.safetensors").write_bytes(b"\0" * 90), "cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    made = tmp_path / "spoilt"
    shutil.copytree(folder, made)
    spoil(made)
    with pytest.raises(UsageError, match=said) as refused:
        load_model(str(made))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda made: (made / "vq_tiny.pt").unlink(), "has no VQ model"),
        (lambda made: shutil.rmtree(made / "t5-ckpt"), "has no T5"),
        (lambda made: shutil.copy(made / "t2i_tiny_8.pt", made / "t2i_other_16.pt"), "has several"),
        (lambda made: (made / "t2i_tiny_8.pt").rename(made / "t2i_tiny.pt"), "says no image size"),
        (lambda made: shutil.copy(made / "t2i_tiny_8.pt", made / "vq_tiny.pt"), "that milr does not know"),
        (lambda made: shutil.copy(made / "vq_tiny.pt", made / "t2i_tiny_8.pt"), "missing: cls_embedding"),
        (lambda made: (made / "t5-ckpt/flan-t5-xl/tokenizer.json").unlink(), r"has no tokenizer\.json"),
        (lambda made: torch.save({"model": {"x": Path("a")}}, made / "vq_tiny.pt"), "nothing but tensors is read"),
    ],
)
def test_a_damaged_source_is_refused_in_one_line(
    official: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(official, source)
    spoil(source)
    with pytest.raises(UsageError, match=said) as refused:
        convert("llamagen", source, tmp_path / "made")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()


def test_pickles_are_not_loaded(official: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="milr convert llamagen"):
        load_model(str(official))
    with pytest.raises(UsageError, match="leave --profile out"):
        load_model(str(folder), profile="janus-pro")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A red Apple, left of a blue clock.", "a red apple, left of a blue clock."),
        ("a cat,dog.bird", "a cat, dog. bird"),
        ("\u201cquoted\u201d \u2014 text", '"quoted" - text'),
        ("<b>bold</b> cat &amp; dog", "bold cat dog"),
        ("see https://example.com/x now", "see now"),
        ("a (red) [blue] {cat} / dog", "a red blue cat dog"),
        ("well-known, state-of-the-art", "well known, state of the art"),
        ("'hello'", "hello"),
    ],
)
def test_a_caption_is_cleaned_as_in_training(text: str, cleaned: str) -> None:
    assert clean_caption(text) == cleaned


def test_an_image_does_not_depend_on_other_prompts(model: LlamaGen) -> None:
    states = model.start([Task(prompt=prompt) for prompt in PROMPTS])
    requests = [ImageRequest(state, None, open_stream(0, "any", place, 0)) for place, state in enumerate(states)]
    sampling = model.settings("one-shot").sampling
    together = model.draw(requests, sampling)
    for request, drawn in zip(requests, together, strict=True):
        (alone,) = model.draw([replace(request, state=model.start([request.state.task])[0])], sampling)
        assert alone.sample.tokens == drawn.sample.tokens


@pytest.mark.slow
def test_a_device_draws_the_same_images_and_waits_equally_often_at_any_length(
    folder: Path, model: LlamaGen, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = LlamaGenFolder.load_parts

    def load_on_cpu(self: LlamaGenFolder, dtype: torch.dtype, device: torch.device, *, random: bool = False) -> Any:
        with _disable_current_modes():
            parts = load(self, dtype, torch.device("cpu"), random=random)
        return tuple(part.to(device) for part in parts)

    monkeypatch.setattr(LlamaGenFolder, "load_parts", load_on_cpu)

    def draw(model: LlamaGen, until: int) -> ImageOutput:
        request = ImageRequest(model.start([Task(prompt=PROMPTS[0])])[0], None, open_stream(0, "x", 0, 0), until=until)
        return model.draw([request], SamplingParams(guidance=7.5, top_k=40))[0]

    wanted, waits = draw(model, 16), list[tuple[int, int]]()
    with pretended_device():
        there = LlamaGen(folder, device=DEVICE.type, dtype="float32")
        for until in (2, 8, 16):
            with watch() as traffic:
                found = draw(there, until)
            waits.append((traffic.reads.total(), traffic.copies.total()))
    assert found.sample.tokens == wanted.sample.tokens
    assert found.sample.image.tobytes() == wanted.sample.image.tobytes()
    assert waits[1] == waits[2], waits
