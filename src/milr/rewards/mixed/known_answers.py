"""Known answers that the parts of MixedReward must give before they score."""

from __future__ import annotations

from milr.errors import MilrError
from milr.rewards.base import Reward, start_scoring
from milr.rewards.geneval.known_answers import read_photographs
from milr.tasks import parse_prompt
from milr.types import rank
from milr.weights import Finding


def check_cat(reward: Reward) -> Finding:
    """Check that a photograph of a cat is rather a cat than a pizza."""
    image = next(image for _, name, image in read_photographs() if name == "cat")
    tasks = [parse_prompt("a photo of a cat"), parse_prompt("a photo of a pizza")]
    cat, pizza = map(rank, start_scoring(reward, [image] * 2, tasks)())
    said = f"a cat {cat:.2f}, a pizza {pizza:.2f}; the first must be larger"
    return Finding(f"self-test: {reward.name} on cat.jpg", cat > pizza, said)


def refuse_blind(reward: Reward) -> None:
    """Refuse a part that takes a cat for a pizza.

    Raises:
        MilrError: It does.
    """
    finding = check_cat(reward)
    if not finding.fine:
        raise MilrError(
            f"{reward.name} fails its self-test, so nothing is scored: {finding.subject}: {finding.said}; "
            "type: milr doctor mixed"
        )
