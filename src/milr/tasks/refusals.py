"""Errors about prompts: the unreadable word, its possible meaning, and words to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from milr.errors import UsageError
from milr.tasks.cursor import Cursor
from milr.tasks.spellings import COLOR_WORDS, COUNTED_WORDS, JOINING_WORDS, OBJECT_WORDS
from milr.tasks.vocabulary import COLORS, COUNT_WORDS, NOT_TYPOS, OBJECT_NAMES, OTHER_COLORS, RELATIONS, quote

_FORM = "write in English [a, or one to four] [colour] object, as in 'a photo of two red apples left of a dog'"
_WORDS = "type milr info --words for all words that are read"
_COUNT_FORM = f"the counts are {', '.join(map(repr, COUNT_WORDS))}"
_JOINER_FORM = f"join objects by 'and', commas, {', '.join(map(repr, RELATIONS))}; {_WORDS}"
# words that ask for a count which the grammar does not have
_OTHER_COUNTS = re.compile(
    r"[-+]?\d+|no|zero|five|six|seven|eight|nine|ten|eleven|twelve|dozen|some|several|many|few|both|all|lots"
)


class PromptError(UsageError):
    """The error for a prompt that the grammar cannot read; the message names the word."""


def refuse_word(cursor: Cursor, way_out: str) -> PromptError:
    """Return the error that names the next word and the words to write instead."""
    word = cursor.words[cursor.at]
    english = "" if word.isascii() else "prompts are read in English only; "
    return PromptError(f"cannot read {quote(word)} in {quote(cursor.prompt)}: {english}{way_out}")


def refuse_object(cursor: Cursor, may_count: bool, color: str | None) -> PromptError:
    """Return the error for a missing object.

    Args:
        cursor: Its position is that of the missing object.
        may_count: True if a count would be possible there too.
        color: The colour before it, if any.
    """
    words, at = cursor.words, cursor.at
    if at == len(words):
        return PromptError(f"an object is missing at the end of {quote(cursor.prompt)}: {_FORM}")
    word = words[at]
    if color is not None and word in ("and", "&") and cursor.comes(COLOR_WORDS, at + 1):
        return refuse_word(cursor, f"an object has one colour; {_FORM}")
    if cursor.comes(JOINING_WORDS, at):
        return PromptError(f"an object is missing before {word!r} in {quote(cursor.prompt)}: {_FORM}")
    if _OTHER_COUNTS.fullmatch(word):
        return refuse_word(cursor, _COUNT_FORM)
    if word in OTHER_COLORS:
        return refuse_word(cursor, f"the colours are {', '.join(COLORS)}")
    if cursor.comes(COUNTED_WORDS, at) or cursor.comes(COLOR_WORDS, at):
        return refuse_word(cursor, _FORM)
    if color is None and (cursor.comes(OBJECT_WORDS, at + 1) or cursor.comes(COLOR_WORDS, at + 1)):
        near = _find_nearest(" ".join(words[at : at + 2]), OBJECT_NAMES) or _find_nearest(
            word, (*COLORS, *(COUNT_WORDS if may_count else ()))
        )
        return refuse_word(cursor, f"{_did_you_mean(near)}{_FORM}; colours: {', '.join(COLORS)}; {_WORDS}")
    near = (
        [name for name in OBJECT_NAMES if word in name.split()]
        or _find_nearest(" ".join(words[at : at + 2]), OBJECT_NAMES)
        or _find_nearest(word, map(" ".join, OBJECT_WORDS))
    )
    return refuse_word(cursor, f"{_did_you_mean(near)}{_FORM}; {_WORDS}")


def refuse_joiner(cursor: Cursor, start: int) -> PromptError:
    """Return the error for a missing joiner between two objects.

    Args:
        cursor: Its position is after words without meaning, possibly the prompt's end.
        start: The position before these words.
    """
    if cursor.at == len(cursor.words):
        cursor.at = start
    word = cursor.words[cursor.at]
    if word in ("left", "right"):
        return refuse_word(cursor, f"did you mean '{word} of'? {_JOINER_FORM}")
    if cursor.comes(COLOR_WORDS, cursor.at) or word in OTHER_COLORS:
        return refuse_word(cursor, f"write a colour before its object, as in 'a red apple'; {_WORDS}")
    near = _find_nearest(word, map(" ".join, JOINING_WORDS))
    return refuse_word(cursor, f"{_did_you_mean(near)}{_JOINER_FORM}")


def _find_nearest(word: str, names: Iterable[str]) -> list[str]:
    """Return the name that the word is probably a misspelling of; empty if it may be another word."""
    if word in NOT_TYPOS or word.removesuffix("s") in NOT_TYPOS:
        return []
    # a misspelling changes at most two letters, so most names need no closer comparison
    letters = _letter_bits(word)
    close = (name for name in names if (letters ^ _letter_bits(name)).bit_count() <= 4)
    found = min(((_slips(word, name), name) for name in close), default=(3, ""), key=lambda pair: pair[0])
    slips, name = found
    fine = slips == 1 or (slips == 2 and len(word) > 5 and word[0] == name[0])
    # in words of three letters one other letter makes another word: "cap", "hat"
    other_word = len(word) == len(name) <= 3 and sorted(word) != sorted(name)
    return [name] if fine and not other_word and len(word) > 2 else []


@lru_cache(maxsize=4096)
def _letter_bits(word: str) -> int:
    """Return the set of a word's letters as bits; rare letters share bits."""
    bits = 0
    for letter in word:
        bits |= 1 << ord(letter) % 61
    return bits


def _slips(word: str, name: str) -> int:
    """Return the number of letters left out, added, changed or swapped with the next one."""
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
