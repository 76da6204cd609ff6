"""Any text-to-image pipeline of diffusers: `diffusers:NAME_OR_FOLDER`, with options after commas.

The pipeline's own classes draw; milr gives each image its own random stream, so that a row of a batch equals the image
alone. Source of the pipelines: huggingface/diffusers 0.42.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from milr.decode.batching import work_in_batches
from milr.errors import UsageError
from milr.models.base import Description, ImageOutput, ImageRequest, TaskState
from milr.models.devices import choose_dtype, find_device
from milr.models.hub import LORA, PIPELINES, Confirm, find_at_hub, parse_hub_name, refuse
from milr.models.pipeline_folder import LORA as LORA_FILE
from milr.models.pipeline_folder import (
    PipelineFolder,
    check_lora,
    open_pipeline,
    read_arguments,
    require_diffusers,
)
from milr.models.prompt_only import PromptOnly
from milr.models.received import read_json, refusing
from milr.settings import SamplingParams
from milr.types import ImageSample, Task

_OPTIONS = ("size", "steps", "lora")
_PIXELS_AT_ONCE = 4 * 1024 * 1024
_LORA_FIELDS = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out")
"""Fields of adapter_config.json that are read."""


@dataclass(frozen=True)
class Asked:
    """A name with its options: ``NAME_OR_FOLDER,size=512,steps=20,lora=NAME_OR_FOLDER``."""

    name: str
    size: int | None = None
    steps: int | None = None
    lora: str | None = None

    @classmethod
    def read(cls, argument: str | None) -> Asked:
        """Read what follows ``diffusers:``.

        Raises:
            UsageError: No name, an unknown option, or a number that is none.
        """
        nameless = "diffusers: names no pipeline: type diffusers:FOLDER or diffusers:organisation/name"
        name, given = read_arguments("diffusers", argument, _OPTIONS, nameless=nameless)
        numbers: dict[str, int | None] = {}
        for key in ("size", "steps"):
            text = given.get(key)
            if text is not None and (not text.isdecimal() or not 0 < int(text) < 10**5):
                raise UsageError(f"{key}={text}: give a whole number above 0, for instance {key}=28")
            numbers[key] = None if text is None else int(text)
        return cls(name, numbers["size"], numbers["steps"], given.get("lora"))

    def open(self, *, weights: bool, offline: bool, confirm: Confirm = refuse) -> tuple[PipelineFolder, Path | None]:
        """Return the pipeline's description and its LoRA's folder; weights are fetched if they are needed, not read.

        Raises:
            UsageError: As `open_pipeline`, `check_lora` and `milr.models.hub.find_at_hub`.
        """
        folder = _find(self.name, weights, PIPELINES, offline=offline, confirm=confirm)
        pipeline = open_pipeline(folder, size=self.size, weights=weights)
        if self.lora is None:
            return pipeline, None
        lora = _find(self.lora, weights, LORA, offline=offline, confirm=confirm)
        if weights or (lora / LORA_FILE).is_file():
            check_lora(pipeline, lora)
        return pipeline, lora


def _find(name: str, weights: bool, layout: Any, *, offline: bool, confirm: Confirm) -> Path:
    at_hub = None if Path(name).exists() else parse_hub_name(name)
    if at_hub is None or name.startswith("."):
        return Path(name)
    return find_at_hub(at_hub, layout=layout, offline=offline, confirm=confirm, weights=None if weights else ())


class Diffusers(PromptOnly):
    """A frozen pipeline of diffusers. Implements `milr.models.base.Model`."""

    def __init__(
        self,
        argument: str | None,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        deterministic: bool = False,
        offline: bool = False,
        confirm: Confirm = refuse,
    ) -> None:
        """Load a pipeline from safetensors; no code of its folder runs.

        Args:
            argument: See `Asked`.
            device: In torch's notation.
            dtype: "float32", "bfloat16" or "float16"; None lets `milr.models.devices` choose.
            deterministic: Draw one image at a time, so that in half precision too it does not depend on its batch.
            offline: Fetch nothing from the hub.
            confirm: Decides on a download.

        Raises:
            UsageError: As `Asked.open`; an unknown device or dtype, or a LoRA that changes nothing.
        """
        asked = Asked.read(argument)
        require_diffusers(("diffusers", "peft") if asked.lora else ("diffusers",))
        place = find_device(device)
        numbers = choose_dtype(dtype, place)
        named = str(numbers).removeprefix("torch.")
        self._described, lora = asked.open(weights=True, offline=offline, confirm=confirm)
        recipe = self._described.recipe
        if named not in recipe.dtypes:
            raise UsageError(
                f"{recipe.summary} draws garbage in {named}: give --dtype {' or '.join(recipe.dtypes[::-1])}"
            )
        self.folder = self._described.folder
        self.capabilities = self._described.capabilities
        self.defaults: Mapping[str, object] = self._described.defaults
        self.deterministic = deterministic
        self.device = place
        self._steps = asked.steps or recipe.inference_steps
        self.pipeline = _load(self._described, numbers)
        if lora is not None:
            merge_lora(self.pipeline, self._described.denoiser, lora)
        self.pipeline.to(place)
        options = [f"{key}={value}" for key in ("size", "steps") if (value := getattr(asked, key)) is not None]
        options += [f"lora={lora.name}"] if lora is not None else []
        self.name = ",".join([f"diffusers:{self.folder.name}@{self._described.identify()}", *options])
        self._at_once = 1 if deterministic else max(1, _PIXELS_AT_ONCE // self.capabilities.image_size**2)

    @staticmethod
    def describe(argument: str | None, *, offline: bool = False) -> Description:
        """Describe the pipeline of an argument; of one at the hub small files alone are fetched.

        Raises:
            UsageError: As `Asked.open`.
        """
        pipeline, _ = Asked.read(argument).open(weights=False, offline=offline)
        return pipeline.description

    @staticmethod
    def fetch(argument: str | None, *, offline: bool = False, confirm: Confirm = refuse) -> Path:
        """Fetch a pipeline, and its LoRA, into the hub's cache; return the pipeline's folder.

        Raises:
            UsageError: As `Asked.open`.
        """
        pipeline, _ = Asked.read(argument).open(weights=True, offline=offline, confirm=confirm)
        return pipeline.folder

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """Return one state per task, with a note where its prompt is longer than the model reads."""
        return [TaskState(task, notes=self._note(task.prompt)) for task in tasks]

    @torch.inference_mode()
    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        """Draw each requested image, from noise of its own stream."""
        images, self._at_once = work_in_batches(
            requests, lambda batch: self._draw(batch, sampling.guidance), self._at_once
        )
        return [ImageOutput(ImageSample((), image), None) for image in images]

    def _draw(self, batch: Sequence[ImageRequest], guidance: float) -> list[Image.Image]:
        size = self.capabilities.image_size
        arguments: dict[str, Any] = {**self._described.recipe.call, "height": size, "width": size}
        if self._steps:
            arguments["num_inference_steps"] = self._steps
        if "guidance_scale" in inspect.signature(type(self.pipeline).__call__).parameters:
            arguments["guidance_scale"] = guidance
        made = self.pipeline(
            prompt=[one.state.task.prompt for one in batch],
            generator=[one.stream.clone_state() for one in batch],  # on the CPU: the same noise for every device
            output_type="pil",
            **arguments,
        )
        return [image.convert("RGB") for image in made.images]

    def _note(self, prompt: str) -> tuple[str, ...]:
        limit = self.capabilities.prompt_limit
        names = sorted(name for name in self._described.components if name.startswith("tokenizer"))
        if limit is None or not names:
            return ()
        longest = getattr(self.pipeline, names[-1])  # the last text encoder reads most
        many = len(longest(prompt, truncation=False, verbose=False).input_ids)
        return (f"the prompt has {many} tokens, and the model reads the first {limit}",) if many > limit else ()


def _load(described: PipelineFolder, numbers: torch.dtype) -> Any:
    """Load the pipeline with its own class, quietly."""
    with _quiet("diffusers"), _quiet("transformers"):
        kind: Any = getattr(import_module("diffusers"), described.pipeline)
        with refusing(repr(str(described.folder))):
            pipeline: Any = kind.from_pretrained(
                described.folder,
                dtype=numbers,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipeline


@contextmanager
def _quiet(library: str) -> Generator[None]:
    """Let a library print neither warnings nor progress bars, and restore both."""
    logs: Any = import_module(f"{library}.utils.logging")
    shown, barred = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(shown)
        if barred:
            logs.enable_progress_bar()


def merge_lora(pipeline: Any, denoiser: str, folder: Path) -> None:
    """Merge a LoRA in PEFT's layout into the pipeline's denoiser, and check that it changed something.

    `load_lora_weights` of diffusers changes nothing with such files and only warns.

    Raises:
        UsageError: A weight is left over or missing, or no weight of the denoiser changed.
    """
    load_file: Any = import_module("safetensors.torch").load_file
    peft: Any = import_module("peft")
    read: Mapping[str, Any] = read_json(folder / "adapter_config.json")
    network: Any = getattr(pipeline, denoiser)
    with refusing(repr(str(folder))):
        config = peft.LoraConfig(**{name: read[name] for name in _LORA_FIELDS if read.get(name) is not None})
        wrapped: Any = peft.get_peft_model(network, config)
        before = _sum_up(wrapped)
        loaded: Any = peft.set_peft_model_state_dict(wrapped, load_file(folder / LORA_FILE))
        lacking = [key for key in loaded.missing_keys if "lora_" in key]
        if loaded.unexpected_keys or lacking:
            odd = [*loaded.unexpected_keys, *lacking][0]
            raise UsageError(f"the LoRA {str(folder)!r} and its base do not fit: {odd!r}; give the base that it is for")
        merged: Any = wrapped.merge_and_unload()
    after = {name: _sum(weight) for name, weight in merged.named_parameters()}
    if all(after.get(name) == value for name, value in before.items()):
        raise UsageError(
            f"the LoRA {str(folder)!r} changes nothing: its weights are zero; fetch it again, or leave it out"
        )
    setattr(pipeline, denoiser, merged.eval().requires_grad_(False))


def _sum_up(wrapped: Any) -> dict[str, tuple[float, float]]:
    """Return sums of the weights that the LoRA will change, by their names without it."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): _sum(weight)
        for name, weight in wrapped.named_parameters()
        if ".base_layer.weight" in name
    }


def _sum(weight: torch.Tensor) -> tuple[float, float]:
    numbers = weight.detach().double()
    return float(numbers.sum()), float(numbers.square().sum())
