"""A folder with LlamaGen's text-to-image model, as `milr convert llamagen` writes it.

Its config describes it; its parts are loaded one by one:

config.json          dimensions, model_type "llamagen"
gpt.safetensors      the decoder, under the original names
vq.safetensors       the image decoder and its codebook, under the original names
text_encoder/        config.json, model.safetensors, tokenizer.json: a T5 encoder in transformers' layout
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from milr.errors import UsageError
from milr.models import deepseek_layout
from milr.models.base import Capabilities, Description, ModelSize
from milr.models.received import read_json, read_tokenizer, refusing
from milr.models.weight_files import is_finite, refuse_faults
from milr.untrusted import first_fault
from milr.weights import identify_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from milr.models.llamagen_network import Gpt

CONFIG, GPT, VQ, TEXT_ENCODER = "config.json", "gpt.safetensors", "vq.safetensors", "text_encoder"
TEXT_WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
TITLE = "LlamaGen checkpoint"
DEFAULTS: Mapping[str, object] = {"guidance": 7.5, "top_k": 1000}
"""Values of the authors' sampling script; temperature 1."""
LICENCE = "MIT, parts under the licences of their origins (FoundationVision/LlamaGen); flan-t5-xl: Apache-2.0"
VERIFIED = (
    "logits, greedy tokens and images of small random weights in float32 equal the authors' code run beside it, with "
    "guidance and without; names and shapes of the full GPT-XL and VQ-16 are theirs; published weights were not run"
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VqConfig(_Frozen):
    """Dimensions of the image decoder."""

    channels: int = Field(ge=32, le=2**12, multiple_of=32)
    """Channels at full size."""
    multipliers: tuple[int, ...] = Field(min_length=1, max_length=8)
    """Channels of each level as multiples of `channels`, from full size down; each level halves the side."""
    blocks: int = Field(ge=1, le=16)
    """Residual blocks a level, without the one that the decoder adds."""
    latent_channels: int = Field(ge=1, le=2**12)
    """Channels of the decoder's input."""
    code_width: int = Field(ge=1, le=2**12)
    """Width of a codebook entry."""


class LlamaGenConfig(_Frozen):
    """The contents of `config.json`."""

    model_type: Literal["llamagen"] = "llamagen"
    dim: int = Field(ge=4, le=2**15)
    """d."""
    layers: int = Field(ge=1, le=512)
    heads: int = Field(ge=1, le=512)
    inner: int = Field(ge=1, le=2**17)
    """Width of the feed-forward layers."""
    codes: int = Field(ge=2, le=2**18)
    """Different image tokens."""
    grid: int = Field(ge=1, le=256)
    """Image tokens a side."""
    caption: int = Field(default=120, ge=1, le=2**12)
    """Positions of the caption."""
    caption_dim: int = Field(ge=1, le=2**15)
    """Width of the text encoder's states."""
    norm_epsilon: float = Field(default=1e-5, gt=0, lt=1)
    rope_base: float = Field(default=10000.0, gt=1)
    vq: VqConfig

    @property
    def image_size(self) -> int:
        """Return the image's side in pixels."""
        return self.grid * 2 ** (len(self.vq.multipliers) - 1)


@dataclass(frozen=True)
class LlamaGenFolder:
    """The description of a folder; nothing is loaded yet."""

    folder: Path
    config: LlamaGenConfig
    text_config: Mapping[str, Any]
    """The T5 encoder's config."""

    @property
    def version(self) -> str:
        """Return eight hexadecimal digits that distinguish these weights from others in a folder of the same name."""
        return identify_weights(self.folder)

    @property
    def capabilities(self) -> Capabilities:
        """Return the model's capabilities."""
        config = self.config
        able = Capabilities(
            image_size=config.image_size,
            image_tokens=config.grid**2,
            width=config.dim,
            latents="image",
            passes=1,
            reads_images=False,
            writes_text=False,
            prompt_limit=config.caption,
            family="llamagen",
            licence=LICENCE,
            verification=VERIFIED,
        )
        return replace(able, image_bytes=self._size({}).image_bytes(able, 2))

    @property
    def description(self) -> Description:
        """Return everything that is known before the weights are loaded."""
        return Description(
            capabilities=self.capabilities,
            defaults=DEFAULTS,
            profile="t2i",
            summary="the cleaned prompt through a T5 encoder",
            size=self._size(self._count_parameters()),
        )

    def _size(self, parameters: Mapping[str, int]) -> ModelSize:
        config = self.config
        return ModelSize(
            parameters=parameters,
            prompt_tokens=config.caption,
            numbers_per_token=2 * config.layers * config.dim,
            read_per_token=parameters["decoder"] + parameters["image head"] if parameters else 0,
        )

    def _count_parameters(self) -> dict[str, int]:
        from torch import nn

        gpt, vq, text = self.make_gpt(), self.make_vq(), self.make_text_encoder()
        parts: dict[str, nn.Module] = {
            "decoder": nn.ModuleList([gpt.layers, gpt.norm]),
            "image head": gpt.output,
            "image tokens": gpt.tok_embeddings,
            "caption": gpt.cls_embedding,
            "image decoder": vq,
            "text encoder": text,
        }
        return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}

    def make_gpt(self) -> Gpt:
        """Make the decoder's modules on the meta device."""
        import torch

        from milr.models.llamagen_network import Gpt

        config = self.config
        with torch.device("meta"):
            return Gpt(
                dim=config.dim,
                layers=config.layers,
                inner=config.inner,
                codes=config.codes,
                caption=config.caption,
                caption_dim=config.caption_dim,
            )

    def make_vq(self) -> Any:
        """Make the image decoder on the meta device: transformers' class for Janus, whose VQ model is LlamaGen's."""
        import torch
        from transformers.models.janus.configuration_janus import JanusVQVAEConfig
        from transformers.models.janus.modeling_janus import JanusVQVAE

        config, vq = self.config, self.config.vq
        described = JanusVQVAEConfig(
            embed_dim=vq.code_width,
            num_embeddings=config.codes,
            latent_channels=vq.latent_channels,
            base_channels=vq.channels,
            channel_multiplier=list(vq.multipliers),
            num_res_blocks=vq.blocks,
            num_patches=config.grid,
        )
        with torch.device("meta"):
            made: Any = JanusVQVAE(described)
        del made.encoder, made.quant_conv  # only training reads images
        return made

    def make_text_encoder(self) -> Any:
        """Make the T5 encoder's modules on the meta device."""
        import torch
        from transformers.models.t5.configuration_t5 import T5Config
        from transformers.models.t5.modeling_t5 import T5EncoderModel

        with refusing(repr(str(self.folder / TEXT_ENCODER / CONFIG))), torch.device("meta"):
            return T5EncoderModel(T5Config.from_dict(dict(self.text_config)))

    def load_tokenizer(self) -> Any:
        """Load the text encoder's tokenizer; it cuts prompts at the caption's length.

        Raises:
            UsageError: It cannot be read, or does not end a prompt as T5's does.
        """
        path = self.folder / TEXT_ENCODER / TOKENIZER
        tokenizer = read_tokenizer(path)
        with refusing(repr(str(path))):
            tokenizer.no_padding()
            tokenizer.enable_truncation(self.config.caption)
            last: list[int] = tokenizer.encode("a").ids[-1:]
        if last != [self.text_config.get("eos_token_id", 1)]:
            raise UsageError(f"{str(path)!r} adds no end to a prompt: it is no tokenizer of T5; fetch flan-t5-xl's")
        return tokenizer

    def load_parts(self, dtype: torch.dtype, device: torch.device, *, random: bool = False) -> tuple[Gpt, Any, Any]:
        """Load the decoder, the image decoder in float32, and the text encoder.

        All names and shapes are compared, from the files' heads, before any weight is read.

        Args:
            dtype: Of the decoder and the text encoder; float16, in which T5 overflows, gives a float32 text encoder.
            device: For all of it.
            random: Random weights: no safetensors are needed.

        Raises:
            UsageError: A file is missing, or a weight is missing, left over, of another shape or not finite.
        """
        import torch

        encoder_dtype = torch.float32 if dtype == torch.float16 else dtype
        gpt, vq, text = self.make_gpt(), self.make_vq(), self.make_text_encoder()
        parts = ((gpt, GPT, dtype), (vq, VQ, torch.float32), (text, f"{TEXT_ENCODER}/{TEXT_WEIGHTS}", encoder_dtype))
        if random:
            for network, _, own in parts:
                _fill_randomly(network, own, device)
            return gpt, vq, text
        readers = [_Reader(self.folder / name, network, _RENAME.get(name, str)) for network, name, _ in parts]
        for reader, (network, _, own) in zip(readers, parts, strict=True):
            reader.fill(network, own, device)
        return gpt, vq, text


def open_folder(folder: Path, *, profile: str | None = None, weights: bool = True) -> LlamaGenFolder:
    """Describe a folder; its weights are not read.

    Args:
        folder: See the module.
        profile: Must be None: the family has no prompt profiles.
        weights: If true, there must be safetensors.

    Raises:
        UsageError: A file is missing, a config cannot be read, or the text encoder is not the one that the model reads.
    """
    if profile is not None:
        raise UsageError(f"profile {profile!r}: LlamaGen has one form of prompts; leave --profile out")
    described = read_json(folder / CONFIG)
    try:
        config = LlamaGenConfig.model_validate(described)
    except ValidationError as error:
        raise UsageError(f"{folder / CONFIG}: {first_fault(error)}") from error
    if config.dim % (4 * config.heads):
        raise UsageError(
            f"{folder / CONFIG}: {config.heads} heads do not divide dim {config.dim} into widths that are multiples of "
            "4; convert the checkpoint again"
        )
    if weights:
        _check_files(folder)
    text_config = read_json(folder / TEXT_ENCODER / CONFIG)
    check_text_config(text_config, config.caption_dim, folder / TEXT_ENCODER)
    return LlamaGenFolder(folder, config, text_config)


def check_text_config(described: Mapping[str, Any], width: int, folder: Path) -> None:
    """Refuse a text encoder that is not a T5, or that has another width than the model's captions."""
    kind, own = described.get("model_type"), described.get("d_model")
    if kind != "t5":
        raise UsageError(f"{str(folder)!r} holds a model of type {kind!r}: LlamaGen reads a T5 encoder, flan-t5-xl")
    if own != width:
        raise UsageError(
            f"{str(folder)!r} holds a T5 of width {own}, and this LlamaGen reads captions of width {width}: "
            "give the T5 that it was trained with (flan-t5-xl has 2048)"
        )


def _check_files(folder: Path) -> None:
    needed = (GPT, VQ, f"{TEXT_ENCODER}/{TEXT_WEIGHTS}", f"{TEXT_ENCODER}/{TOKENIZER}", f"{TEXT_ENCODER}/{CONFIG}")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        pickles = any(folder.glob("*.pt"))
        way = "milr opens no pickles; " if pickles else ""
        raise UsageError(
            f"{str(folder)!r} lacks {', '.join(missing)}: {way}type milr convert llamagen OFFICIAL_FOLDER NEW_FOLDER"
        )


def rename_vq(name: str) -> str:
    """Return transformers' name of a weight of the VQ model; its layout is that of DeepSeek's Janus."""
    renamed = deepseek_layout.rename(f"gen_vision_model.{name}")
    return renamed[0][0].removeprefix("model.vqmodel.") if renamed and renamed[0] else name


_RENAME: Mapping[str, Callable[[str], str]] = {VQ: rename_vq}


class _Reader:
    """A file of weights whose names and shapes are those of a network."""

    def __init__(self, path: Path, network: nn.Module, rename: Callable[[str], str] = str) -> None:
        """Compare names and shapes; read no weight."""
        from safetensors import safe_open

        self._path = path
        with refusing(repr(str(path))):
            file = cast("Any", safe_open(path, framework="pt"))
            self._names: dict[str, str] = {rename(name): name for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(file.get_slice(old).get_shape()) for name, old in self._names.items()}
        known = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        known = {name: shape for name, shape in known.items() if name not in _TIED}
        refuse_faults(
            str(path),
            {
                "missing": known.keys() - shapes.keys(),
                "left over": shapes.keys() - known.keys(),
                "of another shape": [name for name in known if name in shapes and shapes[name] != known[name]],
            },
            TITLE,
        )

    def fill(self, network: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        """Read the weights one by one into the network's final dtype and device."""
        from safetensors import safe_open

        with refusing(repr(str(self._path))):
            file = cast("Any", safe_open(self._path, framework="pt"))
            read = {name: file.get_tensor(old).to(device, dtype) for name, old in self._names.items()}
        refuse_faults(
            str(self._path), {"with NaN or infinity": [name for name in read if not is_finite(read[name])]}, TITLE
        )
        tied = {name: read[source] for name, source in _TIED.items() if source in read}
        network.load_state_dict({**read, **tied}, assign=True)


_TIED = {"encoder.embed_tokens.weight": "shared.weight"}
"""Weight of the T5 encoder -> the weight that it is."""


def _fill_randomly(network: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    import torch

    stream = torch.Generator(device).manual_seed(0)
    made = {
        name: torch.empty(tensor.shape, dtype=dtype, device=device).uniform_(-0.03, 0.03, generator=stream)
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(made, assign=True)
