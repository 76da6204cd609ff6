"""`milr doctor` for rewards that ask VLM judges: missing files, and the parsers on known answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from milr.errors import UsageError
from milr.rewards.vlm.cache import default_cache
from milr.rewards.vlm.gpt4o import BINARY
from milr.rewards.vlm.messages import OPENAI_KEY, OWN_KEY
from milr.rewards.vlm.parsers import Answer, Unreadable
from milr.rewards.vlm.reward import VlmProtocol
from milr.rewards.vlm.settings import EXTRA
from milr.rewards.vlm.unified_reward import POINTWISE
from milr.rewards.vlm.wise import LEGACY, VERIFIED
from milr.weights import Finding

_INSTALL = f'pip install "milr[{EXTRA}]"'


def examine_hosted(device: str) -> Iterator[Finding]:
    """Examine `gpt-4o`: packages, key, cache, parser on known answers. Asks no server: that costs money."""
    yield from _examine_openai()
    yield from _check_reader(BINARY, "0", 1.0, "There are 0 apples")


def examine_wise_legacy(device: str) -> Iterator[Finding]:
    """Examine `wise-legacy`: the same, and its judge's questions."""
    yield from _examine_openai()
    yield _find_words(LEGACY)
    three = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"
    yield from _check_reader(LEGACY, three, 0.8, "Consistency: 3\nRealism: 1\nAesthetic Quality: 0")


def examine_served(device: str) -> Iterator[Finding]:
    """Examine `unified-reward`: packages, key, cache, parser, and the server of its model."""
    yield from _examine_server()
    serve = "vllm serve CodeGoat24/UnifiedReward-qwen-7b --served-model-name UnifiedReward --port 8080"
    yield Finding("a server", None, f"is named by --vlm-url; for UnifiedReward (16 GB of weights): {serve}")
    yield from _check_reader(POINTWISE, "cat (object): 1\nFinal Score: 4.5", 0.875, "Final Score: 7")


def examine_wise(device: str) -> Iterator[Finding]:
    """Examine `wise`: packages, key, cache, parser, and its judge's questions."""
    yield from _examine_server()
    yield Finding("a server", None, f"is named by --vlm-url; the protocol's judge is {VERIFIED.model}")
    yield _find_words(VERIFIED)
    yield from _check_reader(VERIFIED, "Score: 1", 1.0, "Score: 2/2")


def _examine_openai() -> Iterator[Finding]:
    yield from _examine_packages()
    found = bool(os.environ.get(OPENAI_KEY))
    said = "is set" if found else "is not set; a server of your own needs --vlm-url and no key"
    yield Finding(OPENAI_KEY, True if found else None, said, () if found else (f"export {OPENAI_KEY}=...",))


def _examine_server() -> Iterator[Finding]:
    yield from _examine_packages()
    found = bool(os.environ.get(OWN_KEY))
    yield Finding(OWN_KEY, None, "is set" if found else "is not set; servers that ask for no key need none")


def _find_words(protocol: VlmProtocol) -> Finding:
    """Return true if a protocol's words have been fetched."""
    subject = f"{protocol.name}'s words"
    try:
        protocol.with_words()
    except UsageError as error:
        return Finding(subject, False, str(error), (f"milr data get {protocol.words_of}",))
    return Finding(subject, True, "are those of its official evaluator")


def _examine_packages() -> Iterator[Finding]:
    for package in ("openai", "stamina", "httpx2"):
        try:
            yield Finding(package, True, version(package))
        except PackageNotFoundError:
            yield Finding(package, False, "is not installed", (_INSTALL,))
    folder = default_cache()
    kept: Sequence[Path] = list(folder.rglob("*.json")) if folder.is_dir() else []
    size = sum(file.stat().st_size for file in kept)
    yield Finding("cache", True, f"{len(kept):,} answers, {size:,} bytes in {folder}")


def _check_reader(protocol: VlmProtocol, good: str, value: float, bad: str) -> Iterator[Finding]:
    try:
        found = protocol.read(Answer(good)).value
    except Unreadable as error:
        yield Finding(f"{protocol.name}'s reader", False, f"does not read {good!r}: {error}")
        return
    yield Finding(f"{protocol.name}'s reader", abs(found - value) < 1e-9, f"reads {good!r} as {found:g}")
    try:
        protocol.read(Answer(bad))
    except Unreadable:
        yield Finding(f"{protocol.name}'s reader", True, f"refuses {bad!r}")
    else:
        yield Finding(f"{protocol.name}'s reader", False, f"reads {bad!r}, which is no verdict")
