"""How a checkpoint was taught to be spoken to: one small entry of data each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PromptProfile:
    """The words around a prompt. ``{prompt}``, ``{reasoning}`` and ``{question}`` are filled in."""

    user: str
    assistant: str
    reasoning: str
    """Asks for the reasoning."""
    drawing: str
    """Asks for the drawing after a reasoning."""
    drawing_plain: str
    """Asks for the drawing from the prompt alone."""
    question: str
    """Asks about a picture, which stands where ``{picture}`` is."""
    max_reasoning_tokens: int
    criticised: str = "{request}"
    """Asks for the reasoning again, after a picture that was wrong; ``{request}`` is what `reasoning` asks and
    ``{critique}`` says what was wrong. The default fits a model that never learned to read a critique."""

    def turn(self, content: str) -> str:
        """One user turn, up to where the assistant begins."""
        return f"{self.user}: {content}\n\n{self.assistant}:"

    def ask(self, prompt: str, critique: str = "") -> str:
        """What asks for a prompt's reasoning, with what was wrong with an earlier picture, if anything."""
        request = self.reasoning.format(prompt=prompt)
        return self.criticised.format(request=request, critique=critique) if critique else request


PROFILES: Mapping[str, PromptProfile] = {
    # MILR's two passes on Janus-Pro: what the reasoning prompt asks for is stated in paper/facts, the words are ours.
    "janus-pro": PromptProfile(
        user="<|User|>",
        assistant="<|Assistant|>",
        reasoning=(
            "Before an image is drawn from the prompt below, say precisely what it will show. Name every object with "
            "its attributes, how many there are and how they are arranged. Use at most 50 words, add nothing that the "
            "prompt does not ask for, and explain nothing.\nPrompt: {prompt}"
        ),
        drawing="{prompt}. {reasoning}",
        drawing_plain="{prompt}",
        question="{picture}\n{question} Answer yes or no.",
        max_reasoning_tokens=512,
        criticised=(
            "{request}\nAn image that was drawn from an earlier answer is wrong: {critique}. Say what the image will "
            "show so that this cannot happen again."
        ),
    ),
    "icons": PromptProfile(
        user="<|User|>",
        assistant="<|Assistant|>",
        reasoning="plan: {prompt}",
        drawing="{prompt}. {reasoning}",
        drawing_plain="{prompt}",
        question="{picture}\n{question}",
        max_reasoning_tokens=96,
    ),
}
"""Name -> profile. `milr.json` in a checkpoint's folder names its profile; "janus-pro" where there is none."""
