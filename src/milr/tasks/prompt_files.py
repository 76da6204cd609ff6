"""Files of prompts as rows, in any form (text, JSON array, JSON lines, table), from a disk or a pipe."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from milr.errors import UsageError
from milr.tasks.vocabulary import quote

STANDARD_INPUT = "-"
PROMPT_KEYS = ("prompt", "prompts", "caption", "text")
"""Names of the column or key of the prompt, in any case; the first one that exists is taken."""
FORMS = "a prompt a line, a JSON array, JSON lines as in GenEval's evaluation_metadata.jsonl, or a table (.csv, .tsv)"

_MOST_BYTES = 64 * 2**20
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, which is a prefix of it
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_JSON, _DELIMITERS = (".json", ".jsonl", ".ndjson"), {".tsv": "\t", ".tab": "\t", ".csv": ",;\t"}
_PIECES_OF_JSON = frozenset(["[", "]", "{", "}", "],", "},"])


@dataclass(frozen=True)
class Row:
    """One entry of a file."""

    place: str
    """Position in the file: "line 3", "item 2"."""
    content: str | Mapping[str, object]
    """A prompt, or the entry's values by key."""


def name_file(path: str | Path) -> str:
    """Return the name of a file of prompts for errors."""
    return "standard input" if str(path) == STANDARD_INPUT else repr(str(path))


def read_rows(path: str | Path) -> list[Row]:
    """Return the entries of a file of prompts, in order, without blank lines.

    The file name's ending decides the form if it is one of JSON's or of a table's; else the first line does. A table's
    first line is its heading; a table of one column may do without.

    Args:
        path: A file or a pipe of at most 64 MiB; "-" is standard input. UTF-8, or the encoding of its byte order mark.

    Raises:
        UsageError: It cannot be read, is empty, is broken JSON, or is a table without a column of prompts.
    """
    name, text = name_file(path), _read_text(path)
    ending = Path(path).suffix.lower()
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UsageError(f"{name} holds no prompts: write one a line, for instance 'a photo of a red apple'")
    first = lines[0][1]
    rows: list[Row] | None = None
    if ending in _DELIMITERS:
        rows = _read_table(name, text, _DELIMITERS[ending])
    elif ending in _JSON or first[0] in "[{":
        rows = _read_json(name, text, lines, sure=ending in _JSON)
    elif _fold(first) in PROMPT_KEYS[:2]:  # a heading above lines of text
        del lines[0]
    elif _begins_table(first):
        rows = _read_table(name, text, "\t" if "\t" in first else ",")
    if rows is None:
        for number, line in lines:
            _refuse_json(name, number, line)
        rows = [Row(f"line {number}", line) for number, line in lines]
    if not rows:
        raise UsageError(f"{name} holds no prompts: give {FORMS}")
    return rows


def find_key(keys: Iterable[str], wanted: Sequence[str]) -> str | None:
    """Return the key that matches one of the names, in any case; earlier names and exact spellings take precedence."""
    keys = list(keys)
    for name in wanted:
        found = [key for key in keys if _fold(key) == name]
        if found:
            return name if name in found else found[0]
    return None


def _begins_table(line: str) -> bool:
    """Return true if a line of text looks like a table's heading: tabs and a known name, or "prompt" among commas."""
    if "\t" in line:
        return find_key(line.split("\t"), PROMPT_KEYS) is not None
    return find_key(line.split(","), PROMPT_KEYS[:2]) is not None


def _fold(key: str) -> str:
    return key.strip(' "').casefold()


def _read_text(path: str | Path) -> str:
    """Return a file's text with Unix line ends."""
    name = name_file(path)
    try:
        if str(path) == STANDARD_INPUT:
            data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"no file {name}: give one with {FORMS}") from None
    except IsADirectoryError:
        raise UsageError(f"{name} is a folder: give a file with {FORMS}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {name} ({reason}): give a file with {FORMS}") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{name} is longer than 64 MiB, which no list of prompts is: give a file with {FORMS}")
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    try:
        text = data[len(mark) :].decode(_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}, line {line}: this is not {error.encoding.upper()}; save the file as UTF-8") from None
    if "\0" in text:
        raise UsageError(f"{name} holds NUL characters, as no text does: save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_json(name: str, text: str, lines: Sequence[tuple[int, str]], *, sure: bool) -> list[Row] | None:
    """Return the items of a JSON array, or the lines of JSON lines; None if the text is neither."""
    try:
        whole = _parse_json(text)
    except _RepeatedKey as error:
        marks = [number for number, line in lines if f"{json.dumps(error.key)}:" in line.replace('" :', '":')]
        where = f"line {marks[1]}" if len(marks) > 1 else f"line {(marks or [lines[0][0]])[0]}"
        raise UsageError(f"{name}, {where}: {error}; give each entry a key of its own") from None
    except ValueError as error:
        if lines[0][1][0] == "[":
            if sure:
                raise UsageError(f"{name} begins as a JSON array and is not one ({error}): fix it") from None
            return None
    else:
        if isinstance(whole, dict):
            return _read_object(name, lines, cast("dict[str, object]", whole))
        if not isinstance(whole, list):
            return [_make_row(name, f"line {lines[0][0]}", whole)]
        return [
            _make_row(name, f"item {place}", item) for place, item in enumerate(cast("list[object]", whole), start=1)
        ]
    rows: list[Row] = []
    for number, line in lines:
        try:
            rows.append(_make_row(name, f"line {number}", _parse_json(line)))
        except ValueError as error:
            raise UsageError(
                f"{name}, line {number}: no JSON ({error}); every line is one JSON object, since the first begins one"
            ) from None
    return rows


def _read_object(name: str, lines: Sequence[tuple[int, str]], whole: Mapping[str, object]) -> list[Row]:
    """Return the one row that an object is, or the entries of an object that maps ids to rows, as T2I-CoReBench's."""
    if (
        find_key(whole, PROMPT_KEYS) is not None
        or not whole
        or not all(isinstance(one, dict) for one in whole.values())
    ):
        return [_make_row(name, f"line {lines[0][0]}", whole)]
    return [_make_row(name, f"entry {key!r}", entry) for key, entry in whole.items()]


def _parse_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_refuse_repeated)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse a key that is there twice, of which the last value would win in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _RepeatedKey(twice)
    return found


class _RepeatedKey(ValueError):
    """The error for an object with the same key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} is there twice")
        self.key = key


def _make_row(name: str, place: str, item: object) -> Row:
    if isinstance(item, str):
        return Row(place, item)
    if isinstance(item, dict):
        return Row(place, cast("dict[str, object]", item))
    raise UsageError(f"{name}, {place}: {quote(json.dumps(item), 40)} is no prompt; give a string, or an object")


def _refuse_json(name: str, number: int, line: str) -> None:
    """Refuse a line of JSON among lines of text: the file was probably meant to be read as JSON."""
    piece = line in _PIECES_OF_JSON
    if not piece and line[0] in "[{":
        try:
            piece = isinstance(_parse_json(line.rstrip(",")), list | dict)
        except ValueError:
            return
    if piece:
        raise UsageError(f"{name}, line {number}: {quote(line, 40)} is JSON, not a prompt; give {FORMS}")


def _read_table(name: str, text: str, delimiters: str) -> list[Row]:
    """Return a table's rows by its heading; a table of one column needs none."""
    first = text.lstrip().partition("\n")[0]
    headings = {delimiter: [cell.strip(' "') for cell in first.split(delimiter)] for delimiter in delimiters}
    known = [delimiter for delimiter, cells in headings.items() if len(cells) > 1 and find_key(cells, PROMPT_KEYS)]
    rows = _split_table(name, text, (known or delimiters)[0])
    if not rows:
        return []
    heading = rows[0][1]
    if not known and all(len(cells) == 1 for _, cells in rows):
        named = _fold(heading[0]) in PROMPT_KEYS
        return [Row(f"line {number}", cells[0]) for number, cells in rows[named:]]
    if find_key(heading, PROMPT_KEYS) is None:
        said = quote(", ".join(heading), 60)
        raise UsageError(f"{name}: no column of the first line, {said}, is named 'prompt': give it such a heading")
    for number, cells in rows:
        if len(cells) > len(heading):
            raise UsageError(
                f"{name}, line {number}: {len(cells)} cells under {len(heading)} headings; put a prompt that holds "
                "the delimiter in double quotes"
            )
    return [Row(f"line {number}", dict(zip(heading, cells, strict=False))) for number, cells in rows[1:]]


def _split_table(name: str, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return the cells of every row that is not blank, with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    rows: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{name}, line {start}: not a table ({error}): fix it, or give {FORMS}") from None
    return rows
