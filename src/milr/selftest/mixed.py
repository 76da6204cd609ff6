"""`milr doctor mixed`: the parts of the paper's MixedReward."""

from __future__ import annotations

from collections.abc import Iterator

from milr.rewards.mixed import git_vqa, grounding_dino
from milr.rewards.mixed.known_answers import check_cat
from milr.weights import Finding


def examine(device: str) -> Iterator[Finding]:
    """Examine the two parts that run here, on a photograph of a cat."""
    findings = [finding for part in (grounding_dino.WEIGHTS, git_vqa.WEIGHTS) for finding in part.examine()]
    yield from findings
    yield Finding("unified-reward", None, "asks a server of its own: type milr doctor unified-reward")
    if any(finding.fine is False for finding in findings):
        yield Finding("self-test: weights", None, "not run before all files are right")
        return
    for part in (grounding_dino.GroundingDino, git_vqa.GitVqa):
        yield check_cat(part(device=device, self_test=False))
