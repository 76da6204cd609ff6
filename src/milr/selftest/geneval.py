"""`milr doctor geneval` and `milr doctor geneval-hf`: GenEval's detector and colours."""

from __future__ import annotations

from collections.abc import Iterator

from milr.rewards.geneval.known_answers import check_arithmetic
from milr.rewards.geneval.reward import GenEval, GenEvalHub
from milr.rewards.pretrained import check_device
from milr.weights import Finding


def examine_geneval(device: str) -> Iterator[Finding]:
    """Examine GenEval's own scorer."""
    return _examine(GenEval, device)


def examine_geneval_hub(device: str) -> Iterator[Finding]:
    """Examine the approximation by another detector."""
    return _examine(GenEvalHub, device)


def _examine(kind: type[GenEval], device: str) -> Iterator[Finding]:
    check_device(device)
    findings = [finding for weights in kind.weights() for finding in weights.examine()]
    yield from findings
    if any(finding.fine is False for finding in findings):
        yield from check_arithmetic(device)
        yield Finding("self-test: weights", None, "not run before all files are right")
    else:
        yield from kind(device=device, self_test=False).self_test()
