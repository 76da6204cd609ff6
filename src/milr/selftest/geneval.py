"""`milr doctor geneval` and `milr doctor geneval-hf`: GenEval's detector and colours."""

from __future__ import annotations

from collections.abc import Iterator

from milr.models.devices import find_device
from milr.rewards.geneval.known_answers import check_arithmetic
from milr.rewards.geneval.reward import GenEval, GenEvalHub
from milr.weights import Finding


def examine_geneval(device: str) -> Iterator[Finding]:
    """Examine GenEval's own scorer."""
    return _examine(GenEval, device)


def examine_geneval_hub(device: str) -> Iterator[Finding]:
    """Examine the approximation by another detector."""
    return _examine(GenEvalHub, device)


def _examine(kind: type[GenEval], device: str) -> Iterator[Finding]:
    find_device(device)
    findings = [finding for weights in kind.weights() for finding in weights.examine()]
    yield from findings
    if any(finding.fine is False for finding in findings):
        yield from check_arithmetic(device)
        yield Finding("self-test: weights", None, "not run before all files are right")
    else:
        yield from kind(device=device, self_test=False).self_test()
