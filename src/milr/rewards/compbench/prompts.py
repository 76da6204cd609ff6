"""A tagger's analysis of a prompt: its words with their parts of speech, and its noun phrases.

T2I-CompBench takes its questions, objects and CLIP texts from spaCy 3.5.3 with en_core_web_sm 3.5.0, and other versions
differ for one prompt in ten. The 1,800 official prompts never change, so the package contains their analysis as a
table. The table holds no prompts, only a hash of each, and the positions of words and phrases in it. It names the
versions that made it (`table_origin`).
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
"""Kind of a complex prompt besides attributes: the official list that contains it."""

NOUN, PROPER_NOUN, ADJECTIVE, OTHER = "N", "P", "A", "."
_TAGS = {"NOUN": NOUN, "PROPN": PROPER_NOUN, "ADJ": ADJECTIVE}
_TWO_THINGS = re.compile(r"(an? [\w' -]+?) and (an? [\w' -]+?)\.?")
INSTALL = 'pip install "milr[compbench]" && python -m spacy download en_core_web_sm'


class NotAnalysed(MilrError):
    """The error for a prompt whose parts of speech or noun phrases nothing can tell."""


@dataclass(frozen=True)
class Word:
    """One token of a prompt."""

    start: int
    """Index of its first character."""
    end: int
    """Index after its last character."""
    tag: str
    """`NOUN`, `PROPER_NOUN`, `ADJECTIVE` or `OTHER`: the universal parts of speech that the benchmark's rules use."""


@dataclass(frozen=True)
class Analysis:
    """A prompt with its analysis by a tagger."""

    prompt: str
    words: tuple[Word, ...]
    """All tokens in order; empty if only phrases are known (the splitter)."""
    phrases: tuple[str, ...]
    """The noun phrases as written in the prompt, in order."""
    source: str
    """Name of the tagger, with versions."""

    def text(self, first: int, last: int) -> str:
        """Return the prompt's text from word `first` to before word `last`; empty if there are no such words."""
        words = self.words[first:last]
        return self.prompt[words[0].start : words[-1].end] if words else ""

    def without_adjectives(self) -> str:
        """Return all words but the adjectives, separated by spaces: CLIPScore's text of a complex prompt."""
        return " ".join(self.prompt[word.start : word.end] for word in self.words if word.tag != ADJECTIVE)


@dataclass(frozen=True)
class Listing:
    """Place of an official prompt in the benchmark's lists."""

    category: Category
    kind: Kind | None
    """Kind of a complex prompt."""


def key_of(prompt: str) -> str:
    """Return the table's key of a prompt: sixteen hex digits of the SHA-256 of its UTF-8."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def find_listing(prompt: str) -> Listing | None:
    """Return the place of an official prompt, with or without its final full stop; None for any other prompt."""
    row = _table().rows.get(key_of(prompt))
    if row is None:
        return None
    category, _, kind = str(row[0]).partition(":")
    return Listing(cast("Category", category), cast("Kind", kind) if kind else None)


def table_origin() -> Mapping[str, object]:
    """Return the table's origin: versions of spaCy and its pipeline, hashes of the pipeline and of the prompt files."""
    return _table().origin


def analyse(prompt: str) -> Analysis:
    """Analyse a prompt by the table, else by an installed spaCy, else by a simple splitter.

    The splitter only reads "a ... and a ..." and knows no parts of speech. `Analysis.source` names the tagger.

    Raises:
        NotAnalysed: Nothing can analyse the prompt; the message says what to install.
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
    """Load spaCy's small English pipeline; return None if spaCy or the pipeline is not installed."""
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
