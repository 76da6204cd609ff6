"""The paper's MixedReward as lines of `mix:`, one per tag of GenEval.

Source: the authors' code as read in miyapeng/MILR. Its published weights are data here; the parts are the rewards
`grounding-dino`, `git-vqa` and `unified-reward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from milr.errors import unknown_name

Version = Literal["reward3", "reward4"]
"""The authors' names: `reward3` is used by their main program, `reward4` has no UnifiedReward."""
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
    """Return the weights for tasks of a tag; a task without a tag takes those of the tags that are not about colours.

    Raises:
        UsageError: There is no such version.
    """
    if version not in WEIGHTS:
        raise unknown_name("version of the mixed reward", version, WEIGHTS)
    by_tag = WEIGHTS["reward3" if version == "reward3" else "reward4"]
    return by_tag["colors" if tag in COLOR_TAGS else "others"]


def write_mix(tag: str | None, version: str = "reward3") -> str:
    """Return the reward's name for tasks of a tag: "mix:grounding-dino*0.6+git-vqa*0.2+unified-reward*0.2"."""
    return "mix:" + "+".join(f"{name}*{weight:g}" for name, weight in weights_for(tag, version).items())
