"""What `milr doctor` says of `icons`, `self` and the judges: what is missing, and known answers on known pictures.

The golden pictures come from the icon world (`training/scenes.py` drew them), each with a prompt that it fulfils and
one that it does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PIL import Image

from milr.errors import MilrError
from milr.rewards.base import Reward
from milr.rewards.vlm.cache import default_cache
from milr.rewards.vlm.client import EXTRA
from milr.rewards.vlm.gpt4o import BINARY
from milr.rewards.vlm.messages import OPENAI_KEY, OWN_KEY
from milr.rewards.vlm.parsers import Answer, Unreadable
from milr.rewards.vlm.reward import VlmProtocol
from milr.rewards.vlm.unified_reward import POINTWISE
from milr.rewards.vlm.wise import LEGACY, VERIFIED
from milr.tasks import parse_prompt
from milr.types import Score, Task, Unscored
from milr.weights import Finding

_ASSETS = Path(__file__).parents[1] / "assets"
_INSTALL = f'pip install "milr[{EXTRA}]"'


def golden_set() -> list[tuple[str, Image.Image, Task, bool]]:
    """File, picture, task and whether the picture is right."""
    golden: list[tuple[str, Image.Image, Task, bool]] = []
    answers: dict[str, dict[str, str]] = json.loads((_ASSETS / "golden" / "answers.json").read_text())
    for name, prompts in answers.items():
        with Image.open(_ASSETS / "golden" / name) as picture:
            shown = picture.convert("RGB")
        golden += [(name, shown, parse_prompt(prompt), kind == "right") for kind, prompt in prompts.items()]
    return golden


def score_golden(reward: Reward) -> list[tuple[str, Task, bool, Score | Unscored]]:
    """Of each golden answer the file, the task, whether the picture is right, and what the reward says."""
    golden = golden_set()
    scores = reward([picture for _, picture, _, _ in golden], [task for _, _, task, _ in golden])
    return [(name, task, right, score) for (name, _, task, right), score in zip(golden, scores, strict=True)]


def check_golden(reward: Reward) -> Iterator[Finding]:
    """One finding a golden answer: is the value on the right side of the reward's stop?"""
    for name, task, right, score in score_golden(reward):
        said = score.reason if isinstance(score, Unscored) else f"{score.value:.2f} ({score.explanation})"
        fine = isinstance(score, Score) and (score.value > score.stop_at) == right
        yield Finding(f"{name}, {task.prompt!r}", fine, f"{said}; {'right' if right else 'wrong'} is expected")


def labelled_drawings() -> list[tuple[Task, tuple[int, ...], bool]]:
    """Drawings of the embedded model that were looked at one by one: task, tokens, and whether it is right.

    They come from `python -m training sheets`; the labels were given by eye, before any critic had seen the drawings.
    """
    lines = (_ASSETS / "labelled-drawings.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(parse_prompt(row["prompt"]), tuple(row["tokens"]), row["right"]) for row in rows]


def check_labelled(rewards: Sequence[Reward]) -> Iterator[Finding]:
    """How often each reward calls drawings right that an eye called wrong, and the other way round.

    More than one wrong drawing in 200 that passes is a fault: a search that draws 21 times would find them.
    """
    from milr.decode.sampling import open_stream
    from milr.models import load_model
    from milr.models.base import ImageRequest, TaskState

    model = load_model(dtype="bfloat16")
    labelled = labelled_drawings()
    requests = [
        ImageRequest(TaskState(task), None, open_stream(0, task.key, 0, 0), tokens=t) for task, t, _ in labelled
    ]
    sketches = model.draw(requests, guidance=1.0, temperature=1.0, keep=0)
    for reward in rewards:
        scores = reward([sketch.drawing.picture for sketch in sketches], [task for task, _, _ in labelled])
        called = [isinstance(score, Score) and score.value > score.stop_at for score in scores]
        for title, wanted in (("wrong", False), ("right", True)):
            verdicts = [said for said, (_, _, right) in zip(called, labelled, strict=True) if right is wanted]
            said = f"calls {sum(verdicts)} of {len(verdicts)} right"
            fine = None if wanted else sum(verdicts) <= len(verdicts) / 200
            yield Finding(f"{reward.name}, drawings {title} by eye", fine, said)


def examine_icons(device: str) -> Iterator[Finding]:
    """Both icon detectors: files, golden pictures, labelled drawings. They run on the CPU, whatever the device."""
    from milr.rewards.icons.reward import Icons, IconsJudge

    try:
        yield from check_labelled([Icons(), IconsJudge()])
    except MilrError as error:
        yield Finding("labelled drawings", False, str(error))
    for reward in (Icons, IconsJudge):
        folder = _ASSETS / reward.shipped
        for file in ("config.json", "model.safetensors"):
            path = folder / file
            said = f"{path.stat().st_size:,} bytes" if path.is_file() else f"missing in {folder}: install milr again"
            yield Finding(f"{reward.shipped}/{file}", path.is_file(), said)
        try:
            yield from check_golden(reward())
        except MilrError as error:
            yield Finding(reward.shipped, False, str(error))


def examine_self(device: str) -> Iterator[Finding]:
    """The embedded model's looking: how many golden answers it gives. A model may be a poor judge without a fault."""
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
    yield Finding("embedded model", scored == len(golden), f"scores {scored} of {len(golden)} golden pictures")
    yield Finding("its judgement", None, f"agrees with {agree} of {len(golden)} golden answers at 0.5")


def examine_hosted(device: str) -> Iterator[Finding]:
    """`gpt-4o` and `wise`: packages, key, cache, the readers on known answers. Nobody is asked: that costs money."""
    yield from _examine_packages()
    found = bool(os.environ.get(OPENAI_KEY))
    said = "is set" if found else "is not set; a server of your own needs --judge-url and no key"
    yield Finding(OPENAI_KEY, True if found else None, said, () if found else (f"export {OPENAI_KEY}=...",))
    yield from _check_reader(BINARY, "0", 1.0, "0 or -1")
    three = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"
    yield from _check_reader(LEGACY, three, 0.8, "Consistency: 3\nRealism: 1\nAesthetic Quality: 0")


def examine_served(device: str) -> Iterator[Finding]:
    """`wise-verified` and `unified-reward`: packages, key, cache, readers, and what serves their models."""
    yield from _examine_packages()
    found = bool(os.environ.get(OWN_KEY))
    yield Finding(OWN_KEY, None, "is set" if found else "is not set; servers that ask for no key need none")
    serve = "vllm serve CodeGoat24/UnifiedReward-qwen-7b --served-model-name UnifiedReward --port 8080"
    yield Finding("a server", None, f"is named by --judge-url; for UnifiedReward (16 GB of weights): {serve}")
    yield from _check_reader(POINTWISE, "cat (object): 1\nFinal Score: 4.5", 0.875, "Final Score: 7")
    yield from _check_reader(VERIFIED, "Score: 1", 1.0, "Score: 2/2")


def _examine_packages() -> Iterator[Finding]:
    for package in ("openai", "stamina", "httpx2"):
        try:
            yield Finding(package, True, version(package))
        except PackageNotFoundError:
            yield Finding(package, False, "is not installed", (_INSTALL,))
    folder = default_cache()
    kept: Sequence[Path] = list(folder.rglob("*.json")) if folder.is_dir() else []
    size = sum(file.stat().st_size for file in kept)
    yield Finding("cache", True, f"{len(kept):,} answers, {size:,} bytes in {folder}")


def _check_reader(protocol: VlmProtocol, good: str, value: float, bad: str) -> Iterator[Finding]:
    try:
        found = protocol.read(Answer(good)).value
    except Unreadable as error:
        yield Finding(f"{protocol.name}'s reader", False, f"does not read {good!r}: {error}")
        return
    yield Finding(f"{protocol.name}'s reader", abs(found - value) < 1e-9, f"reads {good!r} as {found:g}")
    try:
        protocol.read(Answer(bad))
    except Unreadable:
        yield Finding(f"{protocol.name}'s reader", True, f"refuses {bad!r}")
    else:
        yield Finding(f"{protocol.name}'s reader", False, f"reads {bad!r}, which is no verdict")
