"""How a checkpoint was taught to be spoken to: one small entry of data each, and the token ids that it makes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from milr.types import Reasoning


@dataclass(frozen=True)
class Turn:
    """What a user says, and the roles around it. Source of the form: Janus's conversation template "deepseek"."""

    content: str
    """``{prompt}``, ``{reasoning}``, ``{question}`` and ``{picture}`` are filled in; blanks at the ends are cut off."""
    user: str = "<|User|>"
    assistant: str = "<|Assistant|>"
    system: str = ""
    """Stands first where it is not empty."""

    def write(self, **words: str) -> str:
        """The whole text up to where the assistant begins."""
        before = f"{self.system}\n\n" if self.system else ""
        return f"{before}{self.user}: {self.content.format(**words).strip()}\n\n{self.assistant}:"


@dataclass(frozen=True)
class PromptProfile:
    """How a checkpoint reasons, draws and answers."""

    summary: str
    passes: Literal[1, 2]
    """2: the reasoning's words are put into a new prompt for the drawing. 1: the image follows the reasoning's own
    tokens in the same context."""
    reasoning: Turn
    """Asks for the reasoning."""
    drawing: Turn | None
    """Asks for the drawing after a reasoning; None where the drawing follows in the same context."""
    plain: Turn
    """Asks for the drawing from the prompt alone."""
    question: Turn
    """Asks a yes/no question about a picture, which stands where ``{picture}`` is."""
    max_reasoning_tokens: int
    open_question: Turn = Turn("{picture}\n{question}")
    """Asks any other question about a picture."""
    text_temperature: float = 0.0
    """Of the reasoning's tokens; 0 takes the likeliest."""
    ends: frozenset[Literal["end of sequence", "image start"]] = frozenset({"end of sequence"})
    """What ends a reasoning."""
    keeps_blanks: bool = True
    """Whether the words go into the drawing's prompt with the blanks around them as they were written."""
    added_tokens: tuple[str, ...] = ()
    """Given to the tokenizer, in this order, where it does not know them."""
    cut: tuple[str, ...] = ()
    """Words that are cut out of a prompt, wherever they stand."""
    names: tuple[str, ...] = field(default=())
    """A checkpoint whose name has one of these in it, or whose tokenizer has all of `added_tokens`, takes this
    profile."""
    criticised: str = "{prompt}"
    """What stands for the prompt where a reasoning is asked for again, after a picture that was wrong; ``{critique}``
    says what was wrong. The default fits a model that never learned to read a critique."""


_VISUALIZATION = (
    'You are asked to generate an image based on this prompt: "{prompt}"\n'
    "Provide a brief, precise visualization of all elements in the prompt. Your description should:\n"
    "1. Include every object mentioned in the prompt\n"
    "2. Specify visual attributes (color, number, shape, texture) if specified in the prompt\n"
    "3. Clarify relationships (e.g., spatial) between objects if specified in the prompt\n"
    "4. Be concise (50 words or less)\n"
    "5. Focus only on what's explicitly stated in the prompt\n"
    "6. Do not elaborate beyond the attributes or relationships specified in the prompt\n"
    "Do not miss objects. Output your visualization directly without explanation:"
)
# Word for word: a checkpoint answers the prompt that it was trained on. Source: CaraJ7/T2I-R1 (Apache-2.0),
# data/prompt/reasoning_prompt.txt; MILR's public code sends the same to the base model.
_VISUALIZATION_TURN = Turn(
    _VISUALIZATION,
    user="User",
    assistant="Assistant",
    system="You are a helpful assistant that receives an image prompt and generate a visualization of the prompt.",
)
_QUESTION = Turn("{picture}\n{question} Answer yes or no.")

PROFILES: Mapping[str, PromptProfile] = {
    "janus-pro": PromptProfile(
        summary="Janus-Pro as MILR runs it: two passes, the likeliest text",
        passes=2,
        reasoning=_VISUALIZATION_TURN,
        drawing=Turn("{prompt}. {reasoning}", user="User", assistant="Assistant"),
        plain=Turn("{prompt}"),  # Janus-Pro's own roles: what its published scores were drawn with
        question=_QUESTION,
        max_reasoning_tokens=512,
        criticised="{prompt}. An image that was drawn from an earlier answer is wrong: {critique}",
    ),
    "t2i-r1": PromptProfile(
        summary="T2I-R1: two passes, sampled text",
        passes=2,
        reasoning=_VISUALIZATION_TURN,
        drawing=Turn("{prompt}. {reasoning}", user="User", assistant="Assistant"),
        plain=Turn("{prompt}", user="User", assistant="Assistant"),
        question=_QUESTION,
        max_reasoning_tokens=512,
        text_temperature=1.0,
        names=("t2i-r1",),
    ),
    # Source: gogoduan/GoT-R1, infer.py. Only the image start ends the chain; the end of a sequence does not.
    "got-r1": PromptProfile(
        summary="GoT-R1: one pass, sampled text with objects and boxes, four added tokens",
        passes=1,
        reasoning=Turn(
            "Follow the caption to generate an image through a chain of thought process: {prompt}",
            user="User",
            assistant="Assistant",
        ),
        drawing=None,
        plain=Turn("{prompt}", user="User", assistant="Assistant"),
        question=_QUESTION,
        max_reasoning_tokens=600,
        text_temperature=1.0,
        ends=frozenset({"image start"}),
        added_tokens=("<|box_start|>", "<|box_end|>", "<|obj_start|>", "<|obj_end|>"),
        names=("got-r1",),
    ),
    # Source: Franklin-Zhang0/ReasonGen-R1, benchmark/generate_inference_geneval.py. 1024 tokens in all, 576 of them
    # the image's.
    "reasongen-r1": PromptProfile(
        summary="ReasonGen-R1: one pass, sampled text",
        passes=1,
        reasoning=Turn("A photo of {prompt}. Output a richly detailed prompt: "),
        drawing=None,
        plain=Turn("A photo of {prompt}."),
        question=_QUESTION,
        max_reasoning_tokens=448,
        text_temperature=1.0,
        ends=frozenset({"end of sequence", "image start"}),
        cut=("A photo of", "a photo of"),
        names=("reasongen-r1",),
    ),
    "icons": PromptProfile(
        summary="the embedded model: two short passes in the grammar of milr.tasks",
        passes=2,
        reasoning=Turn("plan: {prompt}"),
        drawing=Turn("{prompt}. {reasoning}"),
        plain=Turn("{prompt}"),
        question=Turn("{picture}\n{question}"),
        max_reasoning_tokens=96,
        keeps_blanks=False,
    ),
}
"""Name -> profile."""
DEFAULT_PROFILE = "janus-pro"
"""Of a checkpoint that shows no other."""


def recognise_profile(names: Iterable[str], tokens: Collection[str]) -> str:
    """The profile that a checkpoint shows, by what `PromptProfile.names` and `added_tokens` say.

    Args:
        names: What it is called: its name at the hub, the last parts of its folder, the name in its config.
        tokens: Added tokens of its tokenizer.

    Returns:
        A name of `PROFILES`; tokens go before names.
    """
    for name, profile in PROFILES.items():
        if profile.added_tokens and all(token in tokens for token in profile.added_tokens):
            return name
    plain = [re.sub(r"[^a-z0-9]+", "-", name.lower()) for name in names]
    for name, profile in PROFILES.items():
        if any(mark in one for mark in profile.names for one in plain):
            return name
    return DEFAULT_PROFILE


class Prompts:
    """Token ids of everything that a model is told. Every prompt begins with the beginning of a sequence, once."""

    def __init__(self, profile: PromptProfile, tokenizer: Any) -> None:
        """Args: the profile, and a tokenizer that knows its added tokens and the three image tokens."""
        self.profile = profile
        self._tokenizer = tokenizer
        self.image_start: int = tokenizer.boi_token_id
        self.blank: int = tokenizer.pad_token_id
        """Stands for every token but the first and the last of an unconditional prompt."""
        marks = {"end of sequence": tokenizer.eos_token_id, "image start": tokenizer.boi_token_id}
        self.ends: frozenset[int] = frozenset(marks[end] for end in profile.ends)
        """Tokens that end a reasoning; none of them belongs to it."""

    def reasoning(self, prompt: str, critique: str = "") -> list[int]:
        """Asks for the reasoning of a prompt, with what was wrong with an earlier picture, if anything."""
        words = self._cut(prompt)
        if critique:
            words = self.profile.criticised.format(prompt=words, critique=critique)
        return self._encode(self.profile.reasoning.write(prompt=words))

    def drawing(self, prompt: str, reasoning: Reasoning | None) -> list[int]:
        """Asks for the drawing of a prompt, after its reasoning where there is one; ends with the image start."""
        if reasoning is None:
            return [*self._encode(self.profile.plain.write(prompt=self._cut(prompt))), self.image_start]
        if self.profile.drawing is None:
            tokens = list(reasoning.tokens) or self._encode(reasoning.text)[1:]
            return [*self.reasoning(prompt), *tokens, self.image_start]
        words = reasoning.text
        if self.profile.keeps_blanks and reasoning.tokens:
            words = self._tokenizer.decode(list(reasoning.tokens), skip_special_tokens=True)
        turn = self.profile.drawing.write(prompt=self._cut(prompt), reasoning=words)
        return [*self._encode(turn), self.image_start]

    def question(self, question: str, places: int) -> list[int]:
        """Asks a yes/no question about a picture that takes that many places, each a placeholder token."""
        return self._encode(self.profile.question.write(picture=self._picture(places), question=question))

    def open_question(self, question: str, places: int) -> list[int]:
        """Asks any other question about such a picture."""
        return self._encode(self.profile.open_question.write(picture=self._picture(places), question=question))

    def without_end(self, tokens: list[int]) -> list[int]:
        """A reasoning's tokens, without what ended it."""
        return tokens[:-1] if tokens and tokens[-1] in self.ends else tokens

    def up_to_end(self, tokens: list[int]) -> list[int]:
        """Tokens up to the first that ends a reasoning, which is kept."""
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return tokens[: end + 1]

    def _picture(self, places: int) -> str:
        token = self._tokenizer
        return f"{token.boi_token}{token.image_token * places}{token.eoi_token}"

    def _cut(self, prompt: str) -> str:
        for words in self.profile.cut:
            prompt = prompt.replace(words, "")
        return prompt.strip()

    def _encode(self, text: str) -> list[int]:
        # Some tokenizers of this family add the first token themselves, some do not: here it is always there, once.
        return [self._tokenizer.bos_token_id, *self._tokenizer(text, add_special_tokens=False)["input_ids"]]
