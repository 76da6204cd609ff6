"""`milr doctor icons`: both icon detectors on golden images and on drawings labelled by a person."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from milr.errors import MilrError
from milr.rewards.base import Reward
from milr.rewards.icons.golden import check_golden
from milr.tasks import parse_prompt
from milr.types import Score, Task
from milr.weights import Finding

_ASSETS = Path(__file__).parents[1] / "assets"


def labelled_drawings() -> list[tuple[Task, tuple[int, ...], bool]]:
    """Return drawings of the embedded model with a person's labels: task, tokens and verdict.

    They come from `python -m training sheets`; the labels were given before any detector had scored the drawings.
    """
    with lzma.open(_ASSETS / "labelled-drawings.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(parse_prompt(row["prompt"]), tuple(row["tokens"]), row["right"]) for row in rows]


def draw_labelled() -> list[Image.Image]:
    """Decode the labelled drawings to images, in float32, which is fast on every CPU."""
    from milr.decode.sampling import open_stream
    from milr.models import load_model
    from milr.models.base import ImageRequest, TaskState
    from milr.settings import SamplingParams

    requests = [
        ImageRequest(TaskState(task), None, open_stream(0, task.key, 0, 0), tokens=tokens)
        for task, tokens, _ in labelled_drawings()
    ]
    return [output.sample.image for output in load_model().draw(requests, SamplingParams())]


def check_labelled(rewards: Sequence[Reward]) -> Iterator[Finding]:
    """Count how often each reward calls drawings correct that a person called wrong, and vice versa.

    More than one wrong drawing in 200 that passes is a fault, because a search that draws 21 images would find them.
    """
    labelled, images = labelled_drawings(), draw_labelled()
    for reward in rewards:
        scores = reward(images, [task for task, _, _ in labelled])
        called = [isinstance(score, Score) and score.value > score.stop_at for score in scores]
        for title, wanted in (("wrong", False), ("right", True)):
            verdicts = [said for said, (_, _, right) in zip(called, labelled, strict=True) if right is wanted]
            said = f"calls {sum(verdicts)} of {len(verdicts)} right"
            fine = None if wanted else sum(verdicts) <= len(verdicts) / 200
            yield Finding(f"{reward.name}, drawings {title} by eye", fine, said)


def examine_icons(device: str) -> Iterator[Finding]:
    """Examine both icon detectors: files, golden images, labelled drawings. Always on the CPU."""
    from milr.rewards.icons.reward import Icons, IconsEvaluator

    try:
        yield from check_labelled([Icons(), IconsEvaluator()])
    except MilrError as error:
        yield Finding("labelled drawings", False, str(error))
    for reward in (Icons, IconsEvaluator):
        folder = _ASSETS / reward.shipped
        for file in ("config.json", "model.safetensors"):
            path = folder / file
            said = f"{path.stat().st_size:,} bytes" if path.is_file() else f"missing in {folder}: install milr again"
            yield Finding(f"{reward.shipped}/{file}", path.is_file(), said)
        try:
            yield from check_golden(reward())
        except MilrError as error:
            yield Finding(reward.shipped, False, str(error))
