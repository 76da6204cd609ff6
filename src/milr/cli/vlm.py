"""Options of commands whose rewards may ask VLM judges: server, model, budget, price and panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from milr.errors import UsageError
from milr.rewards import Reward, check_reward, may_ask_vlm
from milr.rewards.mix import costs_of
from milr.rewards.panel import measure_gaps
from milr.rewards.vlm.budget import estimate
from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.settings import VlmSettings
from milr.types import Score, StepRecord, Task, Unscored

VlmUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible server of VLM judges, with /v1; default: OpenAI.")]
VlmModel = Annotated[str | None, typer.Option(help="The VLM on that server; default: the reward's own.")]
VlmBudget = Annotated[
    str | None, typer.Option(help="The most that VLM judges may use: 500 (calls) or 2000000tokens; default: no limit.")
]
VlmPrice = Annotated[
    str | None,
    typer.Option(metavar="IN,OUT", help="US dollars per million tokens read and written; default: known prices."),
]
Panel = Annotated[
    str | None, typer.Option(metavar="NAME,...", help="Rewards that are watched, never optimised; default: none.")
]


@dataclass(frozen=True)
class VlmOptions:
    """One client with one budget for all VLM judges of a command, and the names of the watched rewards."""

    client: VlmClient
    panel: tuple[str, ...]

    @classmethod
    def read(
        cls, url: str | None, model: str | None, budget: str | None, price: str | None, panel: str | None = None
    ) -> VlmOptions:
        """Check the options.

        Raises:
            UsageError: An option cannot be read, or there is no such reward.
        """
        names = tuple(name.strip() for name in panel.split(",")) if panel is not None else ()
        for name in names:
            if not name:
                raise UsageError(f"--panel {panel}: a name is empty; give for instance --panel icons,self")
            check_reward(name)
        settings = VlmSettings(url=url, model=model, budget=budget, price=None if price is None else _read_price(price))
        return cls(VlmClient(settings), tuple(dict.fromkeys(names)))

    def check_used(self, *rewards: str | None, flag: str | None = "--reward") -> None:
        """Refuse options of VLM judges if no reward may ask one.

        Args:
            rewards: Names of all rewards of the command beside the panel's; None for the default of a model, which asks
                none. Code that a file names must have been typed by the user: it is imported.
            flag: The option that names another reward, for the error; None if there is none.

        Raises:
            UsageError: Names an option that would be ignored.
        """
        settings = self.client.settings
        given = [one for one in ("url", "model", "budget", "price") if getattr(settings, one) is not None]
        if given and not any(may_ask_vlm(name) for name in (*rewards, *self.panel) if name is not None):
            unread = f"--vlm-{given[0]}"
            other = "" if flag is None else f"add {flag} gpt-4o, or "
            raise UsageError(f"{unread}: no reward here asks a VLM: {other}leave {unread} out")

    def costs(
        self, reward: Reward, panel: Mapping[str, Reward], model: object, images: int, tasks: Sequence[Task] = ()
    ) -> list[str]:
        """Return the most that VLM judges and a service's images may cost, one line each; empty if nothing does.

        Args:
            reward: Scores every image.
            panel: Scores the first image of each task and its new best ones.
            model: The model that draws; the cost depends on the size of its images.
            images: Most images of all tasks.
            tasks: The tasks: a checklist is asked about question by question.
        """
        size = getattr(getattr(model, "capabilities", None), "image_size", 512)
        lines = [f"VLM judge: {line}" for line in estimate(costs_of(reward, size, tasks), images)]
        for name, watched in panel.items():
            lines += [f"panel {name}: {line}" for line in estimate(costs_of(watched, size, tasks), images)]
        if lines and self.client.settings.budget is None:
            lines.append("no budget is set: --vlm-budget sets one")
        each: float = getattr(getattr(model, "capabilities", None), "image_cost", 0.0)
        if each:
            lines.append(f"images: at most {images:,}, about ${images * each:,.2f}; --total-cost sets a limit")
        return lines

    def conclusion(self, ends: Sequence[tuple[Score | Unscored, StepRecord]]) -> list[str]:
        """Return the gaps between reward and panel, and the usage of VLM judges, one per line."""
        lines = [f"panel {gap}" for gap in measure_gaps(ends)]
        budget = self.client.budget
        for model, fields in self.client.left_out().items():
            lines.append(f"VLM judges: {model} refuses {', '.join(fields)}, and was asked without")
        return lines + ([f"VLM judges: {budget.summary()}"] if budget.calls or budget.cached else [])


def _read_price(text: str) -> tuple[float, float]:
    try:
        price_in, price_out = map(float, text.split(","))
    except ValueError:
        price_in = price_out = math.nan
    if not (0 <= price_in < math.inf and 0 <= price_out < math.inf):
        raise UsageError(f"--vlm-price {text}: give two prices per million tokens, for instance 2.5,10")
    return price_in, price_out
