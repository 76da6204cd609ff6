"""Prompt templates, one profile per checkpoint family, and their tokenisation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, Literal, NamedTuple

from milr.tokens import TextTokenizer, find_control_tokens
from milr.types import Reasoning


class Part(NamedTuple):
    """A part of a prompt."""

    text: str
    template: bool
    """If true, control tokens in the text are read as such; if false, the text is plain words."""


@dataclass(frozen=True)
class Turn:
    """A user's message and the roles around it. Source: Janus's conversation template "deepseek"."""

    content: str
    """Template with ``{prompt}``, ``{reasoning}``, ``{question}`` and ``{image}``; outer spaces are stripped."""
    user: str = "<|User|>"
    assistant: str = "<|Assistant|>"
    system: str = ""
    """System prompt at the beginning; may be empty."""

    def write(self, **words: str | Part) -> list[Part]:
        """Return the parts of the whole text, up to the assistant's turn.

        Args:
            words: Texts to fill in: words of a user or a model, or a part of the template.
        """
        before = f"{self.system}\n\n" if self.system else ""
        filled: list[Part] = []
        for literal, name, _, _ in Formatter().parse(self.content):
            given = words[name] if name else ""
            filled += [Part(literal, True), given if isinstance(given, Part) else Part(given, False)]
        content = _strip(filled)
        return [Part(f"{before}{self.user}: ", True), *content, Part(f"\n\n{self.assistant}:", True)]


def join_parts(parts: Iterable[Part]) -> str:
    """Return the text of a prompt's parts."""
    return "".join(part.text for part in parts)


def _strip(parts: Sequence[Part]) -> list[Part]:
    """Strip blanks at both ends of the joined parts."""
    whole = join_parts(parts)
    left = len(whole) - len(whole.lstrip())
    right = left + len(whole.strip())
    stripped: list[Part] = []
    place = 0
    for part in parts:
        stripped.append(part._replace(text=part.text[max(left - place, 0) : max(right - place, 0)]))
        place += len(part.text)
    return [part for part in stripped if part.text]


_FINE_TUNED = "DeepSeek Model License of its base, and what the checkpoint's card says"

ANSWERING = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""Janus's own system prompt: used before every question about an image, and before no prompt for an image.

It is verbatim, because the checkpoints were trained on it. Source: deepseek-ai/Janus, VLChatProcessor; the same in
`transformers.models.janus.processing_janus`.
"""


@dataclass(frozen=True)
class PromptProfile:
    """The prompts and limits of a checkpoint for reasoning, drawing and answering."""

    summary: str
    passes: Literal[1, 2]
    """2: the reasoning is inserted into a new prompt for the image. 1: the image follows the reasoning's own tokens in
    the same context."""
    reasoning: Turn
    """Prompt for the reasoning."""
    image: Turn | None
    """Prompt for the image after a reasoning; None if the image follows in the same context."""
    plain: Turn
    """Prompt for the image without a reasoning."""
    question: Turn
    """Prompt for a yes/no question about an image at ``{image}``."""
    max_reasoning_tokens: int
    licence: str = ""
    """Note on the licence of checkpoints with this profile; "" if unknown."""
    open_question: Turn = Turn("{image}\n{question}", system=ANSWERING)
    """Prompt for any other question about an image."""
    text_temperature: float = 0.0
    """Temperature of the reasoning's tokens; 0 means greedy."""
    ends: frozenset[Literal["end of sequence", "image start"]] = frozenset({"end of sequence"})
    """Tokens that end a reasoning."""
    keeps_spaces: bool = True
    """If true, the reasoning is inserted into the image's prompt with its outer spaces."""
    added_tokens: tuple[str, ...] = ()
    """Tokens to add to the tokenizer, in this order, if it does not have them."""
    cut: tuple[str, ...] = ()
    """Phrases that are deleted from a prompt, at any position."""
    names: tuple[str, ...] = field(default=())
    """A checkpoint with one of these in its name, or whose tokenizer has all of `added_tokens`, takes this profile."""
    criticised: str = "{prompt}"
    """Prompt for a new reasoning after a wrong image; ``{critique}`` is the critique. The default is for a model that
    never learned to read one."""


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
# Verbatim: a checkpoint answers the prompt that it was trained on. Source: CaraJ7/T2I-R1 (Apache-2.0),
# data/prompt/reasoning_prompt.txt; MILR's public code sends the same to the base model.
_VISUALIZATION_TURN = Turn(
    _VISUALIZATION,
    user="User",
    assistant="Assistant",
    system="You are a helpful assistant that receives an image prompt and generate a visualization of the prompt.",
)
_QUESTION = Turn("{image}\n{question} Answer yes or no.", system=ANSWERING)

PROFILES: Mapping[str, PromptProfile] = {
    "janus-pro": PromptProfile(
        summary="Janus-Pro as MILR runs it: two passes, the likeliest text",
        passes=2,
        reasoning=_VISUALIZATION_TURN,
        image=Turn("{prompt}. {reasoning}", user="User", assistant="Assistant"),
        plain=Turn("{prompt}"),  # Janus-Pro's own roles, with which its published scores were produced
        question=_QUESTION,
        max_reasoning_tokens=512,
        licence="DeepSeek Model License, of Janus-Pro",
        criticised="{prompt}. An image that was drawn from an earlier answer is wrong: {critique}",
    ),
    "t2i-r1": PromptProfile(
        summary="T2I-R1: two passes, sampled text",
        passes=2,
        reasoning=_VISUALIZATION_TURN,
        image=Turn("{prompt}. {reasoning}", user="User", assistant="Assistant"),
        plain=Turn("{prompt}", user="User", assistant="Assistant"),
        question=_QUESTION,
        max_reasoning_tokens=512,
        licence=_FINE_TUNED,
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
        image=None,
        plain=Turn("{prompt}", user="User", assistant="Assistant"),
        question=_QUESTION,
        max_reasoning_tokens=600,
        licence=_FINE_TUNED,
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
        image=None,
        plain=Turn("A photo of {prompt}."),
        question=_QUESTION,
        max_reasoning_tokens=448,
        licence=_FINE_TUNED,
        text_temperature=1.0,
        ends=frozenset({"end of sequence", "image start"}),
        cut=("A photo of", "a photo of"),
        names=("reasongen-r1",),
    ),
    "icons": PromptProfile(
        summary="the embedded model: two short passes in the grammar of milr.tasks",
        passes=2,
        reasoning=Turn("plan: {prompt}"),
        image=Turn("{prompt}. {reasoning}"),
        plain=Turn("{prompt}"),
        question=Turn("{image}\n{question}"),
        open_question=Turn("{image}\n{question}"),
        max_reasoning_tokens=96,
        licence="Apache-2.0, as milr",
        keeps_spaces=False,
    ),
}
"""Name -> profile."""
DEFAULT_PROFILE = "janus-pro"
"""The profile of a checkpoint that matches no other."""


def recognise_profile(names: Iterable[str], tokens: Collection[str]) -> str:
    """Return the profile that matches a checkpoint's names or tokens: `PromptProfile.names` and `added_tokens`.

    Args:
        names: Its name at the hub, the last parts of its folder, the name in its config.
        tokens: Added tokens of its tokenizer.

    Returns:
        A name of `PROFILES`; tokens take precedence over names.
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
    """Token ids of all prompts. Every prompt begins with the beginning-of-sequence token, once.

    Only the profile's own text contains control tokens: in a prompt, a reasoning, a critique or a question they are
    read as plain text.
    """

    def __init__(self, profile: PromptProfile, tokenizer: Any) -> None:
        """Take the profile, and a tokenizer that has its added tokens and the three image tokens."""
        self.profile = profile
        self._tokenizer = tokenizer
        self.image_start: int = tokenizer.boi_token_id
        self.padding: int = tokenizer.pad_token_id
        """Replaces every token between the first and the last one of an unconditional prompt."""
        marks = {"end of sequence": tokenizer.eos_token_id, "image start": tokenizer.boi_token_id}
        self.ends: frozenset[int] = frozenset(marks[end] for end in profile.ends)
        """Tokens that end a reasoning, not counted as part of it."""
        self._controls = find_control_tokens(tokenizer)
        self._text = TextTokenizer(tokenizer)

    def reasoning(self, prompt: str, critique: str = "") -> list[int]:
        """Return the prompt for a reasoning text, with a critique of an earlier image if there is one."""
        words = self._cut(prompt)
        if critique:
            words = self.profile.criticised.format(prompt=words, critique=critique)
        return self._encode(self.profile.reasoning.write(prompt=words))

    def image(self, prompt: str, reasoning: Reasoning | None) -> list[int]:
        """Return the prompt for an image, after its reasoning if there is one; it ends with the image start token."""
        if reasoning is None:
            return [*self._encode(self.profile.plain.write(prompt=self._cut(prompt))), self.image_start]
        if self.profile.image is None:
            tokens = list(reasoning.tokens) or self._encode_chain(reasoning.text)
            return [*self.reasoning(prompt), *tokens, self.image_start]
        words = reasoning.text
        if self.profile.keeps_spaces and reasoning.tokens:
            words = self._tokenizer.decode(list(reasoning.tokens), skip_special_tokens=True)
        turn = self.profile.image.write(prompt=self._cut(prompt), reasoning=words)
        return [*self._encode(turn), self.image_start]

    def question(self, question: str, places: int) -> list[int]:
        """Return a yes/no question about an image that takes this many positions, each a placeholder token."""
        return self._encode(self.profile.question.write(image=self._image(places), question=question))

    def open_question(self, question: str, places: int) -> list[int]:
        """Return any other question about such an image."""
        return self._encode(self.profile.open_question.write(image=self._image(places), question=question))

    def without_end(self, tokens: list[int]) -> list[int]:
        """Return a reasoning's tokens without the end token."""
        return tokens[:-1] if tokens and tokens[-1] in self.ends else tokens

    def up_to_end(self, tokens: list[int]) -> list[int]:
        """Return the tokens up to and including the first end token."""
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return tokens[: end + 1]

    def _image(self, places: int) -> Part:
        token = self._tokenizer
        return Part(f"{token.boi_token}{token.image_token * places}{token.eoi_token}", True)

    def _cut(self, prompt: str) -> str:
        for words in self.profile.cut:
            prompt = prompt.replace(words, "")
        return prompt.strip()

    def _encode(self, parts: Sequence[Part]) -> list[int]:
        # some tokenizers of this family add the first token themselves, others do not: here it is always there, once
        return [self._tokenizer.bos_token_id, *self._read(parts, self._controls)]

    def _encode_chain(self, text: str) -> list[int]:
        """Tokenise a reasoning of which only the text is known; it may contain the profile's own control tokens."""
        return self._read([Part(text, True)], self.profile.added_tokens)

    def _read(self, parts: Sequence[Part], marks: Collection[str]) -> list[int]:
        """Tokenise parts: these control tokens in template parts as such, all else as plain text in one piece."""
        pattern = re.compile(f"({'|'.join(map(re.escape, sorted(marks, key=len, reverse=True))) or '(?!)'})")
        ids: list[int] = []
        text = ""
        for part in parts:
            words, *rest = pattern.split(part.text) if part.template else [part.text]
            text += words
            for mark, words in zip(rest[::2], rest[1::2], strict=True):
                ids += [*self._text.encode(text), self._controls[mark]]
                text = words
        return [*ids, *self._text.encode(text)]
