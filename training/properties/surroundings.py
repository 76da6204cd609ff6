"""Success on each ground and in each style: the same texts, with another ground or style named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from milr.types import Reasoning, Task
from training.grounds import GROUNDS
from training.properties.shares import share_by, spread
from training.properties.studio import Studio
from training.scenes import STYLES
from training.texts import change_surroundings


def draw_surroundings(studio: Studio, tasks: Sequence[Task], texts: Sequence[str], label: str) -> dict[str, Any]:
    """Return the verdicts on one drawing for each task with each ground and with each style named in its text."""

    def draw(changed: Sequence[str]) -> list[bool]:
        return [one.right for one in studio.draw(tasks, [Reasoning(text, ()) for text in changed], label)]

    return {
        "ground": {ground: draw([change_surroundings(text, ground=ground) for text in texts]) for ground in GROUNDS},
        "style": {style: draw([change_surroundings(text, style=style) for text in texts]) for style in STYLES},
    }


def describe_surroundings(drawn: dict[str, dict[str, Sequence[bool]]]) -> dict[str, Any]:
    """Return the share of right drawings for each ground and style, and the largest share minus the smallest."""
    figures: dict[str, Any] = {}
    for kind, by_name in drawn.items():
        names = [name for name, right in by_name.items() for _ in right]
        shares = share_by(names, [one for right in by_name.values() for one in right])
        figures |= {f"by {kind}": shares, f"largest minus smallest, {kind}s": spread(shares)}
    return figures
