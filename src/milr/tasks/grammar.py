"""The grammar of the icon world: prompt text to task, and back.

::

    prompt   = ["a photo of"] phrase {joiner phrase}    one to three phrases
    phrase   = ["a" | "an" | count] [colour] object     count: two, three, four
    joiner   = "and" | "," | relation
    relation = "left of" | "right of" | "above" | "below"

More is read than is written: capitals, digits, English plurals, other words for the same thing ("sofa", "under",
"an image of"), and, with a note, words that no rule can ask for ("big", "next to"). A task's prompt is always the form
that the grammar writes, the only one that models of the icon world were taught; what was typed stays beside it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from milr.errors import UsageError, unknown_name
from milr.tasks.vocabulary import (
    COLORS,
    COUNT_WORDS,
    ENGLISH_PLURALS,
    IGNORED_WORDS,
    NEAR_COLORS,
    NEAR_OBJECTS,
    NEAR_RELATIONS,
    NOT_TYPOS,
    OBJECT_NAMES,
    OTHER_COLORS,
    RELATIONS,
    SAME_OBJECTS,
    SAME_RELATIONS,
    plural,
    quote,
    with_article,
)
from milr.types import Relation, Requirement, Task

MAX_PHRASES = 3

_TEXT_JOINERS = (" and ", ", ", ", and ")
_FORM = "write in English [a, or one to four] [colour] object, as in 'a photo of two red apples left of a dog'"
_WORDS = "type milr info --words for all words that are read"
_COUNT_FORM = f"the counts are {', '.join(map(repr, COUNT_WORDS))}"
_JOINER_FORM = f"join objects by 'and', commas, {', '.join(map(repr, RELATIONS))}; {_WORDS}"
# Words that ask for a count which the grammar does not have.
_OTHER_COUNTS = re.compile(
    r"[-+]?\d+|no|zero|five|six|seven|eight|nine|ten|eleven|twelve|dozen|some|several|many|few|both|all|lots"
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
    """Return a prompt as a task in GenEval's metadata form.

    * "A left of B" places A by B; the reference B comes first in the include list. A relation binds its two neighbours
      only: "A left of B above C" places A by B and B by C, "A left of B and C" asks nothing of C but to be there.
    * A count above one also excludes one more, so that it is exact. "A dog" asks for at least one dog.
    * The tag is set where the prompt asks for what one of GenEval's six tags asks for, else None.
    * The count word decides, not the noun's form: "two dog" is two and "a dogs" is one. Plurals are read as GenEval
      writes them ("knifes") and as English does ("knives"). "Dogs" without a count is refused.
    * "Orange" is a colour where an object follows, else the fruit.

    Args:
        text: The prompt. The task's `prompt` is what `write_prompt` makes of it; where that differs, `typed` is the
            text as given, stripped.

    Raises:
        PromptError: The grammar cannot read it; one line that names the word and says what can be read.
    """
    return read_prompt(text).task


@dataclass(frozen=True)
class Reading:
    """A prompt as it was understood."""

    task: Task
    notes: tuple[str, ...] = ()
    """What was left out, or read as something near: each in words. Empty if the task asks for all that was said."""


def read_prompt(text: str) -> Reading:
    """Return a prompt as a task, and what of it was left out; the rest as `parse_prompt`."""
    typed = text.strip()
    reader = _Reader(typed)
    if not reader.words:
        raise PromptError("the prompt is empty: write what to draw, for instance 'a photo of a red apple'")
    phrases, joiners = reader.read()
    # As training wrote lists: "a, b and c".
    between = [
        joiner if joiner != "and" else (" and " if place == len(joiners) - 1 else ", ")
        for place, joiner in enumerate(joiners)
    ]
    prompt = write_prompt(phrases, between, photo=reader.photo)
    include = _include(phrases, joiners)
    exclude = [{"class": item.name, "count": item.count + 1} for item in include if item.count > 1]
    task = Task(
        prompt=prompt,
        tag=_tag(phrases, joiners),
        include=include,
        exclude=tuple(Requirement.model_validate(item) for item in exclude),
        typed=None if typed == prompt else typed,
    )
    return Reading(task, tuple(dict.fromkeys(reader.notes)))


def explain(task: Task) -> str | None:
    """Return what was left out of a user's words, in one line; None where the prompt says all of them."""
    if task.typed is None:
        return None
    try:
        notes = read_prompt(task.typed).notes
    except PromptError:
        return None
    return f"{quote(task.typed)} is read as {quote(task.prompt)}: {'; '.join(notes)}" if notes else None


Joiner = Relation | Literal["and"]
_Words = tuple[str, ...]


@dataclass(frozen=True)
class _Noun:
    """A spelling of an object."""

    name: str
    is_plural: bool
    exact: bool
    """False where the object is only near to what the word says."""


def _spellings() -> dict[_Words, _Noun]:
    """Return the words of every object, single and plural."""
    singles = {name: _Noun(name, False, True) for name in OBJECT_NAMES}
    singles |= {word: _Noun(name, False, True) for word, name in SAME_OBJECTS.items()}
    singles |= {word: _Noun(name, False, False) for word, name in NEAR_OBJECTS.items()}
    plurals = {_add_s(word): noun for word, noun in singles.items()}
    plurals |= {plural(name): singles[name] for name in OBJECT_NAMES}
    plurals |= {words: singles[single] for words, single in ENGLISH_PLURALS.items()}
    forms = {words: _Noun(noun.name, True, noun.exact) for words, noun in plurals.items()} | singles
    return {tuple(words.split()): noun for words, noun in forms.items()}


def _add_s(word: str) -> str:
    return word + ("es" if word.endswith(("s", "sh", "ch", "x")) else "s")


_OBJECTS = _spellings()
_COLORS: dict[_Words, str] = {(color,): color for color in COLORS} | {(word,): c for word, c in NEAR_COLORS.items()}
_UNSAID = 0
_COUNTS: dict[_Words, int] = {
    **{(word,): 1 for word in ("a", "an")},
    **{(word,): _UNSAID for word in ("the", "my", "your", "our", "this", "that")},
    **{(word,): count for word, count in COUNT_WORDS.items()},
    **{(str(count),): count for count in COUNT_WORDS.values()},
    **{(*article, word, "of"): 2 for article in ((), ("a",), ("the",)) for word in ("pair", "couple")},
}
_LINKS: dict[_Words, None] = dict.fromkeys(
    [("is",), ("are",), ("that", "is"), ("that", "are"), ("which", "is"), ("which", "are"), ("who", "is")]
)


def _joining_words() -> dict[_Words, tuple[Joiner, bool]]:
    """Return all words between objects: what they mean, and whether exactly that."""
    table: dict[str, tuple[Joiner, bool]] = {relation: (relation, True) for relation in RELATIONS}
    table["and"] = ("and", True)
    table |= {words: (joiner, True) for words, joiner in SAME_RELATIONS.items()}
    table |= {words: (joiner, False) for words, joiner in NEAR_RELATIONS.items()}
    table |= {f", {words}": found for words, found in table.items() if words != ","}
    return {tuple(words.split()): found for words, found in table.items()}


_JOINERS = _joining_words()
_ASKING: dict[_Words, None] = {
    tuple(words.split()): None
    for words in (
        *("please", "can you", "could you", "would you", "i want", "i need", "i would like", "i'd like", "hello", "hi"),
        *(
            "draw",
            "draw me",
            "paint",
            "paint me",
            "create",
            "generate",
            "make",
            "make me",
            "give me",
            "show",
            "show me",
        ),
        *("render", "imagine", "there is", "there are", "this is"),
    )
}
_PICTURES = ("photo", "image", "picture", "photograph", "pic")
_ARTWORKS = ("drawing", "painting", "illustration", "sketch", "rendering", "cartoon", "icon", "icons", "snapshot")
_SILENT = frozenset({"colored", "coloured", "exactly", "just", "only", "single", "very", "really"})
_FAREWELLS = (["please"], ["thanks"], ["thank", "you"], ["together"])
_SCENERY = re.compile(
    r"(?<![^ ])(?:(?:on|against|with|in front of) (?:(?:a|an|the) )?(?:[^ ,]+ ){0,2}background"
    r"|in the (?:background|foreground|middle|center|centre)|side by side|next to each other|at night|(?:out|in)doors)$"
)


def _split(prompt: str) -> list[str]:
    """Return the words and commas of a prompt, whatever its letters, blanks, quotes and stops look like."""
    text = unicodedata.normalize("NFKC", prompt).casefold()
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    text = re.sub(r"[\u2018\u2019\u02bc]", "'", text)
    text = re.sub(r"^[\s\"'`\u201c\u201d]+|[\s\"'`\u201c\u201d.!?]+$", "", text)
    text = re.sub(r"(?<=[a-z])[-\u2010\u2011](?=[a-z])", " ", text)
    text = re.sub(r"[.;]\s|;|\u3001", ", ", text)
    return re.findall(r"[^\s,&]+|[,&]", text)


class _Reader:
    """Reads one prompt from left to right."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.words = _split(prompt)
        self.at = 0
        self.photo = False
        self.notes: list[str] = []
        self._nouns: list[str] = []

    def read(self) -> tuple[list[Phrase], list[Joiner]]:
        """Return the phrases and what stands between them."""
        self._leave_out_the_end()
        self._begin()
        phrases = [self._phrase()]
        joiners: list[Joiner] = []
        while self.at < len(self.words):
            joiner = self._joiner()
            if joiner is None:
                break
            if len(phrases) == MAX_PHRASES:
                raise PromptError(f"{quote(self.prompt)} asks for more than three kinds of objects: leave some out")
            joiners.append(joiner)
            phrases.append(self._phrase())
            self._refuse_twice([phrase.name for phrase in phrases])
        return phrases, joiners

    def _leave_out_the_end(self) -> None:
        """Drop what may follow the objects: thanks, a background, words of style after a comma."""
        before: list[str] = []
        while before != self.words:
            before = list(self.words)
            for words in _FAREWELLS:
                if self.words[-len(words) :] == words and len(self.words) > len(words):
                    del self.words[-len(words) :]
            text = " ".join(self.words)
            found = _SCENERY.search(text)
            if found and found.start() > 0:
                self._ignore(found.group())
                self.words = text[: found.start()].rstrip(" ,").split()
            elif "," in self.words:
                last = len(self.words) - 1 - self.words[::-1].index(",")
                style = self.words[last + 1 :]
                if last > 0 and style and IGNORED_WORDS.issuperset(style):
                    self._ignore(" ".join(style))
                    del self.words[last:]

    def _begin(self) -> None:
        """Read what may come before the objects: a request, "a photo of"."""
        asked = False
        while length := self._length(_ASKING) or int(asked and self.words[self.at : self.at + 1] == [","]):
            self.at += length
            asked = True
        at, ignored = self.at, list[str]()
        if self.words[at : at + 1] in (["a"], ["an"], ["the"]):
            at += 1
        while at < len(self.words) and self.words[at] in IGNORED_WORDS:
            ignored.append(self.words[at])
            at += 1
        kind, after = " ".join(self.words[at : at + 1]), self.words[at + 1 : at + 2]
        if kind in (*_PICTURES, *_ARTWORKS) and after in (["of"], ["with"], ["showing"], ["containing"]):
            self.at, self.photo = at + 2, True
            self._ignore(*ignored)
            if kind in _ARTWORKS:
                self.notes.append(f"{kind!r} is read as 'photo'")

    def _phrase(self) -> Phrase:
        start = self.at
        self._skip_silent()
        counted_at = self.at
        count = self._take(_COUNTS) or _UNSAID
        pair = "of" in self.words[counted_at : self.at]
        if count == _UNSAID:
            self._skip_silent()
            count = self._take(_COUNTS) or _UNSAID  # "the two dogs"
        color: str | None = None
        while True:
            self._skip_silent()
            here = self.at
            if color is None and (found := self._take(_COLORS)) is not None:
                if found in OBJECT_NAMES and self._phrase_ends():
                    self.at = here
                    break
                color = found
                if self.words[here] != found:
                    self.notes.append(f"{self.words[here]!r} is read as {found!r}")
            elif self.at < len(self.words) and self.words[self.at] in IGNORED_WORDS and not self._comes(_OBJECTS, here):
                self._ignore(self.words[self.at])
                self.at += 1
            else:
                break
        here = self.at
        noun = self._take(_OBJECTS)
        if noun is None:
            raise self._no_object(may_count=self.at == start, color=color)
        said = " ".join(self.words[here : self.at])
        self._nouns.append(said)
        if not noun.exact:
            self.notes.append(f"{said!r} is read as {noun.name!r}")
        if pair and plural(noun.name) == noun.name:
            count = 1
        if noun.is_plural and count == _UNSAID:
            raise PromptError(
                f"{quote(self.prompt)} does not say how many {plural(noun.name)}: "
                f"write 'two', 'three' or 'four' before the word, or {noun.name!r} for one"
            )
        return Phrase(noun.name, count or 1, color)

    def _joiner(self) -> Joiner | None:
        """Read what stands between two phrases; None where the prompt ends after a word that is left out."""
        here = self.at
        passed = self._pass_links()
        table_at = self.at
        found = self._take(_JOINERS)
        if found is None and passed and self.at == len(self.words):
            self._ignore(*passed)
            return None
        if found is None:
            word = self.words[self.at] if self.at < len(self.words) else self.words[here]
            if self.at == len(self.words):
                self.at = here
            if word in ("left", "right"):
                raise self._unreadable(f"did you mean '{word} of'? {_JOINER_FORM}")
            if self._comes(_COLORS, self.at) or word in OTHER_COLORS:
                raise self._unreadable(f"write a colour before its object, as in 'a red apple'; {_WORDS}")
            near = _nearest(word, map(" ".join, _JOINERS))
            raise self._unreadable(f"{_did_you_mean(near)}{_JOINER_FORM}")
        joiner, exact = found
        self._ignore(*passed)
        if not exact:
            said = " ".join(self.words[table_at : self.at]).removeprefix(", ")
            side = "; for a place write 'left of', 'right of', 'above' or 'below'" if joiner == "and" else ""
            self.notes.append(f"{said!r} is read as {joiner!r}{side}")
        return joiner

    def _pass_links(self) -> list[str]:
        """Pass "is", "that is" and words of looks after an object; return the latter."""
        passed: list[str] = []
        while self.at < len(self.words):
            if length := self._length(_LINKS):
                self.at += length
                continue
            if self.words[self.at] not in IGNORED_WORDS:
                break
            passed.append(self.words[self.at])
            self.at += 1
        return passed

    def _skip_silent(self) -> None:
        while self.at < len(self.words) and self.words[self.at] in _SILENT:
            self.at += 1

    def _ignore(self, *words: str) -> None:
        self.notes += [f"{word!r} is ignored" for word in words]

    def _refuse_twice(self, names: Sequence[str]) -> None:
        """Refuse a last object that an earlier phrase names too."""
        name = names[-1]
        if name not in names[:-1]:
            return
        first, last = self._nouns[names.index(name)], self._nouns[-1]
        both = "" if first == last else f" ({first!r} and {last!r} are one kind of object here)"
        raise PromptError(
            f"{quote(self.prompt)} names {name!r} twice{both}, which GenEval's rules cannot judge: "
            f"write a count ('two {plural(name)}') or another object"
        )

    def _take(self, table: Mapping[_Words, _Entry]) -> _Entry | None:
        """Read the longest entry of the table that comes next; None where none does."""
        length = self._length(table)
        if not length:
            return None
        self.at += length
        return table[tuple(self.words[self.at - length : self.at])]

    def _length(self, table: Mapping[_Words, object]) -> int:
        """Return the number of words of the longest entry that comes next."""
        for length in range(max(map(len, table)), 0, -1):
            words = tuple(self.words[self.at : self.at + length])
            if len(words) == length and words in table:
                return length
        return 0

    def _comes(self, table: Mapping[_Words, object], at: int) -> bool:
        return any(tuple(self.words[at : at + len(entry)]) == entry for entry in table)

    def _phrase_ends(self) -> bool:
        at = self.at
        self._pass_links()
        ends = self.at == len(self.words) or self._comes(_JOINERS, self.at)
        self.at = at
        return ends

    def _unreadable(self, way_out: str) -> PromptError:
        word = self.words[self.at]
        english = "" if word.isascii() else "prompts are read in English only; "
        return PromptError(f"cannot read {quote(word)} in {quote(self.prompt)}: {english}{way_out}")

    def _no_object(self, may_count: bool, color: str | None) -> PromptError:
        """Return the error where an object should come next, and does not."""
        if self.at == len(self.words):
            return PromptError(f"an object is missing at the end of {quote(self.prompt)}: {_FORM}")
        word = self.words[self.at]
        if color is not None and word in ("and", "&") and self._comes(_COLORS, self.at + 1):
            return self._unreadable(f"an object has one colour; {_FORM}")
        if self._comes(_JOINERS, self.at):
            return PromptError(f"an object is missing before {word!r} in {quote(self.prompt)}: {_FORM}")
        if _OTHER_COUNTS.fullmatch(word):
            return self._unreadable(_COUNT_FORM)
        if word in OTHER_COLORS:
            return self._unreadable(f"the colours are {', '.join(COLORS)}")
        if self._comes(_COUNTS, self.at) or self._comes(_COLORS, self.at):
            return self._unreadable(_FORM)
        if color is None and (self._comes(_OBJECTS, self.at + 1) or self._comes(_COLORS, self.at + 1)):
            near = _nearest(" ".join(self.words[self.at : self.at + 2]), OBJECT_NAMES) or _nearest(
                word, (*COLORS, *(COUNT_WORDS if may_count else ()))
            )
            return self._unreadable(f"{_did_you_mean(near)}{_FORM}; colours: {', '.join(COLORS)}; {_WORDS}")
        near = (
            [name for name in OBJECT_NAMES if word in name.split()]
            or _nearest(" ".join(self.words[self.at : self.at + 2]), OBJECT_NAMES)
            or _nearest(word, map(" ".join, _OBJECTS))
        )
        return self._unreadable(f"{_did_you_mean(near)}{_FORM}; {_WORDS}")


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
    """Return the name that the word is a slip of the pen for; empty where it may well be another word."""
    if word in NOT_TYPOS or word.removesuffix("s") in NOT_TYPOS:
        return []
    found = min(((_slips(word, name), name) for name in names), default=(0, ""), key=lambda pair: pair[0])
    slips, name = found
    fine = slips == 1 or (slips == 2 and len(word) > 5 and word[0] == name[0])
    # In words of three letters one other letter makes another word: "cap", "hat".
    other_word = len(word) == len(name) <= 3 and sorted(word) != sorted(name)
    return [name] if fine and not other_word and len(word) > 2 else []


def _slips(word: str, name: str) -> int:
    """Return how many letters were left out, added, changed or swapped with the next one."""
    if abs(len(word) - len(name)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(name) + 1))
    for i, letter in enumerate(word, start=1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(name, start=1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == name[j - 2] and word[i - 2] == other:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(map(repr, names))}? " if names else ""
