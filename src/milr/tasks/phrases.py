"""Phrases, the parts of a prompt, and their written form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milr.errors import UsageError, unknown_name
from milr.tasks.vocabulary import COLORS, COUNT_WORDS, OBJECT_NAMES, RELATIONS, plural, with_article

MAX_PHRASES = 3

_TEXT_JOINERS = (" and ", ", ", ", and ")


@dataclass(frozen=True)
class Phrase:
    """One object of a prompt: name, count and colour."""

    name: str
    """One of `OBJECT_NAMES`."""
    count: int = 1
    """1 to 4."""
    color: str | None = None
    """One of `COLORS`; None if the prompt does not say."""

    def __post_init__(self) -> None:
        """Refuse values that the grammar has no word for."""
        if self.name not in OBJECT_NAMES:
            raise unknown_name("object", self.name, OBJECT_NAMES)
        if self.count not in COUNT_WORDS.values():
            raise UsageError(f"a count of {self.count} has no word: counts go from one to four")
        if self.color is not None and self.color not in COLORS:
            raise unknown_name("colour", self.color, COLORS)


def write_prompt(
    phrases: Sequence[Phrase], joiners: Sequence[str] | None = None, photo: bool = True, article: bool = True
) -> str:
    """Return phrases as a prompt in GenEval's words; `parse_prompt` reads it back.

    Args:
        phrases: One to three.
        joiners: Words between them, one fewer than phrases: " and ", ", ", ", and " or one of `RELATIONS`. None joins
            all by " and ".
        photo: Begin with "a photo of".
        article: Write "a" or "an" before a single object.
    """
    joiners = [" and "] * (len(phrases) - 1) if joiners is None else joiners
    if not 1 <= len(phrases) <= MAX_PHRASES or len(joiners) != len(phrases) - 1:
        raise UsageError(
            f"{len(phrases)} phrases and {len(joiners)} joiners make no prompt: "
            f"give one to three phrases and one joiner between each two"
        )
    text = ("a photo of " if photo else "") + _write_phrase(phrases[0], article)
    for joiner, phrase in zip(joiners, phrases[1:], strict=True):
        if joiner not in _TEXT_JOINERS and joiner not in RELATIONS:
            raise unknown_name("joiner", joiner, (*_TEXT_JOINERS, *RELATIONS))
        text += (f" {joiner} " if joiner in RELATIONS else joiner) + _write_phrase(phrase, article)
    return text


def _write_phrase(phrase: Phrase, article: bool) -> str:
    noun = phrase.name if phrase.count == 1 else plural(phrase.name)
    words = noun if phrase.color is None else f"{phrase.color} {noun}"
    if phrase.count > 1:
        return f"{next(word for word, count in COUNT_WORDS.items() if count == phrase.count)} {words}"
    return with_article(words) if article else words
