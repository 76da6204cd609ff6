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
from math import prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from milr.decode.batching import work_in_batches
from milr.errors import UsageError
from milr.models.arguments import read_arguments, read_size, write_size
from milr.models.base import Description, ImageOutput, ImageRequest, TaskState
from milr.models.devices import choose_dtype, find_device, refuse_int8
from milr.models.hub import LORA, PIPELINES, Confirm, find_at_hub, parse_hub_name, refuse
from milr.models.lora import Lora, check_lora, merge_lora, open_lora
from milr.models.pipeline_folder import PipelineFolder, open_pipeline, require_diffusers
from milr.models.prompt_only import PromptOnly
from milr.models.received import refusing
from milr.settings import SamplingParams
from milr.types import ImageSample, Task

_OPTIONS = ("size", "steps", "lora")
_PIXELS_AT_ONCE = 4 * 1024 * 1024


@dataclass(frozen=True)
class Asked:
    """A name with its options: ``NAME_OR_FOLDER,size=768x512,steps=20,lora=NAME_OR_PATH``."""

    name: str
    size: tuple[int, int] | None = None
    """Pixels of an image's width and height."""
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
        steps, size = given.get("steps"), read_size(given["size"]) if "size" in given else None
        if steps is not None and (not steps.isdecimal() or not 0 < int(steps) < 10**5):
            raise UsageError(f"steps={steps}: give a whole number above 0, for instance steps=28")
        if "size" in given and size is None:
            raise UsageError(f"size={given['size']}: give pixels per side, or width and height: size=512, size=768x512")
        return cls(name, size, None if steps is None else int(steps), given.get("lora"))

    def open(self, *, weights: bool, offline: bool, confirm: Confirm = refuse) -> tuple[PipelineFolder, Lora | None]:
        """Return the descriptions of the pipeline and its LoRA; weights are fetched if they are needed, not read.

        Raises:
            UsageError: As `open_pipeline`, `open_lora`, `check_lora` and `milr.models.hub.find_at_hub`.
        """
        folder = _find(self.name, weights, PIPELINES, offline=offline, confirm=confirm)
        pipeline = open_pipeline(folder, size=self.size, weights=weights)
        if self.lora is None:
            return pipeline, None
        path = _find(self.lora, weights, LORA, offline=offline, confirm=confirm)
        if not weights and path.is_dir() and not any(path.glob("*.safetensors")):
            return pipeline, None  # of a LoRA at the hub, small files alone are here
        lora = open_lora(path, pipeline.denoiser)
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
        refuse_int8(dtype, "diffusers")
        numbers = choose_dtype(dtype, place)
        named = str(numbers).removeprefix("torch.")
        self._described, lora = asked.open(weights=True, offline=offline, confirm=confirm)
        recipe = self._described.recipe
        if named not in recipe.dtypes:
            raise UsageError(
                f"{recipe.summary.partition(';')[0]} draws garbage in {named}: give --dtype "
                f"{' or '.join(recipe.dtypes[::-1])}"
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
        options = [] if asked.size is None else [f"size={write_size(asked.size)}"]
        options += [] if asked.steps is None else [f"steps={asked.steps}"]
        options += [f"lora={lora.name}"] if lora is not None else []
        self.name = ",".join([f"diffusers:{self.folder.name}@{self._described.identify()}", *options])
        self._at_once = 1 if deterministic else max(1, _PIXELS_AT_ONCE // prod(self.capabilities.dimensions))

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
        width, height = self.capabilities.dimensions
        arguments: dict[str, Any] = {**self._described.recipe.call, "height": height, "width": width}
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
