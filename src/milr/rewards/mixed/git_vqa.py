"""The reward `git-vqa`: GIT answers whether each object of a task is in the image, in its colour and number.

A part of the authors' MixedReward. Source: `score_git.py` of miyapeng/MILR (aa3a6db), microsoft/git-large-vqav2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from transformers.models.bert.tokenization_bert import BertTokenizer
from transformers.models.git.modeling_git import GitForCausalLM

from milr.errors import UsageError
from milr.rewards.geneval.colors import prepare
from milr.rewards.images.tensors import read_rgb
from milr.rewards.mixed.known_answers import refuse_blind
from milr.rewards.pretrained import load_network, load_tokenizer
from milr.types import Requirement, Score, Task, Unscored
from milr.weights import WeightFile, Weights, name_with

WEIGHTS = Weights(
    name="git-large-vqav2",
    title="GIT for questions",
    files=(WeightFile("config.json"), WeightFile("model.safetensors"), WeightFile("vocab.txt")),
    commands=("hf download microsoft/git-large-vqav2 --local-dir {folder}",),
)
YES, NO = 2748, 2053
"""Ids of the words in BERT's uncased vocabulary."""


def write_question(item: Requirement) -> str:
    """Write the question about an item of the include list in the authors' words; its plural is a plain "s"."""
    thing = f"{item.color} {item.name}" if item.color else item.name
    return f"Are there {item.count} {thing}s?" if item.count > 1 else f"Is this a {thing}?"


class GitVqa:
    """The mean of GIT's p(yes) / (p(yes) + p(no)) over the questions about a task; the parts are the answers."""

    stop_at = 0.8

    def __init__(self, *, device: str = "cpu", self_test: bool = True) -> None:
        """Load the model.

        Args:
            device: In torch's notation.
            self_test: Refuse weights that do not tell a cat from a pizza.

        Raises:
            UsageError: The weights are missing, or are not a GIT with BERT's vocabulary.
            MilrError: The self-test failed.
        """
        folder = WEIGHTS.find()
        self.name = name_with("git-vqa@1", WEIGHTS)
        self.device = device
        self.network = load_network(GitForCausalLM, folder, f"type {WEIGHTS.mend[0]}", device)
        self.tokenizer = load_tokenizer(BertTokenizer, folder, f"type {WEIGHTS.mend[0]}")
        if self.tokenizer.convert_tokens_to_ids(["yes", "no"]) != [YES, NO]:
            raise UsageError(
                f"the vocabulary in {str(folder)!r} is not that of bert-base-uncased: put its vocab.txt there"
            )
        self._side = int(self.network.config.vision_config.image_size)
        if self_test:
            refuse_blind(self)

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return [self._score(image, task) for image, task in zip(images, tasks, strict=True)]

    def _score(self, image: Image.Image, task: Task) -> Score | Unscored:
        if not task.include:
            return Unscored(reason="the task has no include list, so there is nothing to ask for", reward=self.name)
        try:
            pixels = self._pixels(image)
        except (OSError, ValueError) as error:
            return Unscored(reason=f"the image cannot be read: {error}", reward=self.name)
        questions = [write_question(item) for item in task.include]
        answers = [self._answer(pixels, question) for question in questions]
        return Score(
            value=sum(answers) / len(answers),
            reward=self.name,
            stop_at=self.stop_at,
            parts=dict(zip(questions, answers, strict=True)),
            explanation=", ".join(f"{q} {a:.2f}" for q, a in zip(questions, answers, strict=True)),
        )

    @torch.inference_mode()
    def _answer(self, pixels: torch.Tensor, question: str) -> float:
        ids = self.tokenizer(question, add_special_tokens=False)["input_ids"]
        tokens = torch.tensor(
            [[self.tokenizer.cls_token_id, *ids]], device=self.device
        )  # no [SEP]: GIT continues the question
        logits = self.network(input_ids=tokens, pixel_values=pixels).logits[0, -1].float()  # (V,)
        return float(torch.sigmoid(logits[YES] - logits[NO]))  # p(yes) / (p(yes) + p(no)), where both may be 0

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        """Convert an image to (1, 3, side, side): short side to 420 (bicubic), middle square, CLIP's colours."""
        return prepare(read_rgb(image), self._side)[None].to(self.device)
