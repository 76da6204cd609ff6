"""LlamaGen text-to-image -> one folder of safetensors that milr reads: decoder, image decoder and T5 encoder.

The source is laid out as the authors' sampling script expects it::

    pretrained_models/
      t2i_XL_stage1_256.pt         the decoder; the number is the image's side
      vq_ds16_t2i.pt               the VQ model
      t5-ckpt/flan-t5-xl/          config.json, tokenizer.json, weights (*.safetensors or *.bin)

Of the VQ model the encoder and the counter of used codes are left out, of T5 the decoder; all else is carried over
under the original names, in the original dtype. Names and shapes must be those of the model, none missing and none left
over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from milr.convert.checkpoint import read_checkpoint, save_converted
from milr.errors import UsageError
from milr.files import write_text
from milr.models.llamagen_folder import (
    CONFIG,
    GPT,
    TEXT_ENCODER,
    TEXT_WEIGHTS,
    TITLE,
    TOKENIZER,
    VQ,
    LlamaGenConfig,
    LlamaGenFolder,
    VqConfig,
    check_text_config,
    rename_vq,
)
from milr.models.received import read_json
from milr.models.weight_files import find_shards, read_safetensors, refuse_faults
from milr.untrusted import first_fault

_SIDE = re.compile(r"_(\d+)\.pt")
_HEADS: Mapping[int, int] = {3200: 32, 4096: 32}
"""Width of the decoders whose heads are not 64 wide (GPT-3B and GPT-7B) -> their heads."""
_HEAD_WIDTH = 64
_VQ_KEPT = re.compile(r"(decoder|post_quant_conv)\..+|quantize\.embedding\.weight")
_VQ_DROPPED = re.compile(r"(encoder|quant_conv)\..+|quantize\.codebook_used")
_T5_KEPT = re.compile(r"shared\.weight|encoder\.(?!embed_tokens).+")
_T5_DROPPED = re.compile(r"(decoder|lm_head)\..+|encoder\.embed_tokens\.weight")


def convert(source: Path, target: Path, *, any_hash: bool = False) -> None:
    """Convert a decoder with the VQ model and the T5 encoder beside it.

    Args:
        source: The folder with all parts; or the decoder's file, if the folder has several.
        target: The folder to make; must not exist.
        any_hash: Without effect, because the official hashes are not published; those of the files are recorded.

    Raises:
        UsageError: A part is missing or is another model's, or a pickle holds more than tensors and plain values.
    """
    if target.exists():
        raise UsageError(f"{target} exists; nothing was overwritten: give another folder, or remove it first")
    parts = _find_parts(source)
    text_config = read_json(parts.text / CONFIG)
    gpt = read_checkpoint(parts.gpt, "", any_hash=True)
    vq = _keep(read_checkpoint(parts.vq, "", any_hash=True), _VQ_KEPT, _VQ_DROPPED, parts.vq)
    config = _read_dimensions(gpt, vq, parts)
    check_text_config(text_config, config.caption_dim, parts.text)
    tokenizer = parts.text / TOKENIZER
    if not tokenizer.is_file():
        raise UsageError(f"{str(parts.text)!r} has no {TOKENIZER}: fetch it from google/flan-t5-xl")
    made = LlamaGenFolder(target, config, text_config)
    _compare(gpt, made.make_gpt(), parts.gpt)
    _compare({rename_vq(name): tensor for name, tensor in vq.items()}, made.make_vq(), parts.vq)
    text = _keep(_read_text_encoder(parts.text), _T5_KEPT, _T5_DROPPED, parts.text)
    _compare(text, made.make_text_encoder(), parts.text)
    save_converted(
        _Parts(config, text_config, tokenizer, {GPT: gpt, VQ: vq, f"{TEXT_ENCODER}/{TEXT_WEIGHTS}": text}),
        [parts.gpt, parts.vq, *_list_text_weights(parts.text)],
        target,
    )


@dataclass(frozen=True)
class _Sources:
    gpt: Path
    vq: Path
    text: Path
    side: int


@dataclass(frozen=True)
class _Parts:
    """The folder's parts, saved like a transformers model."""

    config: LlamaGenConfig
    text_config: Mapping[str, Any]
    tokenizer: Path
    weights: Mapping[str, Mapping[str, Tensor]]

    def save_pretrained(self, folder: Path) -> None:
        """Write all files."""
        (folder / TEXT_ENCODER).mkdir(parents=True)
        for name, tensors in self.weights.items():
            plain = {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
            save_file(plain, folder / name, metadata={"format": "pt"})
        write_text(folder / CONFIG, self.config.model_dump_json(indent=2) + "\n")
        write_text(folder / TEXT_ENCODER / CONFIG, json.dumps(dict(self.text_config), indent=2) + "\n")
        (folder / TEXT_ENCODER / TOKENIZER).write_bytes(self.tokenizer.read_bytes())


def _find_parts(source: Path) -> _Sources:
    """Return the three parts and the image's side.

    Raises:
        UsageError: One is missing, there are several, or the decoder's name has no side.
    """
    folder = source if source.is_dir() else source.parent
    gpt = source if source.is_file() else _only(folder, sorted(folder.glob("t2i_*.pt")), "decoder t2i_*.pt")
    vq = _only(folder, sorted(folder.glob("vq_*.pt")), "VQ model vq_*.pt (vq_ds16_t2i.pt)")
    text = _only(folder, sorted(path.parent for path in folder.glob(f"t5-ckpt/*/{CONFIG}")), "T5 in t5-ckpt/flan-t5-xl")
    side = _SIDE.search(gpt.name)
    if side is None:
        raise UsageError(f"the name {gpt.name!r} says no image size: call it as published, t2i_XL_stage1_256.pt")
    return _Sources(gpt, vq, text, int(side[1]))


def _only(folder: Path, found: Sequence[Path], what: str) -> Path:
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"{str(folder)!r} has no {what}: lay the parts out as LlamaGen's README says")
    names = ", ".join(path.name for path in found)
    raise UsageError(f"{str(folder)!r} has several: {names}; give the decoder's file, and keep one of each other part")


def _keep(
    tensors: Mapping[str, Tensor], kept: re.Pattern[str], dropped: re.Pattern[str], origin: Path
) -> dict[str, Tensor]:
    """Return the tensors that are carried over; refuse names of neither kind."""
    unknown = [name for name in tensors if not kept.fullmatch(name) and not dropped.fullmatch(name)]
    refuse_faults(str(origin), {"that milr does not know": unknown}, TITLE)
    return {name: tensor for name, tensor in tensors.items() if kept.fullmatch(name)}


def _read_dimensions(gpt: Mapping[str, Tensor], vq: Mapping[str, Tensor], parts: _Sources) -> LlamaGenConfig:
    """Return the dimensions that names and shapes tell.

    Raises:
        UsageError: A weight that gives a dimension is missing, or the two files do not fit together.
    """
    telling = (
        *("cls_embedding.uncond_embedding", "tok_embeddings.weight", "layers.0.feed_forward.w1.weight"),
        *("layers.0.attention.wqkv.weight",),
    )
    refuse_faults(
        str(parts.gpt), {"missing": [name for name in telling if name not in gpt]}, f"{TITLE} (text to image)"
    )
    telling = ("decoder.norm_out.weight", "post_quant_conv.weight", "quantize.embedding.weight")
    refuse_faults(str(parts.vq), {"missing": [name for name in telling if name not in vq]}, "VQ model of LlamaGen")
    caption, caption_dim = gpt["cls_embedding.uncond_embedding"].shape
    codes, dim = gpt["tok_embeddings.weight"].shape
    vq_codes, code_width = vq["quantize.embedding.weight"].shape
    if codes != vq_codes:
        raise UsageError(
            f"{parts.vq.name} has {vq_codes} codes and {parts.gpt.name} {codes}: give the VQ model that it was trained "
            "with (vq_ds16_t2i.pt)"
        )
    if dim % _HEAD_WIDTH:
        raise UsageError(f"{parts.gpt.name} is {dim} wide: milr knows decoders whose heads are {_HEAD_WIDTH} wide")
    channels = vq["decoder.norm_out.weight"].shape[0]
    levels = _count(vq, r"decoder\.conv_blocks\.(\d+)\..+")
    ends = [f"decoder.conv_blocks.{place}.res.0.conv2.weight" for place in range(levels)]
    refuse_faults(str(parts.vq), {"missing": [name for name in ends if name not in vq]}, "VQ model of LlamaGen")
    widths = [vq[name].shape[0] for name in ends]
    pixels = 2 ** (levels - 1)
    if parts.side % pixels:
        raise UsageError(f"{parts.gpt.name}: images of {parts.side} pixels are no multiple of {pixels}")
    try:
        return LlamaGenConfig(
            dim=dim,
            layers=_count(gpt, r"layers\.(\d+)\..+"),
            heads=_HEADS.get(dim, dim // _HEAD_WIDTH),
            inner=gpt["layers.0.feed_forward.w1.weight"].shape[0],
            codes=codes,
            grid=parts.side // pixels,
            caption=caption,
            caption_dim=caption_dim,
            vq=VqConfig(
                channels=channels,
                multipliers=tuple(width // channels for width in reversed(widths)),
                blocks=_count(vq, r"decoder\.conv_blocks\.0\.res\.(\d+)\..+") - 1,
                latent_channels=vq["post_quant_conv.weight"].shape[0],
                code_width=code_width,
            ),
        )
    except ValidationError as error:
        raise UsageError(f"{parts.gpt.name} and {parts.vq.name}: {first_fault(error)}") from error


def _count(names: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many numbers the names have at the pattern's group."""
    return len({found[1] for name in names if (found := re.fullmatch(pattern, name))})


def _list_text_weights(folder: Path) -> list[Path]:
    return find_shards(folder) or sorted(folder.glob("pytorch_model*.bin"))


def _read_text_encoder(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a T5 in transformers' layout; safetensors are preferred."""
    if any(folder.glob("*.safetensors")):
        return {
            name: tensor if _T5_KEPT.fullmatch(name) else tensor[:0].clone()  # the decoder is not kept in memory
            for name, tensor in read_safetensors(folder)
        }
    tensors: dict[str, Tensor] = {}
    for path in _list_text_weights(folder):
        tensors |= read_checkpoint(path, "", any_hash=True)
    if not tensors:
        raise UsageError(f"{str(folder)!r} has neither *.safetensors nor pytorch_model*.bin: fetch its weights")
    return tensors


def _compare(tensors: Mapping[str, Tensor], network: nn.Module, origin: Path) -> None:
    """Refuse names and shapes that differ from the network's."""
    known = {
        name: tensor.shape for name, tensor in network.state_dict().items() if not name.endswith("embed_tokens.weight")
    }
    refuse_faults(
        str(origin),
        {
            "missing": known.keys() - tensors.keys(),
            "left over": tensors.keys() - known.keys(),
            "of another shape": [name for name in known if name in tensors and tensors[name].shape != known[name]],
        },
        TITLE,
    )
