"""What `milr doctor embedded` says: whether the shipped model still draws and looks as its card says.

The card's figures lie beside the weights (`card.json`); `python -m training card` writes them with the same function
that measures them again here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from milr.models.base import Model
from milr.types import Score, is_met
from milr.weights import Finding

CARD = "card.json"
"""The card's figures, in the model's folder."""
METHODS = ("one-shot", "text-reasoning")


class Figures(BaseModel):
    """Of one benchmark's prompts, how many first drawings were right, and how well the model saw it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark: str
    judge: str
    prompts: int
    seed: int
    right: dict[str, int]
    """Method -> pictures that the judge calls right."""
    seen: int
    """Drawings after reasoning on which the model's own verdict, the reward `self` at 0.5, is the judge's."""


class Card(BaseModel):
    """All that is measured again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    figures: tuple[Figures, ...]


def measure(model: Model, benchmark: str, judge: str, prompts: int, seed: int) -> Figures:
    """Draw once a prompt by each of `METHODS`; prompts are spread evenly over the benchmark's tags."""
    from milr.benchmarks import load_benchmark
    from milr.benchmarks.selection import select
    from milr.config import SearchConfig
    from milr.methods import load_method
    from milr.rewards import load_reward

    chosen = load_benchmark(benchmark)
    tasks = [task for _, task in select(chosen, chosen.read(None), limit=prompts)]
    config = SearchConfig.model_validate({**model.search_defaults, "seed": seed, "steps": 0, "max_rows": len(tasks)})
    reward, own = load_reward(judge), load_reward("self", model=model)
    drawn = {
        name: [record for record in load_method(name)(tasks, model, reward, config) if record.finished]
        for name in METHODS
    }
    verdicts = {name: [is_met(record.best_score, None) for record in records] for name, records in drawn.items()}
    reasoned = drawn["text-reasoning"]
    looks = own([record.best.picture for record in reasoned], [record.task for record in reasoned])
    says = [isinstance(score, Score) and score.value > 0.5 for score in looks]
    return Figures(
        benchmark=benchmark,
        judge=judge,
        prompts=len(tasks),
        seed=seed,
        right={name: sum(called) for name, called in verdicts.items()},
        seen=sum(one == other for one, other in zip(verdicts["text-reasoning"], says, strict=True)),
    )


def measure_card(model: Model, wanted: Sequence[Mapping[str, Any]]) -> Card:
    """All figures of a card: the arguments of `measure`, for each benchmark."""
    return Card(figures=tuple(measure(model, **one) for one in wanted))


def examine_small(device: str) -> Iterator[Finding]:
    """`examine_embedded` for the sibling."""
    return examine_embedded(device, "embedded-small")


def examine_embedded(device: str, name: str = "embedded") -> Iterator[Finding]:
    """The card's main figures, measured again; a few minutes on two cores.

    Another machine rounds otherwise and draws other pictures, so a share is wrong only where the card's lies outside of
    its 95 % interval.
    """
    from milr.benchmarks.tables import wilson
    from milr.models import embedded_folder, load_model

    card = Card.model_validate_json((embedded_folder(name) / CARD).read_text(encoding="utf-8"))
    model = load_model(name, device=device, dtype="bfloat16")
    for said in card.figures:
        found = measure(model, said.benchmark, said.judge, said.prompts, said.seed)
        pairs = [
            (f"{method}, right by {said.judge}", found.right[method], right) for method, right in said.right.items()
        ]
        for title, now, then in (*pairs, ("drawings that it sees as the judge does", found.seen, said.seen)):
            low, high = wilson(now / found.prompts, found.prompts)
            text = f"{now} of {found.prompts} [{low:.2f}, {high:.2f}]; the card says {then}"
            yield Finding(f"{said.benchmark}, {title}", low <= then / said.prompts <= high, text)
