"""Stage 3, tokens: every icon encoded once on every ground, and the tokenizer of the text.

A token says what its own patch shows, so whole scenes are pasted from this bank at no cost while models train.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.icons import GROUNDS
from training.scenes import World
from training.vq import Library, cut_patches, nearest, on_ground

Bank = dict[tuple[str, int, str, str, str], np.ndarray]
# Janus-Pro's own names for its special tokens.
SPECIAL = {
    "pad_token": "<｜▁pad▁｜>",
    "bos_token": "<｜begin▁of▁sentence｜>",
    "eos_token": "<｜end▁of▁sentence｜>",
    "boi_token": "<begin_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_placeholder>",
}
ROLES = ("<|User|>", "<|Assistant|>")


def build_bank(centres: torch.Tensor, library: Library, folder: Path) -> tuple[Bank, dict[str, int]]:
    """(icon..., ground) -> tokens (s, s) int64, and the one token of each plain ground. Kept in ``folder``."""
    cache = folder / "bank.npz"
    if cache.exists():
        with np.load(cache) as stored:
            flat = {key: stored[key] for key in stored.files}
    else:
        flat = {}
        for ground, color in GROUNDS.items():
            patches = [cut_patches(on_ground(rgba, color)) for rgba in library.values()]  # (s, s, 192) each
            codes = nearest(torch.from_numpy(np.concatenate([p.reshape(-1, p.shape[-1]) for p in patches])), centres)
            parts = np.split(codes.numpy(), np.cumsum([p.shape[0] * p.shape[1] for p in patches])[:-1])
            for key, patch, part in zip(library, patches, parts, strict=True):
                flat["|".join(map(str, (*key, ground)))] = part.reshape(patch.shape[:2])
        np.savez(cache, **flat)
    bank: Bank = {}
    for joined, tokens in flat.items():
        name, variant, color, size, ground = joined.split("|")
        bank[name, int(variant), color, size, ground] = tokens
    return bank, {ground: index for index, ground in enumerate(GROUNDS)}  # learn_codes puts the grounds first


def train_tokenizer(world: World, vocabulary: int, sentences: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on prompts, plans and questions of the icon world, with Janus-Pro's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL.values(), *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def corpus() -> list[str]:
        lines: list[str] = []
        for _ in range(sentences):
            task = world.request()
            scene = world.scene(task)
            questions = " ".join(question.text for question in world.questions(scene, 2))
            lines += [f" {task.prompt}. {scene.plan}\n\n", f": {questions} yes no\n\n"]
        return lines

    tokenizer.train_from_iterator(corpus(), trainer)
    bos = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    extra = {k: v for k, v in SPECIAL.items() if k in ("boi_token", "eoi_token", "image_token")}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=SPECIAL["eos_token"],
        pad_token=SPECIAL["pad_token"],
        extra_special_tokens=extra,
        padding_side="left",
        model_max_length=1024,
    )
