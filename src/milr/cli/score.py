"""`milr score`: images scored by a reward, without a search."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from milr.cli.options import CHECK_FAILED, NOT_ALL_SCORED, Device, Dtype, FailUnder, load_asked
from milr.cli.screen import Screen
from milr.cli.vlm import VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl
from milr.errors import UsageError
from milr.models.devices import Placement, check_dtype
from milr.rewards import Reward, check_reward, check_scorable, default_reward, load_reward, needs_model
from milr.rewards.base import start_scoring
from milr.rewards.images.files import UnreadableImage, list_images, read_image
from milr.tasks import PromptFile, read_prompt_file, tasks_from_prompts
from milr.types import Score, Task, Unscored, say_count

_AT_ONCE = 16
"""Images that are open at the same time."""


def score(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    prompt: Annotated[str | None, typer.Option(help="The prompt of all images.")] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A prompt or task per image, in their order: text, JSON, CSV; - is standard input."
        ),
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="A name that milr info lists, with its argument; default: that of --model.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name or folder of the model that drew them; rewards that ask a model ask it.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    vlm_budget: VlmBudget = None,
    vlm_price: VlmPrice = None,
    fail_under: FailUnder = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per image on standard output.")] = False,
) -> None:
    """Score images by a reward. Without a search: any images, of any size.

    A file does not tell which model drew it: give --reward, or --model for that model's default reward. A file that
    cannot be read is unscored; where an image is, the exit code is 3.
    """
    if reward is not None:
        check_reward(reward)
    check_dtype(dtype)
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price)
    vlm.check_used(reward)
    files = [file for path in images for file in list_images(path)]
    wanted = _read_wanted(len(files), prompt, tasks)
    reward, placement = _choose(reward, model, wanted.tasks), Placement(device, dtype)
    asked = None if model is None else load_asked(reward, model, placement)
    scorer = load_reward(reward, model=asked, vlm=vlm.client, placement=placement)
    screen = Screen()
    for line in wanted.notes:
        Screen(stderr=True).print(f"milr: {line}")
    scores: list[Score | Unscored] = []
    for path, task, found in _score_in_turn(scorer, files, wanted.tasks):
        scores.append(found)
        if as_json:
            typer.echo(json.dumps({"picture": str(path), "prompt": task.prompt, **_plain(found)}, default=str))
        elif isinstance(found, Score):
            explanation = f"  ({found.explanation})" if found.explanation else ""
            screen.print(f"{found.value:.3f}  {path}{explanation}")
        else:
            screen.print(f"unscored  {path}: {found.reason}")
    vlm.client.close()
    values = [found.value for found in scores if isinstance(found, Score)]
    lost = len(scores) - len(values)
    if not as_json:
        mean = f"{sum(values) / len(values):.3f} on average" if values else "none scored"
        unscored = f", {lost} unscored" if values and lost else ""
        screen.print(f"{scorer.name}: {mean} of {len(scores)}{unscored}" if len(scores) > 1 else scorer.name)
        for line in vlm.conclusion([]):
            screen.print(line)
    if lost:
        raise typer.Exit(NOT_ALL_SCORED)
    if fail_under is not None and sum(values) / len(values) < fail_under:
        raise typer.Exit(CHECK_FAILED)


def _score_in_turn(
    scorer: Reward, files: Sequence[Path], tasks: Sequence[Task]
) -> Iterator[tuple[Path, Task, Score | Unscored]]:
    """Yield each image's score, in order; a few images are open at a time, and a broken one ends nothing."""
    for start in range(0, len(files), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        opened = [_open(path, scorer.name) for path in files[some]]
        whole = [
            (image, task) for image, task in zip(opened, tasks[some], strict=True) if isinstance(image, Image.Image)
        ]
        scores = iter(
            start_scoring(scorer, [image for image, _ in whole], [task for _, task in whole])() if whole else ()
        )
        for path, task, image in zip(files[some], tasks[some], opened, strict=True):
            yield path, task, image if isinstance(image, Unscored) else next(scores)


def _open(path: Path, reward: str) -> Image.Image | Unscored:
    try:
        return read_image(path)
    except UnreadableImage as error:
        return Unscored(str(error), reward)


def _choose(reward: str | None, model: str | None, wanted: Sequence[Task]) -> str:
    """Return the reward: the one asked for, or the default of the model that drew the images."""
    capabilities = None
    if model is not None:
        from milr.models import find_source, read_capabilities

        capabilities = read_capabilities(find_source(model, weights=False))
        reward = reward or default_reward(capabilities)
    if reward is None:
        raise UsageError(
            "nothing says what kind of images these are: give --reward icons for images of the embedded model, "
            "geneval, gpt-4o or unified-reward for any others, or --model, the model that drew them"
        )
    if needs_model(reward) and model is None:
        raise UsageError(f"the reward {reward!r} asks a model: give --model, the model that drew the images")
    check_scorable(reward, wanted, capabilities)
    return reward


def _read_wanted(images: int, prompt: str | None, file: Path | None) -> PromptFile:
    """Return one task per image."""
    if (prompt is None) == (file is None):
        raise UsageError('give either --prompt "what the images show" or --tasks FILE with one line per image')
    if file is None:
        return PromptFile((*tasks_from_prompts(prompt or "", free=True),) * images)
    read = read_prompt_file(file, free=True)
    if len(read.tasks) != images:
        raise UsageError(
            f"--tasks {file} holds {say_count(len(read.tasks), 'task')} for {say_count(images, 'image')}: "
            "give one per image"
        )
    return read


def _plain(found: Score | Unscored) -> dict[str, object]:
    cost: dict[str, object] = {"cost": found.cost} if found.cost else {}
    if isinstance(found, Unscored):
        return {"value": None, "reward": found.reward, "reason": found.reason, **cost}
    return {
        "value": found.value,
        "reward": found.reward,
        "stop_at": found.stop_at,
        "parts": dict(found.parts),
        "explanation": found.explanation,
        "evidence": dict(found.evidence),
        "regions": [asdict(region) for region in found.regions],
        **cost,
    }
