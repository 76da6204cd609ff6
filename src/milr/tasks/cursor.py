"""The words of a prompt, and a reading position."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import TypeVar

from milr.tasks.spellings import Words

_Entry = TypeVar("_Entry")


def split_words(prompt: str) -> list[str]:
    """Return the words and commas of a prompt, regardless of capitals, blanks, quotes and full stops."""
    text = unicodedata.normalize("NFKC", prompt).casefold()
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    text = re.sub(r"[\u2018\u2019\u02bc]", "'", text)
    text = re.sub(r"[\"`\u201c-\u201f\u00ab\u00bb]|(?<!\w)'|'(?!\w)", " ", text)  # quotes, not apostrophes
    text = re.sub(r"(?<=[a-z])[-\u2010\u2011](?=[a-z])", " ", text)
    text = " ".join(text.split()).rstrip(".!? ")
    text = re.sub(r"(?<![.;!?])[.;!?]+ |[;\u3001]", ", ", text)
    return re.findall(r"[^\s,&]+|[,&]", text)


class Cursor:
    """A reading position that moves over a prompt's words from left to right."""

    def __init__(self, prompt: str) -> None:
        """Begin before the first word."""
        self.prompt = prompt
        self.words = split_words(prompt)
        self.at = 0

    def take(self, table: Mapping[Words, _Entry]) -> _Entry | None:
        """Read the longest entry of the table that comes next; return None if there is none."""
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
        """Return true if an entry of the table is at a position."""
        return any(tuple(self.words[at : at + len(entry)]) == entry for entry in table)
