"""All spellings of the grammar's words, as tables of word tuples: derived from the vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from milr.tasks.vocabulary import (
    COLORS,
    COUNT_WORDS,
    ENGLISH_PLURALS,
    NEAR_COLORS,
    NEAR_OBJECTS,
    NEAR_RELATIONS,
    OBJECT_NAMES,
    RELATIONS,
    SAME_OBJECTS,
    SAME_RELATIONS,
    plural,
)
from milr.types import Relation, pluralise

Joiner = Relation | Literal["and"]
Words = tuple[str, ...]


@dataclass(frozen=True)
class Noun:
    """A spelling of an object."""

    name: str
    is_plural: bool
    exact: bool
    """False if the word only means something similar to the object."""


def _spellings() -> dict[Words, Noun]:
    """Return the words of every object, singular and plural, with their meaning."""
    singles = {name: Noun(name, False, True) for name in OBJECT_NAMES}
    singles |= {word: Noun(name, False, True) for word, name in SAME_OBJECTS.items()}
    singles |= {word: Noun(name, False, False) for word, name in NEAR_OBJECTS.items()}
    plurals = {pluralise(word): noun for word, noun in singles.items()}
    plurals |= {plural(name): singles[name] for name in OBJECT_NAMES}
    plurals |= {words: singles[single] for words, single in ENGLISH_PLURALS.items()}
    forms = {words: Noun(noun.name, True, noun.exact) for words, noun in plurals.items()} | singles
    return {tuple(words.split()): noun for words, noun in forms.items()}


OBJECT_WORDS = _spellings()
"""Every spelling of an object."""
COLOR_WORDS: dict[Words, str] = {(color,): color for color in COLORS} | {(word,): c for word, c in NEAR_COLORS.items()}
"""Every spelling of a colour -> the colour."""
UNSAID = 0
"""Count of a phrase that names none."""
COUNTED_WORDS: dict[Words, int] = {
    **{(word,): 1 for word in ("a", "an")},
    **{(word,): UNSAID for word in ("the", "my", "your", "our", "this", "that")},
    **{(word,): count for word, count in COUNT_WORDS.items()},
    **{(str(count),): count for count in COUNT_WORDS.values()},
    **{(*article, word, "of"): 2 for article in ((), ("a",), ("the",)) for word in ("pair", "couple")},
}
LINKS: dict[Words, None] = dict.fromkeys(
    [("is",), ("are",), ("that", "is"), ("that", "are"), ("which", "is"), ("which", "are"), ("who", "is")]
)


def _joining_words() -> dict[Words, tuple[Joiner, bool]]:
    """Return all words between objects: their meaning, and whether it is exact."""
    table: dict[str, tuple[Joiner, bool]] = {relation: (relation, True) for relation in RELATIONS}
    table["and"] = ("and", True)
    table |= {words: (joiner, True) for words, joiner in SAME_RELATIONS.items()}
    table |= {words: (joiner, False) for words, joiner in NEAR_RELATIONS.items()}
    table |= {f", {words}": found for words, found in table.items() if words != ","}
    return {tuple(words.split()): found for words, found in table.items()}


JOINING_WORDS = _joining_words()
"""Words between objects -> their meaning, and whether it is exact."""
REQUESTS: dict[Words, None] = {
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
PICTURES = ("photo", "image", "picture", "photograph", "pic")
ARTWORKS = ("drawing", "painting", "illustration", "sketch", "rendering", "cartoon", "icon", "icons", "snapshot")
SILENT_WORDS = frozenset({"colored", "coloured", "exactly", "just", "only", "single", "very", "really"})
FAREWELLS = (["please"], ["thanks"], ["thank", "you"], ["together"])
SCENERY = re.compile(
    r"(?<![^ ])(?:(?:on|against|with|in front of) (?:(?:a|an|the) )?(?:[^ ,]+ ){0,2}background"
    r"|in the (?:background|foreground|middle|center|centre)|side by side|next to each other|at night|(?:out|in)doors)$"
)
