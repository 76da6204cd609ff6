"""The grammar of the icon world: prompt text to task, and back.

::

    prompt   = [["a"] "photo of"] phrase {joiner phrase} ["."]  one to three phrases
    phrase   = ["a" | "an" | "the" | count] [colour] object     count: one, two, three, four
    joiner   = "and" | "," | ", and" | relation
    relation = ["to the" | "on the"] ("left of" | "right of") | "above" | "below"

Letters may be large or small. What is read here says how a picture is judged. It never reaches a model: only the
prompt's words do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from milr.errors import UsageError, unknown_name
from milr.tasks.vocabulary import COLORS, COUNT_WORDS, OBJECT_NAMES, RELATIONS, plural, quote, with_article
from milr.types import Relation, Requirement, Task

MAX_PHRASES = 3

# Read as well as GenEval's plurals, never written.
_ENGLISH_PLURALS = {
    "people": "person",
    "benches": "bench",
    "knives": "knife",
    "sandwiches": "sandwich",
    "couches": "couch",
    "computer mice": "computer mouse",
    "toothbrushes": "toothbrush",
}
_TEXT_JOINERS = (" and ", ", ", ", and ")
_FORM = "write [a, or one to four] [colour] object, as in 'a photo of two red apples left of a dog'"
_COUNT_FORM = f"the counts are {', '.join(map(repr, COUNT_WORDS))}"
_JOINER_FORM = f"join objects by 'and', commas, {', '.join(map(repr, RELATIONS))}"
# Words that ask for a count which the grammar does not have.
_OTHER_COUNTS = re.compile(
    r"[-+]?\d+|no|zero|five|six|seven|eight|nine|ten|eleven|twelve|dozen|some|several|many|few|both"
)

_Entry = TypeVar("_Entry")


class PromptError(UsageError):
    """A prompt that the grammar cannot read; the message names the word."""


@dataclass(frozen=True)
class Phrase:
    """One object of a prompt: what, how many, of which colour."""

    name: str
    """One of `OBJECT_NAMES`."""
    count: int = 1
    """1 to 4."""
    color: str | None = None
    """One of `COLORS`; None where the prompt does not say."""

    def __post_init__(self) -> None:
        """Refuse what the grammar has no word for."""
        if self.name not in OBJECT_NAMES:
            raise unknown_name("object", self.name, OBJECT_NAMES)
        if self.count not in COUNT_WORDS.values():
            raise UsageError(f"a count of {self.count} has no word: counts go from one to four")
        if self.color is not None and self.color not in COLORS:
            raise unknown_name("colour", self.color, COLORS)


def write_prompt(
    phrases: Sequence[Phrase], joiners: Sequence[str] | None = None, photo: bool = True, article: bool = True
) -> str:
    """Phrases as a prompt in GenEval's words; `parse_prompt` reads it back.

    Args:
        phrases: One to three.
        joiners: What stands between them, one fewer than phrases: " and ", ", ", ", and " or one of `RELATIONS`.
            None joins all by " and ".
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


def parse_prompt(text: str) -> Task:
    """A prompt as a task in GenEval's metadata form.

    * "A left of B" places A by B; the reference B comes first in the include list. A relation binds its two neighbours
      only: "A left of B above C" places A by B and B by C, "A left of B and C" asks nothing of C but to be there.
    * A count above one also excludes one more, so that it is exact. "A dog" asks for at least one dog.
    * The tag is set where the prompt asks for what one of GenEval's six tags asks for, else None.
    * The count word decides, not the noun's form: "two dog" is two and "a dogs" is one. Plurals are read as GenEval
      writes them ("knifes") and as English does ("knives"). "Dogs" without a count is refused.
    * "Orange" is a colour where an object follows, else the fruit.

    Args:
        text: The prompt; the task keeps it as given, stripped.

    Raises:
        PromptError: The grammar cannot read it; one line that names the word and says what can be read.
    """
    prompt = text.strip()
    if not prompt:
        raise PromptError("the prompt is empty: write what to draw, for instance 'a photo of a red apple'")
    phrases, joiners = _Reader(prompt).read()
    include = _include(phrases, joiners)
    exclude = [{"class": item.name, "count": item.count + 1} for item in include if item.count > 1]
    return Task(
        prompt=prompt,
        tag=_tag(phrases, joiners),
        include=include,
        exclude=tuple(Requirement.model_validate(item) for item in exclude),
    )


Joiner = Relation | Literal["and"]


def _spellings() -> dict[tuple[str, ...], tuple[str, bool]]:
    """The words of every object -> its name, and whether they are its plural."""
    forms = {name: (name, False) for name in OBJECT_NAMES}
    plurals = {plural(name): name for name in OBJECT_NAMES if plural(name) != name} | _ENGLISH_PLURALS
    forms |= {spelling: (name, True) for spelling, name in plurals.items()}
    return {tuple(spelling.split()): form for spelling, form in forms.items()}


_OBJECTS = _spellings()
_COLORS = {(color,): color for color in COLORS}
_UNSAID = 0
_COUNTS: dict[tuple[str, ...], int] = {
    ("a",): 1,
    ("an",): 1,
    ("the",): _UNSAID,
    **{(word,): count for word, count in COUNT_WORDS.items()},
}
_JOINERS: dict[tuple[str, ...], Joiner] = {
    ("and",): "and",
    (",",): "and",
    (",", "and"): "and",
    **{tuple(relation.split()): relation for relation in RELATIONS},
    **{(lead, "the", *relation.split()): relation for lead in ("to", "on") for relation in RELATIONS[:2]},
}
_PHOTO = {("a", "photo", "of"): True, ("photo", "of"): True}


class _Reader:
    """Reads one prompt from left to right."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.words: list[str] = re.findall(r"[^\s,]+|,", prompt.lower().removesuffix("."))
        self.at = 0

    def read(self) -> tuple[list[Phrase], list[Joiner]]:
        """The phrases and what stands between them."""
        self._take(_PHOTO)
        phrases = [self._phrase()]
        joiners: list[Joiner] = []
        while self.at < len(self.words):
            joiner = self._take(_JOINERS)
            if joiner is None:
                near = _nearest(self.words[self.at], map(" ".join, _JOINERS))
                raise self._unreadable(f"{_did_you_mean(near)}{_JOINER_FORM}")
            if len(phrases) == MAX_PHRASES:
                raise PromptError(f"{quote(self.prompt)} asks for more than three kinds of objects: leave some out")
            joiners.append(joiner)
            phrases.append(self._phrase())
            if phrases[-1].name in [phrase.name for phrase in phrases[:-1]]:
                raise PromptError(
                    f"{quote(self.prompt)} names {phrases[-1].name!r} twice, which GenEval's rules cannot judge: "
                    f"write a count ('two {plural(phrases[-1].name)}') or another object"
                )
        return phrases, joiners

    def _phrase(self) -> Phrase:
        start = self.at
        count = self._take(_COUNTS) or _UNSAID
        color = self._take(_COLORS)
        if color in OBJECT_NAMES and self._phrase_ends():
            color = None
            self.at -= 1
        noun = self._take(_OBJECTS)
        if noun is None:
            raise self._no_object(may_count=self.at == start, may_color=color is None)
        name, is_plural = noun
        if is_plural and count == _UNSAID:
            raise PromptError(
                f"{quote(self.prompt)} does not say how many {plural(name)}: "
                f"write 'two', 'three' or 'four' before the word, or {name!r} for one"
            )
        return Phrase(name, count or 1, color)

    def _take(self, table: Mapping[tuple[str, ...], _Entry]) -> _Entry | None:
        """Read the longest entry of the table that comes next; None where none does."""
        for length in range(max(map(len, table)), 0, -1):
            words = tuple(self.words[self.at : self.at + length])
            if words in table:
                self.at += len(words)
                return table[words]
        return None

    def _comes(self, table: Mapping[tuple[str, ...], object], at: int) -> bool:
        return any(tuple(self.words[at : at + len(entry)]) == entry for entry in table)

    def _phrase_ends(self) -> bool:
        return self.at == len(self.words) or self._comes(_JOINERS, self.at)

    def _unreadable(self, way_out: str) -> PromptError:
        return PromptError(f"cannot read {quote(self.words[self.at])} in {quote(self.prompt)}: {way_out}")

    def _no_object(self, may_count: bool, may_color: bool) -> PromptError:
        """The error where an object should come next, and does not."""
        if self.at == len(self.words):
            return PromptError(f"an object is missing at the end of {quote(self.prompt)}: {_FORM}")
        word = self.words[self.at]
        if self._phrase_ends():
            return PromptError(f"an object is missing before {word!r} in {quote(self.prompt)}: {_FORM}")
        if _OTHER_COUNTS.fullmatch(word):
            return self._unreadable(_COUNT_FORM)
        if self._comes(_COUNTS, self.at) or self._comes(_COLORS, self.at):
            return self._unreadable(_FORM)
        if may_color and (self._comes(_OBJECTS, self.at + 1) or self._comes(_COLORS, self.at + 1)):
            near = _nearest(word, (*COLORS, *(COUNT_WORDS if may_count else ())))
            return self._unreadable(f"{_did_you_mean(near)}{_FORM}; colours: {', '.join(COLORS)}")
        near = (
            [name for name in OBJECT_NAMES if word in name.split()]
            or _nearest(word, map(" ".join, _OBJECTS))
            or _nearest(" ".join(self.words[self.at : self.at + 2]), OBJECT_NAMES)
        )
        objects = "" if near else f"; objects: {', '.join(OBJECT_NAMES)}"
        return self._unreadable(f"{_did_you_mean(near)}{_FORM}{objects}")


def _include(phrases: Sequence[Phrase], joiners: Sequence[Joiner]) -> tuple[Requirement, ...]:
    """The include list: phrases in order, but each chain of relations from its end, so that references come first."""
    include: list[Requirement] = []
    first = 0
    for last in range(len(phrases)):
        if last < len(joiners) and joiners[last] != "and":
            continue
        for i in range(last, first - 1, -1):
            position = (joiners[i], len(include) - 1) if i < last else None
            item = {"class": phrases[i].name, "count": phrases[i].count, "color": phrases[i].color}
            include.append(Requirement.model_validate({**item, "position": position}))
        first = last + 1
    return tuple(include)


def _tag(phrases: Sequence[Phrase], joiners: Sequence[Joiner]) -> str | None:
    """The one of GenEval's six tags whose prompts ask for the same; None where none does."""
    colored = [phrase.color is not None for phrase in phrases]
    if len(phrases) == 1:
        if phrases[0].count > 1:
            return None if colored[0] else "counting"
        return "colors" if colored[0] else "single_object"
    if len(phrases) > 2 or any(phrase.count > 1 for phrase in phrases):
        return None
    if joiners[0] != "and":
        return None if any(colored) else "position"
    if any(colored):
        return "color_attr" if all(colored) else None
    return "two_object"


def _nearest(word: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(word, list(names), n=1)


def _did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(map(repr, names))}? " if names else ""
