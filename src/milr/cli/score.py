"""`milr score` and `milr serve-judge`, and the judge options of other commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, UnidentifiedImageError
from rich.console import Console

from milr.errors import UsageError
from milr.rewards import Reward, check_reward, load_reward, needs_model
from milr.rewards.mix import costs_of
from milr.rewards.panel import measure_gaps
from milr.rewards.vlm.budget import estimate
from milr.rewards.vlm.client import VlmClient, VlmSettings
from milr.types import Score, StepRecord, Task, Unscored

JudgeUrl = Annotated[str | None, typer.Option(help="Of the judge's OpenAI-compatible server, with /v1.")]
JudgeModel = Annotated[str | None, typer.Option(help="The judge on that server; default: the reward's own.")]
JudgeBudget = Annotated[str | None, typer.Option(help="The most that judges may cost: 500 (calls) or 2000000tokens.")]
Panel = Annotated[str | None, typer.Option(metavar="NAME,...", help="Rewards that are watched, never optimised.")]


@dataclass(frozen=True)
class Judging:
    """What the judge options ask for: one client, one budget, the watched rewards' names."""

    judges: VlmClient
    panel: tuple[str, ...]

    @classmethod
    def read(cls, url: str | None, model: str | None, budget: str | None, panel: str | None = None) -> Judging:
        """Check the options.

        Raises:
            UsageError: One cannot be read, or a watched reward has no such name.
        """
        names = tuple(name.strip() for name in panel.split(",")) if panel is not None else ()
        for name in names:
            if not name:
                raise UsageError(f"--panel {panel}: a name is empty; give for instance --panel icons,self")
            check_reward(name)
        return cls(VlmClient(VlmSettings(url=url, model=model, budget=budget)), tuple(dict.fromkeys(names)))

    def load_panel(self, model: object) -> dict[str, Reward]:
        """The watched rewards by name."""
        return {name: load_reward(name, model=model, judges=self.judges) for name in self.panel}

    def costs(self, reward: Reward, panel: Mapping[str, Reward], model: object, pictures: int) -> list[str]:
        """What judges may cost at most, a line each; nothing where none is asked.

        Args:
            reward: TextPrompt about every picture.
            panel: TextPrompt about each task's first picture and its new best ones.
            model: That draws: the size of its pictures counts.
            pictures: That may be drawn for all tasks.
        """
        size = getattr(getattr(model, "capabilities", None), "picture_size", 512)
        lines = [f"judge: {line}" for line in estimate(costs_of(reward, size), pictures)]
        for name, watched in panel.items():
            lines += [f"panel {name}: {line}" for line in estimate(costs_of(watched, size), pictures)]
        if lines and self.judges.settings.budget is None:
            lines.append("no cap is set: --judge-budget sets one")
        return lines

    def conclusion(self, ends: Sequence[tuple[Score | Unscored, StepRecord]]) -> list[str]:
        """The gaps between reward and panel, and what judges cost."""
        lines = [f"panel {gap}" for gap in measure_gaps(ends)]
        budget = self.judges.budget
        return lines + ([f"judges: {budget.summary()}"] if budget.calls or budget.cached else [])


def score(
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.")],
    prompt: Annotated[str | None, typer.Option(help="What all of them should show.")] = None,
    tasks: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A prompt or a JSON task a line, one a picture, in order.")
    ] = None,
    reward: Annotated[str, typer.Option(help="A name that milr info lists, with its argument.")] = "icons",
    model: Annotated[str, typer.Option(help="For rewards that ask a model: its name or folder.")] = "embedded",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_budget: JudgeBudget = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a picture on standard output.")] = False,
) -> None:
    """Score pictures by a reward. Without a search: any pictures, of any size."""
    check_reward(reward)
    judging = Judging.read(judge_url, judge_model, judge_budget)
    wanted = _read_wanted(pictures, prompt, tasks)
    shown = [_read_picture(path) for path in pictures]
    made = load_reward(reward, model=load_asked(reward, model, device), judges=judging.judges)
    scores = made(shown, wanted)
    judging.judges.close()
    screen = Console(highlight=False, markup=False, soft_wrap=True)
    for path, task, found in zip(pictures, wanted, scores, strict=True):
        if as_json:
            typer.echo(json.dumps({"picture": str(path), "prompt": task.prompt, **_plain(found)}, default=str))
        elif isinstance(found, Score):
            said = f"  ({found.explanation})" if found.explanation else ""
            screen.print(f"{found.value:.3f}  {path}{said}")
        else:
            screen.print(f"unscored  {path}: {found.reason}")
    values = [found.value for found in scores if isinstance(found, Score)]
    if not as_json:
        mean = f"{sum(values) / len(values):.3f} on average" if values else "none scored"
        lost = f", {len(scores) - len(values)} unscored" if len(values) < len(scores) else ""
        screen.print(f"{made.name}: {mean} of {len(scores)}{lost}" if len(scores) > 1 else made.name)
        for line in judging.conclusion([]):
            screen.print(line)


def serve_judge(
    reward: Annotated[str, typer.Option(help="What looks: self (the model's eyes), icons or icons-soft.")] = "self",
    model: Annotated[str, typer.Option(help="For self: the model's name or folder.")] = "embedded",
    port: Annotated[int, typer.Option(help="On 127.0.0.1; 0 takes any.")] = 8000,
    flip: Annotated[float, typer.Option(help="Share of verdicts that are turned round.")] = 0.0,
) -> None:
    """Serve a local reward as an OpenAI-compatible judge, for --judge-url on this machine."""
    check_reward(reward)
    from milr.serve.judge import JudgeServer

    server = JudgeServer(load_reward(reward, model=load_asked(reward, model)), port=port, flip=flip)
    typer.echo(f"milr: judging by {server.name} at {server.url} (Ctrl-C ends it)")
    try:
        server.serve_forever()
    finally:
        server.close()


def load_asked(reward: str, model: str, device: str = "cpu") -> object:
    """The model, where the reward asks one; else None."""
    if not needs_model(reward):
        return None
    from milr.models import load_model

    return load_model(model, device=device)


def _read_wanted(pictures: Sequence[Path], prompt: str | None, file: Path | None) -> list[Task]:
    from milr.tasks import read_tasks, tasks_from_prompts

    if (prompt is None) == (file is None):
        raise UsageError('give either --prompt "what the pictures show" or --tasks FILE with a line a picture')
    if file is None:
        return tasks_from_prompts([prompt or ""], free=True) * len(pictures)
    tasks = read_tasks(file, free=True)
    if len(tasks) != len(pictures):
        raise UsageError(f"--tasks {file} holds {len(tasks)} tasks for {len(pictures)} pictures: give one a picture")
    return tasks


def _read_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.copy()
    except FileNotFoundError:
        raise UsageError(f"no picture {str(path)!r}: give files that exist") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise UsageError(f"{str(path)!r} is no picture that can be read ({error}): give PNG or JPEG files") from None


def _plain(found: Score | Unscored) -> dict[str, object]:
    if isinstance(found, Unscored):
        return {"value": None, "reward": found.reward, "reason": found.reason}
    return {
        "value": found.value,
        "reward": found.reward,
        "stop_at": found.stop_at,
        "parts": dict(found.parts),
        "explanation": found.explanation,
        "evidence": dict(found.evidence),
    }
