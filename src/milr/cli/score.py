"""`milr score`: images scored by a reward, without a search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, UnidentifiedImageError
from rich.console import Console

from milr.cli.options import Device, Dtype, load_asked
from milr.cli.vlm import VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl
from milr.errors import UsageError
from milr.models.devices import Placement, check_dtype
from milr.rewards import check_reward, check_scorable, default_reward, load_reward, needs_model
from milr.types import Score, Task, Unscored


def score(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    prompt: Annotated[str | None, typer.Option(help="What all of them should show.")] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A prompt or a JSON task per line, one per image, in their order."),
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="A name that milr info lists, with its argument; default: as --model says.")
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per image on standard output.")] = False,
) -> None:
    """Score images by a reward. Without a search: any images, of any size.

    Nobody can see from a file what drew it: give --reward, or --model for that model's default reward.
    """
    if reward is not None:
        check_reward(reward)
    check_dtype(dtype)
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price)
    wanted = _read_wanted(images, prompt, tasks)
    reward, placement = _choose(reward, model, wanted), Placement(device, dtype)
    shown = [_read_image(path) for path in images]
    asked = None if model is None else load_asked(reward, model, placement)
    scorer = load_reward(reward, model=asked, vlm=vlm.client, placement=placement)
    scores = scorer(shown, wanted)
    vlm.client.close()
    screen = Console(highlight=False, markup=False, soft_wrap=True)
    for path, task, found in zip(images, wanted, scores, strict=True):
        if as_json:
            typer.echo(json.dumps({"picture": str(path), "prompt": task.prompt, **_plain(found)}, default=str))
        elif isinstance(found, Score):
            explanation = f"  ({found.explanation})" if found.explanation else ""
            screen.print(f"{found.value:.3f}  {path}{explanation}")
        else:
            screen.print(f"unscored  {path}: {found.reason}")
    values = [found.value for found in scores if isinstance(found, Score)]
    if not as_json:
        mean = f"{sum(values) / len(values):.3f} on average" if values else "none scored"
        lost = f", {len(scores) - len(values)} unscored" if len(values) < len(scores) else ""
        screen.print(f"{scorer.name}: {mean} of {len(scores)}{lost}" if len(scores) > 1 else scorer.name)
        for line in vlm.conclusion([]):
            screen.print(line)


def _choose(reward: str | None, model: str | None, wanted: Sequence[Task]) -> str:
    """Return the reward: the one asked for, or the default of the model that drew the images."""
    capabilities = None
    if model is not None:
        from milr.models import find_model, read_capabilities

        capabilities = read_capabilities(find_model(model, weights=False))
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


def _read_wanted(images: Sequence[Path], prompt: str | None, file: Path | None) -> list[Task]:
    from milr.tasks import read_tasks, tasks_from_prompts

    if (prompt is None) == (file is None):
        raise UsageError('give either --prompt "what the images show" or --tasks FILE with one line per image')
    if file is None:
        return tasks_from_prompts([prompt or ""], free=True) * len(images)
    tasks = read_tasks(file, free=True)
    if len(tasks) != len(images):
        raise UsageError(f"--tasks {file} holds {len(tasks)} tasks for {len(images)} images: give one per image")
    return tasks


def _read_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except FileNotFoundError:
        raise UsageError(f"no image {str(path)!r}: give files that exist") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise UsageError(f"{str(path)!r} is no image that can be read ({error}): give PNG or JPEG files") from None


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
        **cost,
    }
