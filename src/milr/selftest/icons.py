"""`milr doctor icons`: both icon detectors on golden images and on drawings labelled by a person."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from milr.errors import MilrError
from milr.rewards.base import Reward, start_scoring
from milr.rewards.icons.golden import check_golden
from milr.tasks import parse_prompt
from milr.types import Score, Task
from milr.weights import Finding

_ASSETS = Path(__file__).parents[1] / "assets"


LABELLED = _ASSETS / "labelled-drawings.jsonl.xz"


@dataclass(frozen=True)
class Labelled:
    """A drawing of the embedded model with its label."""

    task: Task
    tokens: tuple[int, ...]
    right: bool
    """The label, given by eye."""
    called_right: frozenset[str]
    """Names of the shipped detectors that call the drawing right, without their versions."""


def labelled_drawings() -> list[Labelled]:
    """Return the labelled drawings; `python -m training sheets` draws them and `labelled` stores them."""
    with lzma.open(LABELLED, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Labelled(parse_prompt(row["prompt"]), tuple(row["tokens"]), row["right"], frozenset(row["called_right"]))
        for row in rows
    ]


def draw_labelled() -> list[Image.Image]:
    """Decode the labelled drawings to images, in float32, which is fast on every CPU."""
    from milr.decode.sampling import open_stream
    from milr.models import load_model
    from milr.models.base import ImageRequest, TaskState
    from milr.settings import SamplingParams

    requests = [
        ImageRequest(TaskState(one.task), None, open_stream(0, one.task.key, 0, 0), tokens=one.tokens)
        for one in labelled_drawings()
    ]
    return [output.sample.image for output in load_model().draw(requests, SamplingParams())]


def check_labelled(rewards: Sequence[Reward]) -> Iterator[Finding]:
    """Count how often each reward calls drawings correct that a person called wrong, and vice versa.

    More than one wrong drawing in 200 that passes is a fault, because a search that draws 21 images would find them.
    The errors of a shipped detector that are known and printed on the model's card are not counted.
    """
    labelled, images = labelled_drawings(), draw_labelled()
    for reward in rewards:
        name = reward.name.split("@")[0]
        scores = start_scoring(reward, images, [one.task for one in labelled])()
        called = [isinstance(score, Score) and score.value > score.stop_at for score in scores]
        for title, wanted in (("wrong", False), ("right", True)):
            rows = [(said, one) for said, one in zip(called, labelled, strict=True) if one.right is wanted]
            many = sum(said for said, _ in rows)
            new = sum(said and name not in one.called_right for said, one in rows)
            fine = None if wanted else new <= len(rows) / 200
            known = f", {many - new} of them known" if many - new and not wanted else ""
            yield Finding(f"{reward.name}, drawings {title} by eye", fine, f"calls {many} of {len(rows)} right{known}")


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
