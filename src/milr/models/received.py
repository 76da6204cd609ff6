"""Files of checkpoints that others made: bounded in size, and no key that names code, kernels or other files.

Python takes up to thirty times the bytes of a JSON text while it reads one, so the bounds keep a hostile file below a
gigabyte of memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from milr.errors import MilrError, UsageError
from milr.untrusted import UntrustedError, one_line, read_file

MOST_CONFIG = 4 * 2**20
"""Most bytes of a config and of every other small file: the names of 22,000 classes, listed twice, take about 2 MB."""
MOST_INDEX = 16 * 2**20
"""Most bytes of an index of weights: one with 90,000 weights has about 9 MB, one of Janus-Pro-7B less than 0.1."""
MOST_VOCABULARY = 16 * 2**20
"""Most bytes of a list of words or of merges beside or in place of tokenizer.json: those of 250,000 words have 5 MB."""
MOST_TOKENIZER = 48 * 2**20
"""Most bytes of tokenizer.json: the largest ones, of 262,000 words with their merges as lists, have about 34 MB."""
MOST_LISTS = 2**21
"""Most lists and objects in tokenizer.json, a list for each merge: small ones take Python's memory most of all."""
_VOCABULARIES = ("vocab.json", "added_tokens.json")
_SMALL_FILES = (".json", ".jinja", ".txt", ".model")
"""Endings of the files that transformers and diffusers read by themselves; of safetensors they read the head first."""
_UNSAFE = re.compile(
    r"_?\w*(attn|attention|experts|kernel)s?_implementation\w*|use_kernels|kernel_config|auto_map|custom_pipelines?"
    r"|trust_remote_code|code_revision|quantization_config|use_pretrained_backbone|backbone_kwargs|_commit_hash"
)
"""Keys of a config that make transformers import code, ask the hub for kernels, or fetch other weights."""
_SHARD = re.compile(r"[\w][\w.-]{0,200}\.safetensors")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a checkpoint, without the keys that transformers must not see.

    Raises:
        UsageError: There is no such file, or it holds no JSON object.
    """
    if not path.is_file():
        raise UsageError(f"{str(path.parent)!r} has no {path.name}: give a folder with a whole checkpoint")
    try:
        found: object = json.loads(read_file(path, _most_bytes(path.name)))
    except (ValueError, RecursionError) as error:
        reason = f" ({error})" if isinstance(error, UntrustedError) else ""
        raise UsageError(f"{str(path)!r} is not a JSON object{reason}: fetch the checkpoint again") from None
    if not isinstance(found, dict):
        raise UsageError(f"{str(path)!r} is not a JSON object: fetch the checkpoint again")
    return cast("dict[str, Any]", drop_unsafe(cast("dict[str, object]", found)))


def read_tokenizer(path: Path) -> Any:
    """Return the `tokenizers.Tokenizer` of a tokenizer.json.

    Raises:
        UsageError: It is none, or too large.
    """
    from tokenizers import Tokenizer

    with refusing(repr(str(path))):
        return Tokenizer.from_buffer(_read_tokenizer(path))


def _read_tokenizer(path: Path) -> bytes:
    content = read_file(path, MOST_TOKENIZER)
    if content.count(b"{") + content.count(b"[") > MOST_LISTS:
        raise UntrustedError(f"it has more than {MOST_LISTS:,} lists and objects")
    return content


def _most_bytes(name: str) -> int:
    if name == "tokenizer.json":
        return MOST_TOKENIZER
    if name.endswith(".index.json"):
        return MOST_INDEX
    return MOST_VOCABULARY if name in _VOCABULARIES or name.endswith((".txt", ".model")) else MOST_CONFIG


def check_sizes(folder: Path) -> None:
    """Refuse a folder that a library reads by itself if one of its small files is too large or no regular file.

    A folder that is missing passes: the library's own error says so.

    Raises:
        UsageError: Names the file.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix not in _SMALL_FILES or path.is_dir():
            continue
        try:
            _read_tokenizer(path) if path.name == "tokenizer.json" else read_file(path, _most_bytes(path.name))
        except (UntrustedError, OSError) as error:
            raise UsageError(f"{str(path)!r} cannot be read ({error}): fetch the checkpoint again") from error


def drop_unsafe(value: object) -> object:
    """Return a config without unsafe keys, at any depth; see `_UNSAFE`."""
    if isinstance(value, dict):
        entries = cast("Mapping[str, object]", value)
        return {name: drop_unsafe(one) for name, one in entries.items() if not _UNSAFE.fullmatch(name)}
    if isinstance(value, list):
        return [drop_unsafe(one) for one in cast("list[object]", value)]
    return value


def check_config(folder: Path) -> None:
    """Refuse a folder that transformers reads by itself if its config has an unsafe key; see `check_sizes` also.

    Raises:
        UsageError: It has one; `auto_map` is allowed, because transformers is told to run no code.
    """
    check_sizes(folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            found: object = json.loads(read_file(path, MOST_CONFIG))
        except (ValueError, RecursionError):
            continue  # transformers reports the error
        for key in _find_unsafe(found):
            raise UsageError(f"{str(path)!r} has {key!r}, which may load code or kernels: remove it, if you trust it")


def _find_unsafe(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, one in cast("Mapping[str, object]", value).items():
            if _UNSAFE.fullmatch(name) and name not in ("auto_map", "_commit_hash") and one:
                yield name
            yield from _find_unsafe(one)
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            yield from _find_unsafe(one)


def read_index(path: Path) -> list[str]:
    """Return the names of the weight files that an index lists, sorted.

    Raises:
        UsageError: It is none, or it names a file elsewhere.
    """
    listed: object = read_json(path).get("weight_map")
    names = set(cast("dict[str, object]", listed).values()) if isinstance(listed, dict) and listed else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{str(path)!r} is no index of weights: fetch the checkpoint again")
    for name in names:
        if not _SHARD.fullmatch(str(name)):
            shown = one_line(str(name), 80)
            raise UsageError(f"{str(path)!r} names {shown!r}, which is no safetensors in its folder: do not use it")
    return sorted(str(name) for name in names)


@contextmanager
def refusing(what: str) -> Generator[None]:
    """Turn any error of the libraries about a broken file into one line; a device without memory for it is none.

    Args:
        what: The name of what is read, in quotes.

    Raises:
        UsageError: Anything but an error of milr's or an interrupt was raised.
    """
    try:
        yield
    except MilrError:
        raise
    except BaseException as error:  # a panic in a library written in Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if type(error).__name__ == "OutOfMemoryError":  # torch's: no fault of the file
            raise
        kind = "" if isinstance(error, UntrustedError) else f"{type(error).__name__}: "
        reason = one_line(f"{kind}{error}", 200)
        raise UsageError(f"{what} cannot be read ({reason}): fetch the checkpoint again") from error
