"""Stage 3, the tokenizer of the text."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.questions import ask_questions
from training.scenes import describe, write_text
from training.text_checks import text_question
from training.world import World

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


def train_tokenizer(world: World, vocabulary: int, sentences: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on prompts, texts and questions of the icon world, with Janus-Pro's special tokens."""
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
            text = write_text(scene, world.mention(scene))
            questions = " ".join(question.text for question in ask_questions(world.random, scene, 2))
            check = text_question(task.prompt, text)
            lines += [f" {task.prompt}. {text}\n\n", f" {describe(scene)} {check}", f": {questions} yes no\n\n"]
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
