"""What `milr doctor embedded` says: whether the shipped model still draws as its card says.

The card's figures lie beside the weights (`card.json`); `python -m training card` writes them with the same function
that measures them again here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from milr.models.base import Model
from milr.types import is_met
from milr.weights import Finding

CARD = Path(__file__).parents[1] / "assets" / "embedded" / "card.json"
METHODS = ("one-shot", "text-reasoning")


class Card(BaseModel):
    """How many first drawings were right, and of which prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark: str
    judge: str
    prompts: int
    seed: int
    right: dict[str, int]
    """Method -> pictures that the judge calls right."""


def measure_card(model: Model, benchmark: str, judge: str, prompts: int, seed: int) -> Card:
    """Draw once a prompt by each of `METHODS`; prompts are spread evenly over the benchmark's tags."""
    from milr.benchmarks import load_benchmark
    from milr.benchmarks.selection import select
    from milr.config import SearchConfig
    from milr.methods import load_method
    from milr.rewards import load_reward

    chosen = load_benchmark(benchmark)
    tasks = [task for _, task in select(chosen, chosen.read(None), limit=prompts)]
    config = SearchConfig.model_validate({**model.search_defaults, "seed": seed, "steps": 0, "max_rows": len(tasks)})
    reward = load_reward(judge)
    right: dict[str, int] = {}
    for name in METHODS:
        records = [record for record in load_method(name)(tasks, model, reward, config) if record.finished]
        right[name] = sum(is_met(record.best_score, None) for record in records)
    return Card(benchmark=benchmark, judge=judge, prompts=len(tasks), seed=seed, right=right)


def examine_embedded(device: str) -> Iterator[Finding]:
    """The card's main figures, measured again; a few minutes on two cores.

    Another machine rounds otherwise and draws other pictures, so a share is wrong only where the card's lies outside of
    its 95 % interval.
    """
    from milr.benchmarks.tables import wilson
    from milr.models import load_model

    card = Card.model_validate_json(CARD.read_text(encoding="utf-8"))
    model = load_model(device=device, dtype="bfloat16")
    found = measure_card(model, card.benchmark, card.judge, card.prompts, card.seed)
    for name, right in found.right.items():
        low, high = wilson(right / found.prompts, found.prompts)
        said = f"{right} of {found.prompts} first drawings right by {card.judge} [{low:.2f}, {high:.2f}]"
        fine = low <= card.right[name] / card.prompts <= high
        yield Finding(f"{card.benchmark}, {name}", fine, f"{said}; the card says {card.right[name]}")
