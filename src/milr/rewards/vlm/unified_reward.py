"""`unified-reward`: UnifiedReward's pointwise protocol, through a server or in this process.

Source: CodeGoat24/UnifiedReward (MIT), inference_qwen/image_generation; the models were tuned on these words. The
authors of MILR stop at a score above 4, which is 0.75 here. The transformers script samples; we decode greedily.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from milr.errors import UsageError
from milr.models.devices import choose_dtype, find_device
from milr.models.received import check_config
from milr.rewards.base import Scores, start_scoring
from milr.rewards.images.convert import to_rgb
from milr.rewards.vlm.budget import CallCost
from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.parsers import Answer, Unreadable, read_unified
from milr.rewards.vlm.reward import VlmProtocol, VlmReward
from milr.tokens import find_control_tokens
from milr.types import Score, Task, Unscored
from milr.untrusted import one_line

POINTWISE = VlmProtocol(
    name="unified-reward",
    version=2,
    model="UnifiedReward",
    system=None,
    user=(
        "You are given a text caption and a generated image based on that caption. Your task is to evaluate this image "
        "based on two key criteria:\n"
        "1. Alignment with the Caption: Assess how well this image aligns with the provided caption. Consider the "
        "accuracy of depicted objects, their relationships, and attributes as described in the caption.\n"
        "2. Overall Image Quality: Examine the visual quality of this image, including clarity, detail preservation, "
        "color accuracy, and overall aesthetic appeal.\n"
        "Extract key elements from the provided text caption, evaluate their presence in the generated image using the "
        "format: 'element (type): value' (where value=0 means not generated, and value=1 means generated), and assign "
        "a score from 1 to 5 after 'Final Score:'.\n"
        "Your task is provided as follows:\n"
        "Text Caption: [{prompt}]"
    ),
    read=read_unified,
    stop_at=0.75,
    max_tokens=512,
    needs_url=True,
    image_first=True,
)


class UnifiedReward:
    """Scores from 1 to 5 as (s - 1) / 4. Implements `milr.rewards.base.Reward`."""

    stop_at = POINTWISE.stop_at

    def __init__(self, argument: str | None, vlm: VlmClient, *, device: str = "cpu", dtype: str | None = None) -> None:
        """Choose a server or a folder.

        Args:
            argument: A folder with the model (Qwen2.5-VL in transformers' layout, safetensors), or None for a server.
            vlm: The client that asks the server.
            device: Device of the folder's model, in torch's notation.
            dtype: Dtype of its weights; None leaves the choice to `milr.models.devices`.

        Raises:
            UsageError: There is neither, or the folder holds no such model.
        """
        self._reader = (
            VlmReward(POINTWISE, vlm)
            if argument is None
            else InProcess(POINTWISE, Path(argument), device=device, dtype=dtype)
        )
        self.name = self._reader.name

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return self._reader(images, tasks)

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        """Start scoring."""
        return start_scoring(self._reader, images, tasks)

    def call_costs(self, image_size: int, tasks: Sequence[Task] = ()) -> list[CallCost]:
        """Return the calls for scoring one image of that side; none in this process."""
        return self._reader.call_costs(image_size) if isinstance(self._reader, VlmReward) else []


class InProcess:
    """A VLM judge that transformers runs here, greedily, one image at a time."""

    def __init__(self, protocol: VlmProtocol, folder: Path, *, device: str = "cpu", dtype: str | None = None) -> None:
        """Load a vision-language model.

        Raises:
            UsageError: The folder holds no such model in safetensors, or there is no such device or dtype.
        """
        if not folder.is_dir() or not any(folder.glob("*.safetensors")):
            raise UsageError(
                f"{protocol.name}:{folder} is no folder with *.safetensors: fetch the model and give its folder, "
                f"or type {protocol.name} and --vlm-url of a server"
            )
        place = find_device(device)
        numbers = choose_dtype(dtype, place)
        transformers = import_module("transformers")
        import_module("transformers.utils.logging").disable_progress_bar()
        check_config(folder)
        try:
            self._processor: Any = transformers.AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            self._network: Any = transformers.AutoModelForImageTextToText.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=numbers, trust_remote_code=False
            )
        except Exception as error:  # transformers and safetensors raise errors of many kinds on broken files
            reason = one_line(f"{type(error).__name__}: {error}", 200)
            raise UsageError(f"{folder} holds no vision-language model that transformers reads: {reason}") from error
        self._network.to(place).eval().requires_grad_(False)
        # such marks are an image's positions in the text, so other words must not spell any
        self._marks = sorted(find_control_tokens(self._processor.tokenizer))
        self.protocol = protocol
        self.stop_at = protocol.stop_at
        self.name = f"{protocol.name}@{protocol.version}/{folder.name}"

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return [self._score(image, task) for image, task in zip(images, tasks, strict=True)]

    def _score(self, image: Image.Image, task: Task) -> Score | Unscored:
        mark = next((mark for mark in self._marks if mark in task.prompt), None)
        if mark is not None:
            return Unscored(
                f"the prompt spells {mark}, which this model reads as a mark: write it otherwise", self.name
            )
        try:
            answer = self._answer(to_rgb(image), self.protocol.fill(task))
            verdict = self.protocol.read(answer)
        except Unreadable as error:
            return Unscored(str(error), self.name)
        except (OSError, ValueError) as error:  # processors refuse shapes that their model cannot read
            return Unscored(f"the image cannot be read: {error}", self.name)
        return Score(
            verdict.value, self.name, self.stop_at, verdict.parts, verdict.explanation, {"answer": answer.text}
        )

    def _answer(self, image: Image.Image, words: str) -> Answer:
        content = [{"type": "image", "image": image}, {"type": "text", "text": words}]
        fed = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._network.device)
        limit = self.protocol.max_tokens
        written = self._network.generate(**fed, max_new_tokens=limit, do_sample=False)
        tokens = written[0, fed["input_ids"].shape[1] :]
        return Answer(self._processor.decode(tokens, skip_special_tokens=True), cut=len(tokens) >= limit)
