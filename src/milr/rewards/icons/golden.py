"""No score of a scorer that fails on pictures whose verdict is known."""

from __future__ import annotations

from milr.errors import MilrError
from milr.rewards.base import Reward
from milr.selftest.rewards import check_golden


class SelfTestFailed(MilrError):
    """A scorer is wrong on a golden picture; the message names it."""


def check_scorer(scorer: Reward) -> None:
    """Refuse a scorer of the icon world that is wrong on a golden picture.

    The scorers of GenEval and T2I-CompBench test themselves when they are loaded, before they score anything. Judges
    behind an API would cost money, and a model that judges itself may judge badly without a fault: `milr doctor` looks
    at those.

    Raises:
        SelfTestFailed: Names the first picture.
    """
    if not getattr(scorer, "golden_test", False):
        return
    for finding in check_golden(scorer):
        if not finding.fine:
            raise SelfTestFailed(
                f"{scorer.name} fails its self-test on {finding.subject} ({finding.said}): no score that it gives "
                "would mean anything; install milr again, then type milr doctor icons"
            )
