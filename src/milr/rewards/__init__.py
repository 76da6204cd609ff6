"""Rewards by name. One is imported, and its weights are read, only when it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from milr.errors import UsageError
from milr.registry import Entry, find, load
from milr.rewards.base import Reward
from milr.rewards.spec import check_name, parse_mix, split_name

if TYPE_CHECKING:
    from milr.rewards.vlm.client import VlmClient

__all__ = ["REWARDS", "Reward", "check_reward", "load_reward", "needs_model"]

REWARDS: Mapping[str, Entry] = {
    "icons": Entry(
        "milr.rewards.icons.reward:Icons",
        "GenEval's rules on the icon detector's findings: 1 or 0",
    ),
    "icons-judge": Entry(
        "milr.rewards.icons.reward:IconsEvaluator",
        "icons by another detector: to watch, not to optimise",
    ),
    "icons-soft": Entry(
        "milr.rewards.icons.reward:IconsSoft",
        "the same with a slope: the share of conditions met",
    ),
    "geneval": Entry(
        "milr.rewards.geneval.reward:GenEval",
        "GenEval's own scorer, without mmdet: 1 or 0",
    ),
    "geneval-hf": Entry(
        "milr.rewards.geneval.reward:GenEvalHub",
        "an approximation of it: a detector from another training run",
    ),
    "t2i-compbench": Entry(
        "milr.rewards.compbench.reward:T2ICompBench",
        "T2I-CompBench's score by category; OWLv2 in UniDet's place",
    ),
    "grounding-dino": Entry(
        "milr.rewards.mixed.grounding_dino:GroundingDino",
        "MixedReward's part: objects, counts and places by GroundingDINO",
    ),
    "git-vqa": Entry(
        "milr.rewards.mixed.git_vqa:GitVqa",
        "MixedReward's part: GIT's answers about each object",
    ),
    "self": Entry(
        "milr.rewards.self_reward:SelfReward",
        "the verdict of the model that drew; self:p-yes asks for a probability",
    ),
    "gpt-4o": Entry(
        "milr.rewards.vlm.gpt4o:GPT4o",
        "right or wrong by any OpenAI-compatible server; gpt-4o:p-yes",
    ),
    "wise": Entry(
        "milr.rewards.vlm.wise:Wise",
        "WiScore by WISE's legacy protocol; tasks need an explanation",
    ),
    "wise-verified": Entry(
        "milr.rewards.vlm.wise:WiseVerified",
        "WISE's binary protocol of 2026, by a server",
    ),
    "unified-reward": Entry(
        "milr.rewards.vlm.unified_reward:UnifiedReward",
        "UnifiedReward's score from 1 to 5, by a server or unified-reward:FOLDER",
    ),
    "mix": Entry(
        "milr.rewards.mix:Mix",
        "a weighted mean: mix:icons-soft*0.7+self*0.3",
    ),
    "http": Entry(
        "milr.rewards.http:Remote",
        "a reward at a URL: http://localhost:8123/score",
    ),
}
"""Name -> entry. A reward is one file and one line here."""


def load_reward(
    name: str = "icons", *, model: object | None = None, vlm: VlmClient | None = None, **options: object
) -> Reward:
    """Return the reward of that name.

    Args:
        name: One of `REWARDS`, with its argument after a colon where it takes one (`milr.rewards.spec`).
        model: The model that draws, for rewards that ask it; the others do without.
        vlm: How VLM judges are asked, shared by all rewards that are given it: one budget, one cache. None asks
            them with the default settings.
        options: Settings of that reward, such as the device of its networks.

    Raises:
        UsageError: No reward has that name, its argument cannot be read, it has no such option, or what it needs is
            missing.
    """
    base, argument = split_name(name)
    made = load(find("reward", base, REWARDS))
    wanted = inspect.signature(made).parameters
    if argument is not None and "argument" not in wanted:
        raise UsageError(f"the reward {base!r} takes no argument, and {name!r} gives it {argument!r}: type {base}")
    for option in options:
        if option not in wanted:
            raise UsageError(f"the reward {name!r} has no option {option!r}: leave it out")
    if "vlm" in wanted or "load" in wanted:
        from milr.rewards.vlm.client import VlmClient

        vlm = vlm or VlmClient()
    offered = {
        "argument": argument,
        "model": model,
        "vlm": vlm,
        "load": partial(load_reward, model=model, vlm=vlm),
    }
    reward: Reward = made(**options, **{key: value for key, value in offered.items() if key in wanted})
    return reward


def check_reward(name: str) -> None:
    """Refuse a name that no reward has, parts of a mix among them; imports none.

    Raises:
        UsageError: Names the part.
    """
    check_name(name, REWARDS)


def needs_model(name: str) -> bool:
    """Return whether a reward asks the model that draws; imports the reward's module."""
    base, argument = split_name(name)
    if base == "mix":
        return any(needs_model(part.name) for part in parse_mix(argument))
    return "model" in inspect.signature(load(find("reward", base, REWARDS))).parameters
