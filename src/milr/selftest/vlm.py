"""`milr doctor` for rewards that ask VLM judges: missing files, and the parsers on known answers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from milr.errors import UsageError
from milr.rewards.vlm.cache import default_cache
from milr.rewards.vlm.checklist import FORMS, ChecklistProtocol
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
    yield from _check_verdicts(BINARY, "0", 1.0, "There are 0 apples")


def examine_wise_legacy(device: str) -> Iterator[Finding]:
    """Examine `wise-legacy`: the same, and its judge's questions."""
    yield from _examine_openai()
    yield _find_words(LEGACY)
    three = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"
    yield from _check_verdicts(LEGACY, three, 0.8, "Consistency: 3\nRealism: 1\nAesthetic Quality: 0")


def examine_served(device: str) -> Iterator[Finding]:
    """Examine `unified-reward`: packages, key, cache, parser, and the server of its model."""
    yield from _examine_server()
    serve = "vllm serve CodeGoat24/UnifiedReward-qwen-7b --served-model-name UnifiedReward --port 8080"
    yield Finding("a server", None, f"is named by --vlm-url; for UnifiedReward (16 GB of weights): {serve}")
    yield from _check_verdicts(POINTWISE, "cat (object): 1\nFinal Score: 4.5", 0.875, "Final Score: 7")


def examine_wise(device: str) -> Iterator[Finding]:
    """Examine `wise`: packages, key, cache, parser, and its judge's questions."""
    yield from _examine_server()
    yield Finding("a server", None, f"is named by --vlm-url; the protocol's judge is {VERIFIED.model}")
    yield _find_words(VERIFIED)
    yield from _check_verdicts(VERIFIED, "Score: 1", 1.0, "Score: 2/2")


def examine_checklist(device: str) -> Iterator[Finding]:
    """Examine `checklist`: packages, key, cache, and how it reads known answers."""
    return _examine_form(FORMS["checklist"])


def examine_geneval2(device: str) -> Iterator[Finding]:
    """Examine `geneval2`: the same, and the words of its official scorer."""
    return _examine_form(FORMS["geneval2"])


def examine_corebench(device: str) -> Iterator[Finding]:
    """Examine `t2i-corebench`: the same, and the words of its official scorer."""
    return _examine_form(FORMS["t2i-corebench"])


def _examine_form(form: ChecklistProtocol) -> Iterator[Finding]:
    yield from _examine_server()
    probable = form.reading != "word"
    needs = ", and must give the probabilities of first tokens (logprobs)" if form.reading == "probability" else ""
    yield Finding("a server", None, f"is named by --vlm-url; the usual judge is {form.model}{needs}")
    if form.official is not None:
        yield _find_words(form)
    first = (("Yes", math.log(0.7)), (" yes", math.log(0.2)), ("No", math.log(0.1))) if probable else ()
    value, bad = (0.9, "") if probable else (1.0, "Yes and no.")
    yield from _check_reader(
        form.name, lambda one: form.read(one, "yes"), Answer("Yes", first_tokens=first), value, bad
    )


def _examine_openai() -> Iterator[Finding]:
    yield from _examine_packages()
    found = bool(os.environ.get(OPENAI_KEY))
    said = "is set" if found else "is not set; a server of your own needs --vlm-url and no key"
    yield Finding(OPENAI_KEY, True if found else None, said, () if found else (f"export {OPENAI_KEY}=...",))


def _examine_server() -> Iterator[Finding]:
    yield from _examine_packages()
    found = bool(os.environ.get(OWN_KEY))
    yield Finding(OWN_KEY, None, "is set" if found else "is not set; servers that ask for no key need none")


def _find_words(protocol: VlmProtocol | ChecklistProtocol) -> Finding:
    """Return whether a protocol's words have been fetched."""
    subject = f"{protocol.name}'s words"
    try:
        protocol.with_words()
    except UsageError as error:
        return Finding(subject, False, str(error), (f"milr data get {protocol.name}",))
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


def _check_verdicts(protocol: VlmProtocol, good: str, value: float, bad: str) -> Iterator[Finding]:
    return _check_reader(protocol.name, lambda one: protocol.read(one).value, Answer(good), value, bad)


def _check_reader(
    name: str, read: Callable[[Answer], float], good: Answer, value: float, bad: str
) -> Iterator[Finding]:
    try:
        found = read(good)
    except Unreadable as error:
        yield Finding(f"{name}'s reader", False, f"does not read {good.text!r}: {error}")
        return
    yield Finding(f"{name}'s reader", abs(found - value) < 1e-9, f"reads {good.text!r} as {found:g}")
    try:
        read(Answer(bad))
    except Unreadable:
        yield Finding(f"{name}'s reader", True, f"refuses {bad!r}")
    else:
        yield Finding(f"{name}'s reader", False, f"reads {bad!r}, which is no verdict")
