"""What a tagger says of a prompt: its words with their parts of speech, and its noun phrases.

T2I-CompBench takes its questions, objects and CLIP texts from spaCy 3.5.3 with en_core_web_sm 3.5.0, and other versions
say other things of one prompt in ten. The 1,800 official prompts never change, so what a tagger said of them comes with
the package as a table. The table holds no prompt: only a hash of each, and where in it words and phrases begin and end.
It says itself which versions made it (`table_origin`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

from milr.errors import MilrError

Category = Literal["color", "shape", "texture", "spatial", "non_spatial", "complex"]
CATEGORIES: tuple[Category, ...] = ("color", "shape", "texture", "spatial", "non_spatial", "complex")
Kind = Literal["spatial", "action", "spatialaction"]
"""What a complex prompt holds besides attributes: the official list that it stands in."""

NOUN, PROPER_NOUN, ADJECTIVE, OTHER = "N", "P", "A", "."
_TAGS = {"NOUN": NOUN, "PROPN": PROPER_NOUN, "ADJ": ADJECTIVE}
_TWO_THINGS = re.compile(r"(an? [\w' -]+?) and (an? [\w' -]+?)\.?")
INSTALL = 'pip install "milr[compbench]" && python -m spacy download en_core_web_sm'


class NotAnalysed(MilrError):
    """A prompt of which nobody can say the words' parts of speech or the noun phrases."""


@dataclass(frozen=True)
class Word:
    """One token of a prompt."""

    start: int
    """Of its first character."""
    end: int
    """After its last character."""
    tag: str
    """`NOUN`, `PROPER_NOUN`, `ADJECTIVE` or `OTHER`: the universal parts of speech that the benchmark's rules ask."""


@dataclass(frozen=True)
class Analysis:
    """A prompt with what a tagger said of it."""

    prompt: str
    words: tuple[Word, ...]
    """All tokens in order; empty where only phrases are known (the splitter)."""
    phrases: tuple[str, ...]
    """The noun phrases as they stand in the prompt, in order."""
    source: str
    """Who said so, with versions."""

    def text(self, first: int, last: int) -> str:
        """The prompt from word `first` to before word `last`, as it is written; empty where there are no such words."""
        words = self.words[first:last]
        return self.prompt[words[0].start : words[-1].end] if words else ""

    def without_adjectives(self) -> str:
        """All words but the adjectives, a space between each two: CLIPScore's text of a complex prompt."""
        return " ".join(self.prompt[word.start : word.end] for word in self.words if word.tag != ADJECTIVE)


@dataclass(frozen=True)
class Listing:
    """Where an official prompt stands."""

    category: Category
    kind: Kind | None
    """Of a complex prompt."""


def key_of(prompt: str) -> str:
    """What the table calls a prompt: sixteen hex digits of the SHA-256 of its UTF-8."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def find_listing(prompt: str) -> Listing | None:
    """Where an official prompt stands, with or without its final dot; None for any other prompt."""
    row = _table().rows.get(key_of(prompt))
    if row is None:
        return None
    category, _, kind = str(row[0]).partition(":")
    return Listing(cast("Category", category), cast("Kind", kind) if kind else None)


def table_origin() -> Mapping[str, object]:
    """What made the table: versions of spaCy and its pipeline, hashes of the pipeline and of the prompt files."""
    return _table().origin


def analyse(prompt: str) -> Analysis:
    """What is known of a prompt: the table's word, else an installed spaCy's, else that of a simple splitter.

    The splitter reads "a ... and a ..." only and knows no parts of speech. `Analysis.source` names who spoke.

    Raises:
        NotAnalysed: No one knows the prompt; the message says what to install.
    """
    row = _table().rows.get(key_of(prompt))
    if row is not None:
        return _from_row(prompt, row)
    pipeline = _load_spacy()
    if pipeline is not None:
        return _from_spacy(prompt, pipeline)
    match = _TWO_THINGS.fullmatch(prompt)
    if match is None:
        raise NotAnalysed(
            f"{prompt!r} is none of T2I-CompBench's 1,800 prompts, and spaCy is not installed to find its noun "
            f"phrases: {INSTALL}"
        )
    return Analysis(prompt, (), (match[1], match[2]), "splitter (approximation)")


@dataclass(frozen=True)
class _Table:
    origin: Mapping[str, object]
    rows: Mapping[str, list[Any]]
    """Key -> [list, tags, starts and ends of the words, first and last word of each phrase]."""


@cache
def _table() -> _Table:
    path = Path(__file__).parents[2] / "assets" / "compbench" / "phrases.json"
    content = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    return _Table(content["made"], content["prompts"])


def _from_row(prompt: str, row: list[Any]) -> Analysis:
    _, tags, spans, phrases = cast("tuple[str, str, list[int], list[int]]", tuple(row))
    words = tuple(Word(spans[2 * i], spans[2 * i + 1], tag) for i, tag in enumerate(tags))
    chunks = zip(phrases[::2], phrases[1::2], strict=True)
    texts = tuple(prompt[words[first].start : words[last].end] for first, last in chunks)
    made = _table().origin
    return Analysis(prompt, words, texts, f"table by spaCy {made['spacy']} with {made['pipeline']}")


@cache
def _load_spacy() -> Any:
    """SpaCy's small English pipeline; None where spaCy or the pipeline is not installed."""
    try:
        load: Any = import_module("spacy").load
        return load("en_core_web_sm")
    except (ImportError, OSError):
        return None


def _from_spacy(prompt: str, pipeline: Any) -> Analysis:
    document = pipeline(prompt)
    words = tuple(
        Word(int(token.idx), int(token.idx) + len(token.text), _TAGS.get(token.pos_, OTHER)) for token in document
    )
    phrases = tuple(str(chunk.text) for chunk in document.noun_chunks)
    made = pipeline.meta
    source = f"spaCy {made.get('spacy_version', '')} with {made['lang']}_{made['name']} {made['version']}, not 3.5.0"
    return Analysis(prompt, words, phrases, source)
