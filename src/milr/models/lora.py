"""LoRAs for a pipeline's denoiser: PEFT's folders, and single files as diffusers saves them.

Both are merged with PEFT in one way. Their headers alone are read before that, so that a wrong one is refused early.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch

from milr.errors import UsageError
from milr.models.pipeline_folder import PipelineFolder, read_header, read_shapes
from milr.models.received import read_json, refusing
from milr.untrusted import one_line
from milr.weights import sample

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The files of PEFT's layout."""
_PREFIX = "base_model.model."
_FIELDS = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out")
"""Fields of adapter_config.json that are read."""
_METADATA = "lora_adapter_metadata"
"""Entry in the header of a file by diffusers: its config in JSON, with the denoiser's name before each field."""
_SIDES = {"lora_A": "A", "lora.down": "A", "lora_down": "A", "lora_B": "B", "lora.up": "B", "lora_up": "B"}
_KEY = re.compile(r"(?P<module>.+)\.(?P<side>lora_A|lora_B|lora\.down|lora\.up|lora_down|lora_up)\.weight")
_ALPHA = re.compile(r"(?P<module>.+?)(\.lora)?\.alpha")
_WAY_OUT = "load it with diffusers, save it by save_lora_weights, and give that file"


@dataclass(frozen=True)
class Lora:
    """The description of a LoRA; its weights are not read yet."""

    path: Path
    """The folder or the file that was named."""
    weights: Path
    base: str
    """The base that it says it is for."""
    places: Mapping[str, tuple[str, str]]
    """Key in the file -> name of the denoiser's layer, and "A" or "B"."""
    shapes: Mapping[str, tuple[int, ...]]
    """Key in the file -> shape."""
    config: Mapping[str, Any]
    """Fields of `peft.LoraConfig`."""
    alphas: Mapping[str, str] | None
    """Layer -> key of its own alpha in a single file; None for a folder, whose config says all."""

    @property
    def name(self) -> str:
        """Return its name and a hash of its weights' header and size: files of one name are told apart."""
        digest = hashlib.sha256()
        sample(digest, self.weights)
        return f"{self.path.stem if self.path.is_file() else self.path.name}@{digest.hexdigest()[:8]}"


def open_lora(path: Path, denoiser: str) -> Lora:
    """Describe a LoRA by its config and its header.

    Args:
        path: A folder in PEFT's layout, a folder with one file of safetensors, or that file.
        denoiser: The pipeline's component that it changes: "transformer" or "unet".

    Raises:
        UsageError: There is no such file, it is a pickle, or it is another kind of adapter.
    """
    if path.is_file() and path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        path = path.parent
    if (path / CONFIG).is_file():
        return _open_folder(path)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            pickled = "; its weights are a pickle, which milr does not open" if any(path.glob("*.bin")) else ""
            raise UsageError(
                f"{str(path)!r} has neither {CONFIG} nor one file of safetensors{pickled}: give a folder in PEFT's "
                "layout, or the file"
            )
        return _open_file(path, files[0], denoiser)
    if not path.is_file():
        raise UsageError(
            f"no LoRA {str(path)!r}: give a folder with {CONFIG} and {WEIGHTS}, or a file of safetensors by diffusers"
        )
    if path.suffix != ".safetensors":
        raise UsageError(
            f"the LoRA {str(path)!r} is no file of safetensors, and milr opens no pickles: save it as such"
        )
    return _open_file(path, path, denoiser)


def check_lora(pipeline: PipelineFolder, lora: Lora) -> None:
    """Refuse a LoRA that does not fit the pipeline's denoiser; of both, headers alone are read.

    Raises:
        UsageError: It was made for another base, or has no weights.
    """
    base = dict(pipeline.shapes(pipeline.denoiser))
    if not lora.places:
        raise UsageError(f"the LoRA {str(lora.path)!r} has no weights: fetch it again")
    for key, (module, side) in lora.places.items():
        weight, axis = base.get(f"{module}.weight"), 0 if side == "B" else 1
        if base and (weight is None or lora.shapes[key][axis] != weight[axis]):
            there = f"is {' x '.join(map(str, weight))} here" if weight else "is not here"
            raise UsageError(
                f"the LoRA {str(lora.path)!r} is for another base ({lora.base}): its {one_line(module, 80)} {there}; "
                "give the pipeline that it was trained on"
            )


def merge_lora(pipeline: Any, denoiser: str, lora: Lora) -> None:
    """Merge a LoRA into the pipeline's denoiser, and check that it changed something.

    `load_lora_weights` of diffusers changes nothing with PEFT's folders and only warns.

    Raises:
        UsageError: A weight is left over or missing, or no weight of the denoiser changed.
    """
    load_file: Any = import_module("safetensors.torch").load_file
    peft: Any = import_module("peft")
    network: Any = getattr(pipeline, denoiser)
    with refusing(repr(str(lora.path))):
        read: Mapping[str, torch.Tensor] = load_file(lora.weights)
        config = peft.LoraConfig(**_complete(lora, read))
        wrapped: Any = peft.get_peft_model(network, config)
        before = _sum_up(wrapped)
        named = {f"{_PREFIX}{module}.lora_{side}.weight": read[key] for key, (module, side) in lora.places.items()}
        loaded: Any = peft.set_peft_model_state_dict(wrapped, named)
        lacking = [key for key in loaded.missing_keys if "lora_" in key]
        if loaded.unexpected_keys or lacking:
            odd = [*loaded.unexpected_keys, *lacking][0]
            raise UsageError(
                f"the LoRA {str(lora.path)!r} and its base do not fit: {odd!r}; give the base that it is for"
            )
        merged: Any = wrapped.merge_and_unload()
    after = {name: _sum(weight) for name, weight in merged.named_parameters()}
    if all(after.get(name) == value for name, value in before.items()):
        raise UsageError(
            f"the LoRA {str(lora.path)!r} changes nothing: its weights are zero; fetch it again, or leave it out"
        )
    setattr(pipeline, denoiser, merged.eval().requires_grad_(False))


def _open_folder(path: Path) -> Lora:
    described = read_json(path / CONFIG)
    if not (path / WEIGHTS).is_file():
        said = "its weights are a pickle, which milr does not open" if any(path.glob("*.bin")) else "it is incomplete"
        raise UsageError(f"{str(path)!r} has no {WEIGHTS}: {said}; save the LoRA with safetensors")
    if described.get("peft_type") != "LORA":
        shown = one_line(repr(described.get("peft_type")), 40)
        raise UsageError(f"{str(path)!r} is an adapter of type {shown}: milr merges those of type 'LORA'")
    shapes = dict(read_shapes(path / WEIGHTS))
    places: dict[str, tuple[str, str]] = {}
    for key in shapes:
        found = _KEY.fullmatch(key)
        if found is None or not found["side"].startswith("lora_") or not key.startswith(_PREFIX):
            raise UsageError(
                f"{str(path)!r} has {one_line(key, 80)!r}, which is no weight of a plain LoRA: merge it yourself"
            )
        places[key] = found["module"].removeprefix(_PREFIX), _SIDES[found["side"]]
    config = {field: described[field] for field in _FIELDS if described.get(field) is not None}
    base = one_line(str(described.get("base_model_name_or_path", "an unnamed base")), 80)
    return Lora(path, path / WEIGHTS, base, places, shapes, config, None)


def _open_file(path: Path, file: Path, denoiser: str) -> Lora:
    """Describe a single file: layers after the denoiser's name, in PEFT's words or in diffusers' older ones."""
    header, shapes = read_header(file), dict(read_shapes(file))
    places: dict[str, tuple[str, str]] = {}
    alphas: dict[str, str] = {}
    for key in shapes:
        alpha, found = _ALPHA.fullmatch(key), _KEY.fullmatch(key)
        named = found or alpha
        if named is None or not key.startswith(f"{denoiser}."):
            raise UsageError(
                f"{str(file)!r} has {one_line(key, 80)!r}, and a single LoRA file names layers of the {denoiser} "
                f"alone, as {denoiser}.LAYER.lora_A.weight: {_WAY_OUT}"
            )
        module = named["module"].removeprefix(f"{denoiser}.")
        if found is None:
            alphas[module] = key
        else:
            places[key] = module, _SIDES[found["side"]]
    ranks = {module: shapes[key][0] for key, (module, side) in places.items() if side == "A"}
    config: dict[str, Any] = {
        "target_modules": sorted(ranks),
        "rank_pattern": {f"^{one}": r for one, r in ranks.items()},
    }
    config |= _read_metadata(file, header, denoiser)
    return Lora(path, file, "its file does not name one", places, shapes, config, alphas)


def _read_metadata(file: Path, header: Mapping[str, str], denoiser: str) -> dict[str, Any]:
    """Return the strength of a file by diffusers from its header; without one, alpha is the rank."""
    try:
        read: object = json.loads(header.get(_METADATA, "{}"))
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise UsageError(f"the header of {str(file)!r} is damaged ({_METADATA}): {_WAY_OUT}")
    fields = cast("dict[str, object]", read)
    names = ("lora_alpha", "alpha_pattern", "use_rslora")
    return {name: fields[f"{denoiser}.{name}"] for name in names if fields.get(f"{denoiser}.{name}") is not None}


def _complete(lora: Lora, read: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the config with the alphas of a single file, which are its ranks if nothing else is said."""
    if lora.alphas is None:
        return dict(lora.config)
    ranks = {name: int(rank) for name, rank in lora.config["rank_pattern"].items()}
    usual = max(ranks.values(), default=1)
    strengths = {f"^{module}": float(read[key]) for module, key in lora.alphas.items()}
    if "lora_alpha" not in lora.config:
        strengths = {**ranks, **strengths}
    config = {"r": usual, "lora_alpha": usual, **lora.config}
    return {**config, "alpha_pattern": {**strengths, **lora.config.get("alpha_pattern", {})}}


def _sum_up(wrapped: Any) -> dict[str, tuple[float, float]]:
    """Return sums of the weights that the LoRA will change, keyed by the weights' names in the plain network."""
    return {
        name.removeprefix(_PREFIX).replace(".base_layer.", "."): _sum(weight)
        for name, weight in wrapped.named_parameters()
        if ".base_layer.weight" in name
    }


def _sum(weight: torch.Tensor) -> tuple[float, float]:
    numbers = weight.detach().double()
    return float(numbers.sum()), float(numbers.square().sum())
