"""The cleaning of prompts that PixArt's and LlamaGen's text encoders were trained with.

It applies the rules of LlamaGen's `language/t5.py`, in their order, twice, with the standard library alone: damaged
text (mojibake) is not repaired, as ftfy would. Plain English gives the same text as the authors' code.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from html.parser import HTMLParser
from urllib.parse import unquote_plus

_DASHES = (
    "-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    "\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_KINDS = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_Rules = Sequence[tuple[re.Pattern[str], str]]


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern), by) for pattern, by in pairs)


_LINKS = _rules(
    ("<person>", "person"),
    (r"\b(?:(?:https?|www):(?:/{1,3}|[a-z0-9%])|[a-z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@))", ""),
)
_MARKS = _rules(
    (r"@\w+\b", ""),
    ("[\u31c0-\u31ef\u3200-\u4dbf\u4e00-\u9fff]+", ""),  # Chinese characters, Japanese marks
    (f"[{_DASHES}]+", "-"),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    ("&quot;?|&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_KINDS})", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    ("[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~()\\[\\]{}|\\\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_WORDS = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_KINDS})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    ("\\b\\d+\\.?\\d*[x\u0445\u00d7]\\d+\\.?\\d*\\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)
_ENDS = _rules(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)
_JOINED = re.compile("[-_]")
_MOST_JOINED = 3


class _Text(HTMLParser):
    """The text between tags."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def clean_caption(text: str) -> str:
    """Return a prompt as the text encoder was trained to read it."""
    return _clean(_clean(text))


def _clean(text: str) -> str:
    text = _apply(_LINKS, unquote_plus(text).strip().lower())
    parser = _Text()
    parser.feed(text)
    parser.close()
    text = _apply(_MARKS, "".join(parser.found))
    if len(_JOINED.findall(text)) > _MOST_JOINED:
        text = _JOINED.sub(" ", text)
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text))).strip()
    return _apply(_ENDS, _apply(_WORDS, text)).strip()


def _apply(rules: _Rules, text: str) -> str:
    for pattern, by in rules:
        text = pattern.sub(by, text)
    return text
