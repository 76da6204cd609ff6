"""A folder with a pipeline of diffusers, read without its weights: components, configs, shapes.

Only JSON and the headers of safetensors are read, so that a wrong folder is refused before gigabytes are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from typing import Any, cast

from milr.errors import UsageError
from milr.models.arguments import write_size
from milr.models.base import Capabilities, Description, ModelSize
from milr.models.families import PIPELINE
from milr.models.pipeline_recipes import OTHER, RECIPES, Recipe
from milr.models.received import check_config, read_index, read_json, refusing
from milr.untrusted import one_line
from milr.weights import sample

FAMILY = "diffusers"
_LIBRARIES = ("diffusers", "transformers")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HEADED = re.compile(r"(tokenizer|feature_extractor|image_processor|scheduler|processor)(_\d)?")
"""Components without weights."""
_WIDTHS, _PLANES = 16, 6.1
"""Most numbers that are held at a time: widths of a layer per token of the denoiser, and channels of the decoder's last
level per pixel. Bounds for the classes of `RECIPES`, traced at published size: 7.6 to 15.6, and 4.5 to 6.01."""
_SMALLEST = 2
"""Least number of steps of a side's size."""
_VERIFIED = (
    "a row of a batch equals the image alone, and diffusers' own call, for tiny random pipelines of this class; "
    "published weights were not run"
)


@dataclass(frozen=True)
class PipelineFolder:
    """The description of a folder; nothing is loaded yet."""

    folder: Path
    pipeline: str
    """Class of the pipeline."""
    components: Mapping[str, tuple[str, str]]
    """Component -> library and class, for those that the folder has."""
    recipe: Recipe
    size: tuple[int, int]
    """Pixels of an image's width and height."""
    noise: tuple[int, int, int]
    """Channels, rows and columns of the start noise."""

    @property
    def capabilities(self) -> Capabilities:
        """Return the model's capabilities."""
        able = Capabilities(
            image_size=self.size[0],
            image_height=None if self.size[0] == self.size[1] else self.size[1],
            image_tokens=0,
            width=0,
            latents="none",
            reads_images=False,
            writes_text=False,
            noise_shape=self.noise,
            branches=self.recipe.branches,
            guidance_input=self.recipe.guidance_input,
            prompt_limit=self.recipe.prompt_limit,
            family=FAMILY,
            licence=self.recipe.licence,
            verification=_VERIFIED if self.pipeline in RECIPES else "",
        )
        return replace(able, image_bytes=self._measure({}).image_bytes(able, 2))

    @property
    def description(self) -> Description:
        """Return everything that is known before the weights are loaded; this counts them on the meta device."""
        return Description(
            capabilities=self.capabilities,
            defaults=self.defaults,
            profile=self.pipeline,
            summary=self.recipe.summary,
            size=self._measure(count_parameters(self)),
            best={"method": "best-of-n"},
        )

    @property
    def defaults(self) -> Mapping[str, object]:
        """Return the settings whose best values depend on the model."""
        return {"guidance": self.recipe.guidance} if self.recipe is not OTHER else {}

    @property
    def denoiser(self) -> str:
        """Return the component that denoises: "transformer" or "unet"."""
        return "transformer" if "transformer" in self.components else "unet"

    def identify(self) -> str:
        """Return eight hexadecimal digits of the configs and of each weight file's size and header."""
        digest = hashlib.sha256((self.folder / PIPELINE).read_bytes())
        for path in sorted(self.folder.glob("*/*.safetensors")):
            sample(digest, path, f"{path.parent.name}/{path.name}")
        return digest.hexdigest()[:8]

    def shapes(self, component: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of a component's weights, from the headers of its files."""
        for path in sorted((self.folder / component).glob("*.safetensors")):
            yield from read_shapes(path)

    def _measure(self, parameters: Mapping[str, int]) -> ModelSize:
        config = read_json(self.folder / self.denoiser / "config.json")
        heads, width = config.get("num_attention_heads"), config.get("attention_head_dim")
        d = heads * width if isinstance(heads, int) and isinstance(width, int) else 1024
        tokens = self.noise[1] * self.noise[2] // (self.recipe.patch * _patch(config)) ** 2
        tokens += self.recipe.prompt_limit or 77
        channels = _channels(read_json(self.folder / "vae" / "config.json"))
        width, height = self.size
        most = max(self.recipe.branches * tokens * d * _WIDTHS, int(_PLANES * width * height * channels[0]))
        return ModelSize(parameters, prompt_tokens=self.recipe.prompt_limit or 77, numbers_per_image=most)


def open_pipeline(folder: Path, *, size: tuple[int, int] | None = None, weights: bool = True) -> PipelineFolder:
    """Describe a folder; of its weights at most the headers are read.

    Args:
        folder: Holds model_index.json and one folder a component.
        size: Pixels of an image's width and height; None takes the configs' own size.
        weights: If true, there must be safetensors for each network.

    Raises:
        UsageError: The folder holds no such pipeline, a component or its safetensors are missing, code of its own is
            asked for, or the model cannot draw that size.
    """
    index = _read_index(folder)
    kind = index.get("_class_name")
    if not isinstance(kind, str):
        raise UsageError(
            f"{str(folder)!r} asks for a pipeline of its own code, {one_line(repr(kind), 80)}: milr runs none"
        )
    if kind not in RECIPES and not _draws_from_text(kind):
        raise UsageError(
            f"{str(folder)!r} holds a {one_line(kind, 80)}, which draws no images from a text: give a pipeline of "
            f"diffusers that does, such as {', '.join(RECIPES)}"
        )
    components: dict[str, tuple[str, str]] = {}
    for name, value in index.items():
        pair = cast("list[object]", value) if isinstance(value, list) else []
        if name.startswith("_") or len(pair) != 2 or pair == [None, None]:
            continue
        library, made = pair
        if not isinstance(library, str) or not isinstance(made, str) or library.partition(".")[0] not in _LIBRARIES:
            if library == "stable_diffusion":  # the safety checker's module in diffusers
                continue
            raise UsageError(
                f"{str(folder)!r} takes its {one_line(name, 40)} from {one_line(repr(library), 80)}: milr runs code of "
                "diffusers and transformers alone"
            )
        _check_component(folder, name, weights=weights)
        components[name] = (library, made)
    recipe = RECIPES.get(kind, OTHER)
    if "vae" not in components or not {"transformer", "unet"} & set(components):
        raise UsageError(f"{str(folder)!r} lacks its vae, or a transformer or unet: fetch the whole pipeline again")
    return _shape(folder, kind, components, recipe, size)


def read_header(path: Path) -> Mapping[str, str]:
    """Return the texts in the header of a file of safetensors, by name.

    Raises:
        UsageError: It is no safetensors.
    """
    from safetensors import safe_open

    with refusing(repr(str(path))):
        file = cast("Any", safe_open(path, framework="pt"))
        return dict(file.metadata() or {})


def read_shapes(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of the tensors in a file, from its header.

    Raises:
        UsageError: It is no safetensors.
    """
    from safetensors import safe_open

    with refusing(repr(str(path))):
        file = cast("Any", safe_open(path, framework="pt"))
        for key in file.keys():  # noqa: SIM118 - not a dictionary
            yield str(key), tuple(int(many) for many in file.get_slice(key).get_shape())


def count_parameters(pipeline: PipelineFolder) -> dict[str, int]:
    """Return the number of weights of each component, made from its config on the meta device."""
    import importlib

    import torch

    counts: dict[str, int] = {}
    for name, (library, made) in pipeline.components.items():
        if _HEADED.fullmatch(name):
            continue
        found = sum(_product(shape) for _, shape in pipeline.shapes(name))
        if not found:  # only the small files are here
            kind: Any = getattr(importlib.import_module(library), made)
            config = read_json(pipeline.folder / name / "config.json")
            with refusing(repr(str(pipeline.folder / name))), torch.device("meta"):
                network: Any = kind.from_config(config) if library == "diffusers" else kind(kind.config_class(**config))
            held = {id(one): one for one in network.state_dict(keep_vars=True).values()}  # a tied weight counts once
            found = sum(one.numel() for one in held.values())
        counts[name.replace("_", " ")] = found
    return counts


def _read_index(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UsageError(f"no pipeline folder {str(folder)!r}: give a folder with {PIPELINE}, or organisation/name")
    if not (folder / PIPELINE).is_file():
        if (folder / "config.json").is_file():
            raise UsageError(f"{str(folder)!r} holds a checkpoint, no pipeline of diffusers: type --model {folder}")
        single = sorted(path.name for path in folder.glob("*") if path.suffix in (".safetensors", *_PICKLES))
        hint = f"{single[0]!r} alone is not enough" if single else "fetch the whole pipeline"
        raise UsageError(f"{str(folder)!r} has no {PIPELINE}: {hint}; give a folder in diffusers' layout")
    return read_json(folder / PIPELINE)


def _check_component(folder: Path, name: str, *, weights: bool) -> None:
    """Refuse a component whose files are not all there, or are pickles."""
    place = folder / name
    if not place.is_dir() or not any(place.iterdir()):
        raise UsageError(f"{str(folder)!r} lacks its component {name!r}: fetch the whole pipeline again")
    check_config(place)
    if _HEADED.fullmatch(name):
        return
    if not (place / "config.json").is_file():
        raise UsageError(f"{str(place)!r} has no config.json: fetch the whole pipeline again")
    if not weights:
        return
    if not any(place.glob("*.safetensors")):
        pickles = [path.name for path in place.iterdir() if path.suffix in _PICKLES]
        raise UsageError(
            f"{str(place)!r} has no *.safetensors: "
            + (
                f"milr opens no pickles such as {pickles[0]!r}; fetch the safetensors"
                if pickles
                else "copy its weights there, or type milr fetch NAME with its name at the hub"
            )
        )
    for index in place.glob("*.safetensors.index.json"):
        missing = [one for one in read_index(index) if not (place / one).is_file()]
        if missing:
            raise UsageError(
                f"{str(place)!r} lacks {missing[0]!r}, which its index names: fetch the rest of its weights"
            )


def _shape(
    folder: Path, kind: str, components: Mapping[str, tuple[str, str]], recipe: Recipe, size: tuple[int, int] | None
) -> PipelineFolder:
    """Find the size of images and of their noise; refuse a size that the networks cannot make."""
    config = read_json(folder / ("transformer" if "transformer" in components else "unet") / "config.json")
    vae = read_json(folder / "vae" / "config.json")
    scale = 2 ** (len(_channels(vae)) - 1)
    step = scale * recipe.patch * _patch(config)
    multiple = lcm(step, recipe.multiple)
    least = max(_SMALLEST * step, multiple)
    own = config.get("sample_size")
    usual = recipe.image_size or (own * scale if isinstance(own, int) else None)
    wanted = size or ((usual, usual) if usual else None)
    if wanted is None:
        raise UsageError(f"{str(folder)!r} does not say what size it draws: type diffusers:{folder},size=512")
    largest = config.get("pos_embed_max_size")
    most = largest * step if isinstance(largest, int) else None
    if any(side % multiple or side < least or (most is not None and side > most) for side in wanted):
        usable = f"multiples of {multiple} from {least}" + (f" to {most}" if most is not None else "")
        raise UsageError(
            f"size {write_size(wanted)}: this {kind} draws {usable} pixels per side ({usual} as a rule); give one"
        )
    channels = vae.get("latent_channels")
    if not isinstance(channels, int):
        raise UsageError(f"{str(folder / 'vae' / 'config.json')!r} has no latent_channels: fetch the pipeline again")
    width, height = wanted
    return PipelineFolder(folder, kind, components, recipe, wanted, (channels, height // scale, width // scale))


def _channels(vae: Mapping[str, Any]) -> list[int]:
    """Return the channels of an autoencoder's levels, the outermost first."""
    found: object = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    if not isinstance(found, list) or not found or not all(isinstance(one, int) for one in cast("list[object]", found)):
        raise UsageError("the pipeline's vae has no block_out_channels in its config.json: fetch the pipeline again")
    return cast("list[int]", found)


def _patch(config: Mapping[str, Any]) -> int:
    found: object = config.get("patch_size", 1)
    return found if isinstance(found, int) and found > 0 else 1


def _product(shape: tuple[int, ...]) -> int:
    found = 1
    for many in shape:
        found *= many
    return found


def _draws_from_text(kind: str) -> bool:
    """Return true if diffusers lists the class among its text-to-image pipelines."""
    from importlib import import_module

    require_diffusers()
    listed: Mapping[str, Any] = import_module("diffusers.pipelines.auto_pipeline").AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    return kind in {one.__name__ for one in listed.values()}


def require_diffusers(packages: tuple[str, ...] = ("diffusers",)) -> None:
    """Refuse to go on where the extra is not installed.

    Raises:
        UsageError: With the command that installs it.
    """
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise UsageError(
                f'diffusers: needs the package {package!r}, which is not installed: type pip install "milr[diffusers]"'
            )
