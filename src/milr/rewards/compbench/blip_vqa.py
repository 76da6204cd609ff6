"""BLIP-VQA, the scorer of T2I-CompBench's attributes: is each noun phrase of the prompt in the image?

Source: `BLIPvqa_eval/` of Karine-Huang/T2I-CompBench, commit 1b70949, with the checkpoint
`model_base_vqa_capfilt_large.pth` of BLIP at 480 pixels (`milr convert blip-vqa`).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.models.bert.tokenization_bert import BertTokenizer
from transformers.models.blip.modeling_blip import BlipForQuestionAnswering

from milr.errors import UsageError
from milr.rewards.compbench.prompts import Analysis
from milr.rewards.images.tensors import to_tensor
from milr.rewards.pretrained import load_network, load_tokenizer

MOST_PHRASES = 8
DROPPED_PHRASES = ("top", "the side", "the left", "the right")
YES, NO = 2748, 2053
"""Ids of the words in BERT's uncased vocabulary."""

_SEPARATOR = 102
_MOST_TOKENS = 35
_MOST_WORDS = 50
_BATCH = 32


def make_questions(analysis: Analysis) -> tuple[str, ...]:
    """Return the questions about a prompt: each of its first eight noun phrases with a question mark, nothing else.

    Phrases that only give a place ("the left") are dropped before they are counted.
    """
    phrases = [phrase for phrase in analysis.phrases if phrase not in DROPPED_PHRASES]
    return tuple(f"{phrase}?" for phrase in phrases[:MOST_PHRASES])


def clean_question(question: str) -> str:
    """Clean a question as BLIP's data set (`pre_question`) does before tokenisation: commas stay."""
    text = re.sub(r"[.!\"()*#:;~]", "", question.lower()).rstrip(" ")
    return " ".join(text.split(" ")[:_MOST_WORDS])


def multiply(answers: Sequence[float]) -> float:
    """Return an image's score: the product of its answers, to four decimals; a missing phrase counts 1."""
    return round(math.prod(answers), 4)


class BlipVqa:
    """BLIP's answer to whether a phrase is in an image: p(yes) / (p(yes) + p(no)) at the answer's first token."""

    def __init__(self, network: Any, tokenizer: Any, device: str = "cpu") -> None:
        """Take the network.

        Args:
            network: A `BlipForQuestionAnswering` in evaluation mode.
            tokenizer: BERT's uncased one; it need not have BLIP's two own tokens.
            device: Device of the network.
        """
        self.network = network
        self.tokenizer = tokenizer
        self.device = device
        self.side: int = network.config.vision_config.image_size
        self._decode: int = network.config.text_config.bos_token_id
        self._encode = self._decode + 1

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu") -> BlipVqa:
        """Load a converted checkpoint, or a copy from the hub (an approximation: `weights.describe_blip`).

        Raises:
            UsageError: The folder holds no such model, or its vocabulary is not BERT's.
        """
        network = load_network(BlipForQuestionAnswering, folder, "type milr convert blip-vqa FILE", device)
        tokenizer = load_tokenizer(BertTokenizer, folder, "put the vocab.txt of bert-base-uncased there")
        ids: list[int] = tokenizer.convert_tokens_to_ids(["yes", "no", "[SEP]"])
        if ids != [YES, NO, _SEPARATOR]:
            raise UsageError(
                f"the vocabulary in {str(folder)!r} has yes, no and [SEP] at {ids}, not at {[YES, NO, _SEPARATOR]}: "
                f"put the vocab.txt of bert-base-uncased there"
            )
        return cls(network, tokenizer, device)

    @torch.inference_mode()
    def answer(self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the answers to each image's questions, to four decimals.

        Questions of one length go through the model together: transformers 5.23 does not mask the padding of a question
        in the answer's attention, so that questions of several lengths in one batch get other answers.

        Args:
            images: RGB, any size.
            questions: Each image's questions, from `make_questions`.
        """
        answers = [[math.nan] * len(asked) for asked in questions]
        groups: dict[int, list[tuple[int, int, list[int]]]] = defaultdict(list)
        for i, asked in enumerate(questions):
            for j, question in enumerate(asked):
                tokens = self._tokens(question)
                groups[len(tokens)].append((i, j, tokens))
        if not groups:
            return answers
        seen = [self._look(image) for image in images]  # each (1, P, d)
        for length in sorted(groups):
            group = groups[length]
            for start in range(0, len(group), _BATCH):
                part = group[start : start + _BATCH]
                tokens = torch.tensor([tokens for _, _, tokens in part], device=self.device)
                found = self._ask(torch.cat([seen[i] for i, _, _ in part]), tokens)
                for (i, j, _), value in zip(part, found, strict=True):
                    answers[i][j] = round(value, 4)
        return answers

    def _tokens(self, question: str) -> list[int]:
        """Return BERT's ids after BLIP's [ENC], cut to 35 with the last [SEP] kept; no padding."""
        encoded = self.tokenizer(clean_question(question), truncation=True, max_length=_MOST_TOKENS)
        ids: list[int] = encoded["input_ids"]
        return [self._encode, *ids[1:]]

    def _look(self, image: Image.Image) -> torch.Tensor:
        """Encode an RGB image as image states (1, P, d)."""
        small = image.resize((self.side, self.side), Image.Resampling.BICUBIC)
        pixels = to_tensor(small).to(self.device)  # (1, 3, side, side)
        return self.network.vision_model(pixel_values=pixels).last_hidden_state

    def _ask(self, seen: torch.Tensor, tokens: torch.Tensor) -> list[float]:
        """Return p(yes) of yes and no from image states (B, P, d) and ids (B, T) of questions of one length."""
        ones = torch.ones(seen.shape[:2], dtype=torch.long, device=self.device)
        states = self.network.text_encoder(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            encoder_hidden_states=seen,
            encoder_attention_mask=ones,
        ).last_hidden_state  # (B, T, d)
        start = torch.full((len(tokens), 1), self._decode, device=self.device)
        logits = self.network.text_decoder(
            input_ids=start,
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones_like(tokens),
        ).logits[:, 0]  # (B, V)
        chances = logits.float().softmax(-1)
        return (chances[:, YES] / (chances[:, YES] + chances[:, NO])).tolist()
