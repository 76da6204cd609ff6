"""`milr doctor geneval` and `milr doctor geneval-hf`: GenEval's detector and colours."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from milr.models.devices import find_device
from milr.rewards.geneval.known_answers import check_arithmetic
from milr.rewards.geneval.reward import GenEval, GenEvalHub
from milr.rewards.needs import PACKAGES
from milr.weights import Finding

_INSTALL = 'pip install "milr[geneval]"'


def examine_geneval(device: str) -> Iterator[Finding]:
    """Examine GenEval's own scorer."""
    return _examine(GenEval, device)


def examine_geneval_hub(device: str) -> Iterator[Finding]:
    """Examine the approximation by another detector."""
    return _examine(GenEvalHub, device)


def _examine(kind: type[GenEval], device: str) -> Iterator[Finding]:
    find_device(device)
    packages = list(_examine_packages())
    yield from packages
    findings = [finding for weights in kind.weights() for finding in weights.examine()]
    yield from findings
    if not all(finding.fine for finding in packages):
        yield Finding("self-test", None, "not run before all packages are installed")
    elif any(finding.fine is False for finding in findings):
        yield from check_arithmetic(device)
        yield Finding("self-test: weights", None, "not run before all files are right")
    else:
        yield from kind(device=device, self_test=False).self_test()


def _examine_packages() -> Iterator[Finding]:
    for package in PACKAGES["geneval"]:
        found = find_spec(package) is not None
        yield Finding(package, found, f"is {'' if found else 'not '}installed", () if found else (_INSTALL,))
