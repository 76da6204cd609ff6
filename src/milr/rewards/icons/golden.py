"""Golden images of the icon world: a scorer that is wrong on one of them is not used.

`training/scenes.py` drew them, each with a prompt that it meets and one that it does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from milr.errors import MilrError
from milr.rewards.base import Reward, start_scoring
from milr.tasks import parse_prompt
from milr.types import Score, Task, Unscored
from milr.weights import Finding

_GOLDEN = Path(__file__).parents[2] / "assets" / "golden"


def golden_set() -> list[tuple[str, Image.Image, Task, bool]]:
    """Return file, image, task and known score of each golden answer."""
    golden: list[tuple[str, Image.Image, Task, bool]] = []
    answers: dict[str, dict[str, str]] = json.loads((_GOLDEN / "answers.json").read_text())
    for name, prompts in answers.items():
        with Image.open(_GOLDEN / name) as image:
            shown = image.convert("RGB")
        golden += [(name, shown, parse_prompt(prompt), kind == "right") for kind, prompt in prompts.items()]
    return golden


def score_golden(reward: Reward) -> list[tuple[str, Task, bool, Score | Unscored]]:
    """Return file, task, known score and the reward's score of each golden answer."""
    golden = golden_set()
    scores = start_scoring(reward, [image for _, image, _, _ in golden], [task for _, _, task, _ in golden])()
    return [(name, task, right, score) for (name, _, task, right), score in zip(golden, scores, strict=True)]


def check_golden(reward: Reward) -> Iterator[Finding]:
    """Yield one finding per golden answer: is the value on the correct side of the reward's stop value?"""
    for name, task, right, score in score_golden(reward):
        said = score.reason if isinstance(score, Unscored) else f"{score.value:.2f} ({score.explanation})"
        fine = isinstance(score, Score) and (score.value > score.stop_at) == right
        yield Finding(f"{name}, {task.prompt!r}", fine, f"{said}; {'right' if right else 'wrong'} is expected")


class SelfTestFailed(MilrError):
    """The error of a scorer that is wrong on a golden image; the message names it."""


def check_scorer(scorer: Reward) -> None:
    """Refuse a scorer of the icon world that is wrong on a golden image.

    The scorers of GenEval and T2I-CompBench test themselves when they are loaded, before they score anything. VLM
    judges would cost money, and the model that drew may score its own images badly without being broken: `milr doctor`
    checks those.

    Raises:
        SelfTestFailed: Names the first image.
    """
    if not getattr(scorer, "golden_test", False):
        return
    for finding in check_golden(scorer):
        if not finding.fine:
            raise SelfTestFailed(
                f"{scorer.name} fails its self-test on {finding.subject} ({finding.said}): no score that it gives "
                "would mean anything; install milr again, then type milr doctor icons"
            )
