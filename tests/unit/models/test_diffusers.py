"""Pipelines of diffusers: tiny random ones of four classes, in their official layout, through the public path."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import milr
from milr.cli.main import main
from milr.decode.sampling import open_stream
from milr.errors import UsageError
from milr.models import find_source, load_model, read_capabilities
from milr.models.base import ImageRequest
from milr.models.pipeline_folder import count_parameters, open_pipeline
from milr.models.pipeline_recipes import RECIPES
from milr.testing.contracts import check_model
from milr.types import Task
from tests.support.tiny_pipelines import PIPELINES, SIDE, write_layout, write_lora, write_lora_file, write_pipeline
from tests.support.traced_memory import trace

pytestmark = [
    pytest.mark.skipif(find_spec("diffusers") is None, reason="needs the extra diffusers"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # DPMSolver's, in numpy
]
KINDS = sorted(PIPELINES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    where = tmp_path_factory.mktemp("pipelines")
    return {kind: write_pipeline(kind, where / kind) for kind in KINDS}


@pytest.fixture
def sd3(tmp_path: Path) -> Path:
    """The layout of an SD3, which a test may break; it is not loaded."""
    return write_layout(tmp_path / "sd3")


def named(folder: Path, **options: object) -> str:
    return ",".join([f"diffusers:{folder}", f"size={SIDE}", "steps=2", *(f"{k}={v}" for k, v in options.items())])


def refusal(name: str) -> str:
    with pytest.raises(UsageError) as refused:
        load_model(name)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def draw(model: Any, *prompts: str, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    states = model.start([Task(prompt=prompt) for prompt in prompts])
    asked = [ImageRequest(state, None, open_stream(seed, state.task.key, 0, 0)) for state in states]
    outputs = model.draw(asked, model.settings("one-shot").sampling)
    return [np.asarray(output.sample.image, np.int16) for output in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_class_passes_the_contract(folders: dict[str, Path], kind: str) -> None:
    check_model(named(folders[kind]), prompts=("a cat", "two dogs on a long, long bench"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_a_batch_is_the_image_alone_and_diffusers_own(folders: dict[str, Path], kind: str) -> None:
    import diffusers

    model: Any = load_model(named(folders[kind]))
    prompts = ("a cat", "two dogs on a long, long bench", "a red clock")
    together = draw(model, *prompts)
    own: Any = getattr(diffusers, model._described.pipeline).from_pretrained(folders[kind])
    own.set_progress_bar_config(disable=True)
    for prompt, image in zip(prompts, together, strict=True):
        assert np.abs(image - draw(model, prompt)[0]).max() <= 1
        made = own(
            prompt,
            height=SIDE,
            width=SIDE,
            num_inference_steps=2,
            guidance_scale=model.defaults["guidance"],
            generator=open_stream(0, Task(prompt=prompt).key, 0, 0),
            output_type="pil",
            **model._described.recipe.call,
        ).images[0]
        assert np.abs(image - np.asarray(made, np.int16)).max() <= 1
    assert not np.array_equal(together[0], draw(model, prompts[0], seed=1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_width_and_height_may_differ(folders: dict[str, Path], kind: str) -> None:
    width, height = (64, 32) if kind == "sana" else (32, 16)  # SANA's own check asks for multiples of 32
    wide = f"diffusers:{folders[kind]},size={width}x{height},steps=2"
    able = read_capabilities(find_source(wide))
    assert (able.dimensions, able.noise_shape) == ((width, height), (4, height // 2, width // 2)) and able.image_bytes
    model: Any = load_model(wide)
    assert draw(model, "a cat")[0].shape == (height, width, 3)  # rows, columns
    assert f",size={width}x{height}," in model.name
    if kind == "sd3":
        check_model(wide, prompts=("a cat", "two dogs"))


@pytest.mark.slow
def test_a_pipeline_is_described_without_its_weights(folders: dict[str, Path]) -> None:
    shapes = {"sd3": (4, 16, 16), "flux": (4, 16, 16), "pixart": (4, 16, 16), "sana": (4, 16, 16)}
    for kind, folder in folders.items():
        able = read_capabilities(find_source(named(folder)))
        assert (able.noise_shape, able.latents, able.image_tokens, able.image_size) == (shapes[kind], "none", 0, SIDE)
        assert (able.branches, able.guidance_input) == ((1, True) if kind == "flux" else (2, False))
        assert able.takes_guidance and able.verification and able.image_bytes and able.licence
        pipeline = open_pipeline(folder, size=(SIDE, SIDE))
        assert (
            able.prompt_limit == pipeline.recipe.prompt_limit == RECIPES[pipeline.pipeline].call["max_sequence_length"]
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_configs_count_what_the_files_hold(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    bare = shutil.copytree(folders[kind], tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    found = count_parameters(open_pipeline(bare, size=(SIDE, SIDE), weights=False))
    assert found == count_parameters(open_pipeline(folders[kind], size=(SIDE, SIDE))) and all(found.values())


_AUTOENCODER = {
    "latent_channels": 16,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
_LEVELS: dict[str, Any] = {"latent_channels": 32}
for _side in ("encoder", "decoder"):
    _LEVELS |= {
        f"{_side}_block_out_channels": (128, 256, 512, 512, 1024, 1024),
        f"{_side}_layers_per_block": (2, 2, 2, 3, 3, 3),
        f"{_side}_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        f"{_side}_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    }
_FULL: dict[str, tuple[str, str, dict[str, Any], str, dict[str, Any]]] = {
    "sd3": (
        "StableDiffusion3Pipeline",
        "SD3Transformer2DModel",
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "num_layers": 2,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "out_channels": 16,
            "pos_embed_max_size": 192,
        },
        "AutoencoderKL",
        _AUTOENCODER,
    ),
    "flux": (
        "FluxPipeline",
        "FluxTransformer2DModel",
        {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True},
        "AutoencoderKL",
        _AUTOENCODER,
    ),
    "pixart": (
        "PixArtAlphaPipeline",
        "PixArtTransformer2DModel",
        {"num_layers": 2, "sample_size": 128, "patch_size": 2, "caption_channels": 4096},
        "AutoencoderKL",
        _AUTOENCODER,
    ),
    "sana": ("SanaPipeline", "SanaTransformer2DModel", {"num_layers": 2}, "AutoencoderDC", _LEVELS),
}
"""Kind -> pipeline, denoiser and autoencoder of the published sizes, but for the number of layers."""


def denoise(kind: str, network: Any, width: int, height: int) -> object:
    """Run a denoiser of published size on the meta device, for noise of that size."""
    config, tokens = network.config, width * height // 4

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    if kind == "flux":
        return network(
            empty(1, tokens, 64),
            empty(1, 512, 4096),
            empty(1, 768),
            empty(1),
            empty(tokens, 3),
            empty(512, 3),
            empty(1),
        )
    noise = empty(2, config.in_channels, height, width)
    if kind == "sd3":
        return network(noise, empty(2, 77 + 256, 4096), empty(2, 2048), empty(2))
    if kind == "pixart":
        more = {"resolution": empty(2, 2), "aspect_ratio": empty(2, 1)}
        return network(noise, empty(2, 120, 4096), empty(2), more, encoder_attention_mask=empty(2, 120))
    return network(noise, empty(2, 300, config.caption_channels), empty(2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (1024, 512)])
def test_the_planned_memory_of_an_image_is_an_upper_bound_of_the_networks_use(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    import diffusers

    pipeline, denoiser, config, autoencoder, levels = _FULL[kind]
    with torch.device("meta"):
        network: Any = getattr(diffusers, denoiser)(**config).eval()
        vae: Any = getattr(diffusers, autoencoder)(**levels).eval()
    for name, made in (("transformer", network), ("vae", vae)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(dict(made.config)))
    index = {"_class_name": pipeline, "transformer": ["diffusers", denoiser], "vae": ["diffusers", autoencoder]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    described = open_pipeline(tmp_path, size=size, weights=False)
    channels, rows, columns = described.noise
    held = max(
        trace(lambda: denoise(kind, network, columns, rows)),
        trace(lambda: vae.decode(torch.empty(1, channels, rows, columns, device="meta"))),
    )
    assert held <= described.capabilities.image_bytes / 2 <= 1.4 * held


@pytest.mark.slow
def test_info_and_plan_describe_a_pipeline(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", named(folders["flux"]), "--reward", "geneval"]) == 0
    said = capsys.readouterr().out
    assert "profile FluxPipeline (FLUX.1-dev)" in said and "text encoder 2" in said and "on a card like" not in said
    assert main(["info", "--model", named(folders["flux"])]) == 0
    said = capsys.readouterr().out
    assert (
        "noise of 4 x 16 x 16" in said and "which reads the weight of guidance" in said and "one-shot or best" in said
    )


@pytest.mark.slow
def test_generate_ends_in_a_run_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    results = milr.generate(
        ["a cat", "two dogs"],
        model=named(folders["pixart"]),
        reward=lambda images, tasks: [sum(image.convert("L").tobytes()) / (255 * SIDE**2) for image in images],
        steps=1,
        stop_at=1.0,
        out=tmp_path / "run",
    )
    assert [len(result.records) for result in results] == [2, 2]
    assert (tmp_path / "run" / "run.json").is_file()
    with pytest.raises(UsageError, match="the method 'milr' needs .* latents .*choose --method one-shot or best-of-n"):
        milr.generate("a cat", model=named(folders["pixart"]), reward="geneval", method="milr")


# --- LoRA


@pytest.mark.slow
def test_a_lora_is_applied_at_full_strength(folders: dict[str, Path], tmp_path: Path) -> None:
    import diffusers
    import peft

    base = folders["sd3"]
    lora = write_lora(tmp_path / "lora")
    model: Any = load_model(named(base, lora=lora))
    (image,) = draw(model, "a cat")
    assert not np.array_equal(image, draw(load_model(named(base)), "a cat")[0])
    transformer: Any = diffusers.SD3Transformer2DModel.from_pretrained(base / "transformer")
    unmerged: Any = peft.PeftModel.from_pretrained(transformer, str(lora))
    merged = {name: weight for name, weight in model.pipeline.transformer.named_parameters()}
    for name in ("attn.to_q", "attn.to_k", "attn.add_v_proj"):
        layer: Any = unmerged.get_submodule(f"base_model.model.transformer_blocks.0.{name}")
        wanted = layer.base_layer.weight + layer.get_delta_weight("default")
        assert torch.allclose(merged[f"transformer_blocks.0.{name}.weight"], wanted, atol=1e-6)
    assert f"lora={lora.name}@" in model.name


@pytest.mark.slow
@pytest.mark.parametrize("form", ["peft", "metadata", "older"])
def test_a_single_file_has_the_strength_that_diffusers_gives_it(
    folders: dict[str, Path], tmp_path: Path, form: str
) -> None:
    import diffusers

    file = write_lora_file(tmp_path / "pytorch_lora_weights.safetensors", form)
    model: Any = load_model(named(folders["sd3"], lora=tmp_path if form == "peft" else file))  # or a folder with it
    own: Any = diffusers.StableDiffusion3Pipeline.from_pretrained(folders["sd3"])
    own.load_lora_weights(str(tmp_path), weight_name=file.name)
    own.fuse_lora(components=["transformer"])
    own.unload_lora_weights()
    ours, theirs = (dict(one.transformer.named_parameters()) for one in (model.pipeline, own))
    base = load_file(folders["sd3"] / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    assert sum(name in base and not torch.equal(ours[name], base[name]) for name in ours) == 3
    assert f"lora={'pytorch_lora_weights' if form != 'peft' else tmp_path.name}@" in model.name


@pytest.mark.slow
def test_a_single_file_may_hold_the_alpha_of_each_layer(folders: dict[str, Path], tmp_path: Path) -> None:
    file = write_lora_file(tmp_path / "alphas.safetensors", "alphas")  # which diffusers takes for other pipelines
    model: Any = load_model(named(folders["sd3"], lora=file))
    base = load_file(folders["sd3"] / "transformer" / "diffusion_pytorch_model.safetensors")
    read = load_file(file)
    for name, rank in (("to_q", 2), ("to_k", 3), ("add_v_proj", 4)):
        place = f"transformer_blocks.0.attn.{name}"
        first, second = (read[f"transformer.{place}.lora.{side}.weight"] for side in ("down", "up"))
        wanted = base[f"{place}.weight"] + (rank + 1) / rank * second @ first
        assert torch.allclose(model.pipeline.transformer.state_dict()[f"{place}.weight"], wanted, atol=1e-5)


def test_files_that_are_no_lora_of_the_denoiser_are_refused_before_weights_are_read(sd3: Path, tmp_path: Path) -> None:
    def refuse(key: str, shape: tuple[int, int] = (2, 32)) -> str:
        save_file({key: torch.zeros(*shape)}, tmp_path / "one.safetensors")
        return refusal(named(sd3, lora=tmp_path / "one.safetensors"))

    assert "names layers of the transformer alone" in refuse("lora_unet_blocks_0_attn.lora_down.weight")
    assert "names layers of the transformer alone" in refuse("text_encoder.layers.0.q_proj.lora_A.weight")
    assert "save it by save_lora_weights" in refuse("transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector")
    assert "is for another base (its file does not name one)" in refuse(
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight", (2, 48)
    )
    assert "is not here" in refuse("transformer.blocks.9.lora_A.weight")
    (tmp_path / "lora.bin").write_bytes(b"")
    assert "milr opens no pickles" in refusal(named(sd3, lora=tmp_path / "lora.bin"))
    lone = write_lora(tmp_path / "peft") / "adapter_model.safetensors"
    (lone.parent / "adapter_config.json").unlink()  # without it the strength is unknown
    assert "names layers of the transformer alone" in refusal(named(sd3, lora=lone))


@pytest.mark.slow
def test_a_lora_that_changes_nothing_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", zero=True)
    assert "changes nothing: its weights are zero" in refusal(named(folders["sd3"], lora=lora))


def test_a_lora_that_does_not_fit_is_refused_before_weights_are_read(sd3: Path, tmp_path: Path) -> None:
    wide = write_lora(tmp_path / "wide", width=48)
    assert "is for another base (tiny): its transformer_blocks.0.attn" in refusal(named(sd3, lora=wide))
    lora = write_lora(tmp_path / "lora")
    shutil.move(lora / "adapter_model.safetensors", lora / "adapter_model.bin")
    assert "a pickle, which milr does not open" in refusal(named(sd3, lora=lora))
    assert "no LoRA 'nowhere': give a folder with adapter_config.json" in refusal(named(sd3, lora="./nowhere"))


# --- bad folders: one line, before weights are read


def test_bad_folders_are_refused_with_how_to_fix_them(sd3: Path, tmp_path: Path) -> None:
    from milr.models import embedded_folder

    assert "holds a checkpoint, no pipeline of diffusers: type --model" in refusal(f"diffusers:{embedded_folder()}")
    assert "type --model diffusers:" in refusal(str(sd3))
    assert "this StableDiffusion3Pipeline draws multiples of 2 from 4 to 32 pixels" in refusal(
        f"diffusers:{sd3},size=64"
    )
    assert "draws multiples of 2" in refusal(f"diffusers:{sd3},size=7")
    assert "size 32x9: this StableDiffusion3Pipeline draws multiples of 2" in refusal(f"diffusers:{sd3},size=32x9")
    assert "size=32x: give pixels per side, or width and height" in refusal(f"diffusers:{sd3},size=32x")
    assert "give both in one, size=WIDTHxHEIGHT" in refusal(f"diffusers:{sd3},width=32,height=16")
    assert "unknown option of diffusers: 'sise'" in refusal(f"diffusers:{sd3},sise=32")
    assert "steps=many: give a whole number" in refusal(f"diffusers:{sd3},steps=many")
    assert "no pipeline folder" in refusal("diffusers:./nowhere")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "sd3_medium.safetensors").write_bytes(b"")
    assert "'sd3_medium.safetensors' alone is not enough" in refusal(f"diffusers:{tmp_path / 'one'}")


def break_pickle(folder: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, weights.with_suffix(".bin"))


def break_component(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder_2")


def break_class(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name=["pipeline", "Mine"])


def break_library(folder: Path) -> None:
    edit(folder / "model_index.json", vae=["my_vae", "Vae"])


def break_kind(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name="StableDiffusionUpscalePipeline")


def break_kernel(folder: Path) -> None:
    edit(folder / "text_encoder" / "config.json", attn_implementation="someone/kernels")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (break_pickle, "milr opens no pickles such as 'diffusion_pytorch_model.bin'; fetch the safetensors"),
        (break_component, "lacks its component 'text_encoder_2': fetch the whole pipeline again"),
        (break_class, "asks for a pipeline of its own code"),
        (break_library, "takes its vae from 'my_vae': milr runs code of diffusers and transformers alone"),
        pytest.param(break_kind, "draws no images from a text", marks=pytest.mark.slow),  # imports diffusers
        (break_kernel, "has 'attn_implementation', which may load code or kernels"),
    ],
)
def test_a_broken_pipeline_is_refused_without_reading_weights(
    sd3: Path, breaks: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(sd3)
    monkeypatch.setattr("milr.models.diffusers._load", lambda *_: pytest.fail("weights are read"))
    assert said in refusal(named(sd3))


def test_without_the_extra_one_line_says_how_to_install_it(sd3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'type pip install "milr[diffusers]"' in refusal(named(sd3))


@pytest.mark.slow
def test_a_prompt_that_is_cut_leaves_a_note(folders: dict[str, Path]) -> None:
    model = load_model(named(folders["pixart"]))
    long = "a very long prompt about cats " * 10
    (state,) = model.start([Task(prompt=long)])
    assert "the model reads the first 120" in state.notes[0] and not model.start([Task(prompt="a cat")])[0].notes
    records = list(milr.search(long, model, lambda images, tasks: [0.5], method="one-shot"))
    assert state.notes[0] in records[0].notes


@pytest.mark.slow
def test_sana_is_refused_in_float16(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="^SANA draws garbage in float16: give --dtype bfloat16 or float32"):
        load_model(named(folders["sana"]), dtype="float16")
