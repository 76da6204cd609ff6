"""`milr doctor self`: the embedded model's answers about golden images."""

from __future__ import annotations

from collections.abc import Iterator

from milr.errors import MilrError
from milr.rewards.icons.golden import score_golden
from milr.types import Score
from milr.weights import Finding


def examine_self(device: str) -> Iterator[Finding]:
    """Count the correct answers of the embedded model on golden images. Few correct answers are not a fault."""
    from milr.models import load_model
    from milr.rewards.self_reward import SelfReward

    try:
        reward = SelfReward(None, load_model(device=device))
    except MilrError as error:
        yield Finding("embedded model", False, str(error))
        return
    golden = score_golden(reward)
    agree = sum(isinstance(score, Score) and (score.value > 0.5) == right for _, _, right, score in golden)
    scored = sum(isinstance(score, Score) for _, _, _, score in golden)
    yield Finding("embedded model", scored == len(golden), f"scores {scored} of {len(golden)} golden images")
    yield Finding("its judgement", None, f"agrees with {agree} of {len(golden)} golden answers at 0.5")
