"""The paper's MixedReward as lines of `mix:`, one a tag of GenEval.

Source: the authors' code as read in miyapeng/MILR. Its published weights are data here; the parts are the rewards
`grounding-dino`, `git-vqa` and `unified-reward`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from milr.errors import MilrError, unknown_name
from milr.rewards.base import Reward
from milr.tasks import parse_prompt
from milr.types import rank
from milr.weights import Finding

Version = Literal["reward3", "reward4"]
"""As the authors name them: `reward3` is what their main program takes, `reward4` does without UnifiedReward."""
COLOR_TAGS = ("colors", "color_attr")

WEIGHTS: Mapping[Version, Mapping[Literal["colors", "others"], Mapping[str, float]]] = {
    "reward3": {
        "colors": {"grounding-dino": 0.4, "git-vqa": 0.4, "unified-reward": 0.2},
        "others": {"grounding-dino": 0.6, "git-vqa": 0.2, "unified-reward": 0.2},
    },
    "reward4": {
        "colors": {"grounding-dino": 0.5, "git-vqa": 0.5},
        "others": {"grounding-dino": 0.75, "git-vqa": 0.25},
    },
}
"""Version -> the two tags about colours, or the other four -> reward -> weight."""


def weights_for(tag: str | None, version: str = "reward3") -> Mapping[str, float]:
    """The weights for tasks of a tag; a task without a tag takes those of the tags that are not about colours.

    Raises:
        UsageError: No such version.
    """
    if version not in WEIGHTS:
        raise unknown_name("version of the mixed reward", version, WEIGHTS)
    by_tag = WEIGHTS["reward3" if version == "reward3" else "reward4"]
    return by_tag["colors" if tag in COLOR_TAGS else "others"]


def write_mix(tag: str | None, version: str = "reward3") -> str:
    """The reward's name for tasks of a tag: "mix:grounding-dino*0.6+git-vqa*0.2+unified-reward*0.2"."""
    return "mix:" + "+".join(f"{name}*{weight:g}" for name, weight in weights_for(tag, version).items())


def check_cat(reward: Reward) -> Finding:
    """Whether a photograph of a cat is a cat sooner than a pizza."""
    from milr.rewards.geneval.known_answers import read_photographs

    picture = next(picture for _, name, picture in read_photographs() if name == "cat")
    tasks = [parse_prompt("a photo of a cat"), parse_prompt("a photo of a pizza")]
    cat, pizza = map(rank, reward([picture] * 2, tasks))
    said = f"a cat {cat:.2f}, a pizza {pizza:.2f}; the first must be larger"
    return Finding(f"self-test: {reward.name} on cat.jpg", cat > pizza, said)


def refuse_blind(reward: Reward) -> None:
    """Stop before anything is scored by a part that takes a cat for a pizza.

    Raises:
        MilrError: It does.
    """
    finding = check_cat(reward)
    if not finding.fine:
        raise MilrError(
            f"{reward.name} fails its self-test, so nothing is scored: {finding.subject}: {finding.said}; "
            "type: milr doctor mixed"
        )


def examine(device: str) -> Iterator[Finding]:
    """`milr doctor mixed`: the two parts that run here, on a photograph of a cat."""
    from milr.rewards.mixed import git_vqa, grounding_dino

    findings = [finding for part in (grounding_dino.WEIGHTS, git_vqa.WEIGHTS) for finding in part.examine()]
    yield from findings
    yield Finding("unified-reward", None, "asks a server of its own: type milr doctor unified-reward")
    if any(finding.fine is False for finding in findings):
        yield Finding("self-test: weights", None, "not run before all files are right")
        return
    for part in (grounding_dino.GroundingDino, git_vqa.GitVqa):
        yield check_cat(part(device=device, self_test=False))
