"""The words of a prompt, and the place up to which they are read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import TypeVar

from milr.tasks.spellings import Words

_Entry = TypeVar("_Entry")


def split_words(prompt: str) -> list[str]:
    """Return the words and commas of a prompt, whatever its letters, blanks, quotes and stops look like."""
    text = unicodedata.normalize("NFKC", prompt).casefold()
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    text = re.sub(r"[\u2018\u2019\u02bc]", "'", text)
    text = re.sub(r"[\"`\u201c-\u201f\u00ab\u00bb]|(?<!\w)'|'(?!\w)", " ", text)  # quotes, not apostrophes
    text = re.sub(r"(?<=[a-z])[-\u2010\u2011](?=[a-z])", " ", text)
    text = " ".join(text.split()).rstrip(".!? ")
    text = re.sub(r"(?<![.;!?])[.;!?]+ |[;\u3001]", ", ", text)
    return re.findall(r"[^\s,&]+|[,&]", text)


class Cursor:
    """Moves over a prompt's words, from left to right."""

    def __init__(self, prompt: str) -> None:
        """Begin before the first word."""
        self.prompt = prompt
        self.words = split_words(prompt)
        self.at = 0

    def take(self, table: Mapping[Words, _Entry]) -> _Entry | None:
        """Read the longest entry of the table that comes next; None where none does."""
        length = self.count(table)
        if not length:
            return None
        self.at += length
        return table[tuple(self.words[self.at - length : self.at])]

    def count(self, table: Mapping[Words, object]) -> int:
        """Return the number of words of the longest entry that comes next."""
        for length in range(max(map(len, table)), 0, -1):
            words = tuple(self.words[self.at : self.at + length])
            if len(words) == length and words in table:
                return length
        return 0

    def comes(self, table: Mapping[Words, object], at: int) -> bool:
        """Return whether an entry of the table stands at a place."""
        return any(tuple(self.words[at : at + len(entry)]) == entry for entry in table)
