"""Files of checkpoints that others made: JSON of a bounded size, and no key that names code, kernels or other files."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from milr.errors import MilrError, UsageError
from milr.untrusted import UntrustedError, one_line, read_file

MOST_BYTES = 2**28
"""Most bytes of one JSON file: a tokenizer of 250,000 words has 20 MB."""
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
        found: object = json.loads(read_file(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        reason = f" ({error})" if isinstance(error, UntrustedError) else ""
        raise UsageError(f"{str(path)!r} is not a JSON object{reason}: fetch the checkpoint again") from None
    if not isinstance(found, dict):
        raise UsageError(f"{str(path)!r} is not a JSON object: fetch the checkpoint again")
    return cast("dict[str, Any]", drop_unsafe(cast("dict[str, object]", found)))


def drop_unsafe(value: object) -> object:
    """Return a config without unsafe keys, at any depth; see `_UNSAFE`."""
    if isinstance(value, dict):
        entries = cast("Mapping[str, object]", value)
        return {name: drop_unsafe(one) for name, one in entries.items() if not _UNSAFE.fullmatch(name)}
    if isinstance(value, list):
        return [drop_unsafe(one) for one in cast("list[object]", value)]
    return value


def check_config(folder: Path) -> None:
    """Refuse a folder that transformers reads by itself if its config has an unsafe key.

    Raises:
        UsageError: It has one; `auto_map` is allowed, because transformers is told to run no code.
    """
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            found: object = json.loads(read_file(path, MOST_BYTES))
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
    """Turn any error of the libraries about a broken file into one line.

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
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise UsageError(f"{what} cannot be read ({reason}): fetch the checkpoint again") from error
