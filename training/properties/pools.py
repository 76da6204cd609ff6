"""Several drawings for each prompt, from its greedy text or from sampled ones: chance in the image and in the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from milr.types import Reasoning, Task
from training.grounds import ground_of
from training.properties.shares import difference, mean_over, share, share_by, spread
from training.properties.studio import Drawing, Studio
from training.texts import names_what_is_asked, read_text

BEST_OF = 21
FIRST = 8  # drawings that are always made of a greedy text
_BLOCKS = (4, 4, 5)  # further drawings at once, of prompts that are not settled
_SAMPLED_BLOCKS = (4, 4, 4, 4, 5)


@dataclass
class Pool:
    """The drawings of one prompt, in order."""

    tag: str
    texts: list[str] = field(default_factory=list)
    """One text if it is the greedy one, else one for each drawing; none for the prompt alone."""
    right: list[bool] = field(default_factory=list)
    """Verdicts of the evaluator."""
    chosen: list[bool] = field(default_factory=list)
    """Verdicts of the reward."""
    grounds: list[str | None] = field(default_factory=list)
    names: bool = False
    """True if the first text names what is asked."""
    right_tokens: list[int] = field(default_factory=list)
    """Image tokens of the first right drawing."""
    wrong_tokens: list[int] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """Return True if no further drawing changes the best one or the fact that there is a right one."""
        return any(self.right) and any(self.chosen)

    @property
    def mixed(self) -> bool:
        """Return True if the first drawings are right and wrong."""
        return 0 < sum(self.right[:FIRST]) < FIRST

    def add(self, drawing: Drawing) -> None:
        """Append a drawing."""
        kept = self.right_tokens if drawing.right else self.wrong_tokens
        if not kept:
            kept += drawing.tokens
        self.right.append(drawing.right)
        self.chosen.append(drawing.chosen)
        self.grounds.append(name_ground(drawing.tokens))

    def best(self, number: int = BEST_OF) -> bool:
        """Return the evaluator's verdict on the best of so many drawings: the first one that the reward calls right."""
        chosen = self.chosen[:number]
        return self.right[chosen.index(True) if True in chosen else 0]


def draw_pools(
    studio: Studio, tasks: Sequence[Task], label: str, kind: str, most: int = BEST_OF
) -> list[dict[str, Any]]:
    """Draw for each task until it is settled, at most so many images; return `Pool`s as plain values.

    Args:
        studio: The model with both detectors.
        tasks: Tasks.
        label: Name of the random streams.
        kind: "greedy": all drawings follow the greedy text. "sampled": each follows a text of its own. "plain": each
            follows the prompt alone.
        most: Number of drawings: 1 or `BEST_OF`.
    """
    pools = [Pool(task.tag or "untagged") for task in tasks]
    greedy: list[Reasoning] = studio.write(tasks) if kind == "greedy" else []
    for pool, task, text in zip(pools, tasks, greedy, strict=False):
        pool.texts, pool.names = [text.text], names_what_is_asked(text.text, task)
    blocks = (1,) if most == 1 else _SAMPLED_BLOCKS if kind == "sampled" else (FIRST, *_BLOCKS)
    for block in blocks:
        rows = [row for row, pool in enumerate(pools) if not pool.settled for _ in range(block)]
        turn = f"{label} {block} {max(len(pool.right) for pool in pools)}"
        asked = [tasks[row] for row in rows]
        texts: list[Reasoning | None] = [greedy[row] if greedy else None for row in rows]
        if kind == "sampled":
            texts = [*studio.write(asked, turn)]
        for row, text, drawing in zip(rows, texts, studio.draw(asked, texts, turn), strict=True):
            pools[row].add(drawing)
            if kind == "sampled" and text:
                pools[row].texts.append(text.text)
                pools[row].names = names_what_is_asked(pools[row].texts[0], tasks[row])
    return [asdict(pool) for pool in pools]


def describe_one_shot(greedy: Sequence[Pool], plain: Sequence[Pool]) -> dict[str, Any]:
    """Return the shares of right first drawings, after reasoning and from the prompt alone."""
    figures: dict[str, Any] = {}
    for title, pools in (("after reasoning", greedy), ("plain", plain)):
        tags, right = [pool.tag for pool in pools], [pool.right[0] for pool in pools]
        figures[title] = {
            "all": share(right),
            "mean over tags": mean_over(tags, right),
            "by tag": share_by(tags, right),
            "by the reward": share([pool.chosen[0] for pool in pools]),
        }
    figures["texts that name what is asked"] = share([pool.names for pool in greedy])
    figures["right, of texts that name what is asked"] = share([pool.right[0] for pool in greedy if pool.names])
    return figures


def describe_chance(pools: Sequence[Pool]) -> dict[str, Any]:
    """Return how much chance in the image alone adds."""
    named = [pool for pool in pools if pool.names]
    return {
        "one shot": share([pool.right[0] for pool in pools]),
        "best of 21": share([pool.best() for pool in pools]),
        "best of 21 minus one shot": difference([pool.best() - pool.right[0] for pool in pools]),
        "any of 21 right": share([any(pool.right) for pool in pools]),
        "any of 21 right minus one shot": difference([any(pool.right) - pool.right[0] for pool in pools]),
        "mixed, of texts that name what is asked": share([pool.mixed for pool in named]),
        "mean of 8, of texts that name what is asked": share([sum(pool.right[:FIRST]) / FIRST for pool in named]),
    }


def describe_text(greedy: Sequence[Pool], sampled: Sequence[Pool]) -> dict[str, Any]:
    """Return how much chance in the text adds; both pools are of the same prompts."""
    together = list(zip(greedy, sampled, strict=True))
    return {
        "best of 21 sampled texts": share([pool.best() for pool in sampled]),
        "any of 21 right": share([any(pool.right) for pool in sampled]),
        "minus best of 21 of the greedy text": difference([other.best() - one.best() for one, other in together]),
        "sampled text names what is asked": share([pool.names for pool in sampled]),
    }


def describe_grounds(pools: Sequence[Pool]) -> dict[str, Any]:
    """Return the success of first drawings by the ground that was drawn, and by the style that the text names.

    The drawings of one prompt are not independent, so the intervals are a little too narrow.
    """
    grounds: list[str] = []
    by_ground: list[bool] = []
    styles: list[str] = []
    by_style: list[bool] = []
    agrees: list[bool] = []
    for pool in pools:
        read = read_text(pool.texts[0]) if pool.texts else None
        for ground, right in zip(pool.grounds[:FIRST], pool.right[:FIRST], strict=True):
            grounds.append(ground or "none")
            by_ground.append(right)
            styles.append(read.style if read and read.style else "not named")
            by_style.append(right)
            if read and read.ground:
                agrees.append(read.ground == ground)
    grounded, styled = share_by(grounds, by_ground), share_by(styles, by_style)
    named = {style: one for style, one in styled.items() if style != "not named"}
    return {
        "by ground": grounded,
        "largest minus smallest, grounds": spread(grounded),
        "by style": styled,
        "largest minus smallest, styles": spread(named),
        "the ground that the text names": share(agrees),
    }


def read_pools(stored: Sequence[dict[str, Any]]) -> list[Pool]:
    """Return stored pools."""
    return [Pool(**one) for one in stored]


def name_ground(tokens: Sequence[int]) -> str | None:
    """Return the ground of a drawn image, by its tokens."""
    return ground_of(np.array(tokens))
