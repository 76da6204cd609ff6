"""`milr doctor t2i-compbench`: T2I-CompBench's scorers."""

from __future__ import annotations

from collections.abc import Iterator

from milr.rewards.compbench import weights
from milr.rewards.compbench.known_answers import check_rules, check_scorer
from milr.rewards.compbench.scorers import Scorers
from milr.rewards.compbench.three_in_one import Scorer
from milr.weights import Finding

_SCORERS: tuple[Scorer, ...] = ("blip-vqa", "clip", "spatial")


def examine(device: str) -> Iterator[Finding]:
    """Examine weights, rules and scorers."""
    findings = [finding for part in weights.ALL for finding in part.examine()]
    yield from findings
    yield from check_rules()
    if any(finding.fine is False for finding in findings):
        yield Finding("self-test: weights", None, "not run before all files are right")
        return
    origin = weights.describe_blip(weights.BLIP.folder)
    note = "no hash of it is published to compare with" if origin.is_official else "an approximation, named in scores"
    yield Finding("blip-vqa: its source", None, f"{origin.title}; {note}")
    yield Finding(
        "UniDet", None, "cannot run here: OWLv2 stands in its place, named in scores, unless --unidet is given"
    )
    scorers = Scorers(device=device)
    for name in _SCORERS:
        yield from check_scorer(name, scorers)
