"""Reflection: draw, criticise, rewrite the reasoning, draw again; Reflect-DiT and ReflectionFlow without training.

Those two train a model to turn a critique into a better image. Here nothing is trained. The critique is the reward's
explanation of what is wrong (with the reward `self`, the model's own words about its image). The rewrite samples the
text again from the place where the old text first names something that is criticised, and keeps the text before that
place. A model that reads free text also gets the critique in its prompt; the embedded model's prompts have a fixed
form, so it only writes something else from that place on. If the critique names nothing in the text, the whole text is
sampled again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from milr.methods.context import Requests, ScoredImage, TaskContext
from milr.settings import StepSettings
from milr.types import Score, rank

_SAYS_NOTHING = frozenset(
    {
        *("the", "and", "for", "with", "was", "were", "not", "has", "have", "that", "this", "there", "than"),
        *("expected", "found", "one", "two", "three", "four"),
    }
)


def reflection(ctx: TaskContext[StepSettings]) -> Requests:
    """Draw up to K + 1 images; each rewrite starts from the text of the best image so far, the newest on a tie."""
    text = best_text = yield from ctx.reason()
    best: ScoredImage | None = None
    for number in range(ctx.own.steps + 1):
        (image,) = yield from ctx.draw()
        if best is None or rank(image.score) >= rank(best.score):
            best, best_text = image, text
        if number < ctx.own.steps:
            critique = best.score.explanation if isinstance(best.score, Score) else ""
            tokens = best_text.reasoning.tokens
            prefix = tokens[: find_criticised(ctx.model.spell(tokens), critique)]
            text = yield from ctx.reason(prefix, sampled=True, critique=critique)


def find_criticised(pieces: Sequence[str], critique: str) -> int:
    """Return how many tokens of a text precede the clause that first names a word of the critique; 0 if none does.

    A clause begins after a comma, a semicolon, a full stop, a colon or a new line.

    Args:
        pieces: The characters of each token.
        critique: The faults of an image, in any words.
    """
    text = "".join(pieces).lower()
    words = {word for word in re.findall(r"[a-z]{3,}", critique.lower())} - _SAYS_NOTHING
    named = [match.start() for match in re.finditer(r"[a-z]{3,}", text) if match.group() in words]
    if not named:
        return 0
    begin = max((match.end() for match in re.finditer(r"[,;.:\n]", text[: named[0]])), default=0)
    kept, length = 0, 0
    for piece in pieces:
        length += len(piece)
        if length > begin:
            break
        kept += 1
    return kept
