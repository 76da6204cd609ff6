"""Rewards by name. One is imported, and its weights are read, only when it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from milr.errors import UsageError
from milr.registry import Entry, find, load
from milr.rewards.base import Reward

__all__ = ["REWARDS", "Reward", "load_reward"]

REWARDS: Mapping[str, Entry] = {
    "icons": Entry("milr.rewards.icons:Icons", "GenEval's rules on the icon detector's findings: 1 or 0"),
    "icons-soft": Entry("milr.rewards.icons:IconsSoft", "the same with a slope: the share of conditions met"),
    "geneval": Entry("milr.rewards.geneval_scorer:GenEval", "GenEval's own scorer, without mmdet: 1 or 0"),
    "geneval-hf": Entry(
        "milr.rewards.geneval_scorer:GenEvalHub", "an approximation of it: a detector from another training run"
    ),
    "t2i-compbench": Entry(
        "milr.rewards.t2i_compbench:T2ICompBench", "T2I-CompBench's score by category; OWLv2 in UniDet's place"
    ),
    "grounding-dino": Entry(
        "milr.rewards.grounding_dino:GroundingDino", "MixedReward's part: objects, counts and places by GroundingDINO"
    ),
    "git-vqa": Entry("milr.rewards.git_vqa:GitVqa", "MixedReward's part: GIT's answers about each object"),
}
"""Name -> entry. A reward is one file and one line here."""


def load_reward(name: str = "icons", *, model: object | None = None, **options: object) -> Reward:
    """The reward of that name.

    Args:
        name: One of `REWARDS`.
        model: The model that draws, for rewards that ask it; the others do without.
        options: Settings of that reward, such as the device of its networks.

    Raises:
        UsageError: No reward has that name, it has no such option, or its weights are missing.
    """
    made = load(find("reward", name, REWARDS))
    known = inspect.signature(made).parameters
    for option in options:
        if option not in known:
            raise UsageError(f"the reward {name!r} has no option {option!r}: leave it out")
    reward: Reward = made(**options, **({"model": model} if "model" in known else {}))
    return reward
