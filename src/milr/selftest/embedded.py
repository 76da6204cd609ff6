"""`milr doctor embedded`: the shipped model, measured again against the figures of its card.

The card's figures are stored beside the weights (`card.json`); `python -m training card` writes them with the
same function that measures them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from milr.models.base import Model
from milr.types import Score, StepRecord, is_met
from milr.weights import Finding

CARD = "card.json"
"""The card's figures, in the model's folder."""
METHODS = ("one-shot", "text-reasoning")


class Figures(BaseModel):
    """Counts over one benchmark's prompts: right first images, and right answers of the model about its own images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark: str
    evaluator: str
    prompts: int
    seed: int
    right: dict[str, int]
    """Method -> number of images that the evaluator calls correct."""
    seen: int
    """Images after reasoning on which the reward `self`, at 0.5, agrees with the evaluator."""


class Card(BaseModel):
    """All figures that are measured again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    figures: tuple[Figures, ...]


def measure(model: Model, benchmark: str, evaluator: str, prompts: int, seed: int) -> Figures:
    """Draw one image per prompt by each of `METHODS`; prompts are spread evenly over the benchmark's tags."""
    from milr.benchmarks import load_benchmark
    from milr.benchmarks.selection import select
    from milr.methods import load_method
    from milr.methods.runner import Runner
    from milr.rewards import load_reward
    from milr.rewards.base import start_scoring

    chosen = load_benchmark(benchmark)
    tasks = [task for _, task in select(chosen, chosen.read(None), limit=prompts)]
    reward, own = load_reward(evaluator), load_reward("self", model=model)
    drawn: dict[str, list[StepRecord]] = {}
    for name in METHODS:
        settings = model.settings(name, seed=seed, batch_size=len(tasks))
        runner = Runner(load_method(name), tasks, model, reward, settings)
        drawn[name] = [record for record in runner if record.finished]
    verdicts = {name: [is_met(record.best_score, None) for record in records] for name, records in drawn.items()}
    reasoned = drawn["text-reasoning"]
    answers = start_scoring(own, [one.best.image for one in reasoned], [one.task for one in reasoned])()
    says = [isinstance(score, Score) and score.value > 0.5 for score in answers]
    return Figures(
        benchmark=benchmark,
        evaluator=evaluator,
        prompts=len(tasks),
        seed=seed,
        right={name: sum(called) for name, called in verdicts.items()},
        seen=sum(one == other for one, other in zip(verdicts["text-reasoning"], says, strict=True)),
    )


def measure_card(model: Model, wanted: Sequence[Mapping[str, Any]]) -> Card:
    """Measure all figures of a card: the arguments of `measure`, for each benchmark."""
    return Card(figures=tuple(measure(model, **one) for one in wanted))


def examine_small(device: str) -> Iterator[Finding]:
    """Examine the sibling."""
    return examine_embedded(device, "embedded-small")


def examine_embedded(device: str, name: str = "embedded") -> Iterator[Finding]:
    """Measure the card's main figures again; a few minutes on two cores.

    Another machine rounds differently and draws other images, so a share is wrong only if the card's is outside its 95
    % interval.
    """
    from milr.benchmarks.intervals import wilson
    from milr.models import embedded_folder, load_model

    card = Card.model_validate_json((embedded_folder(name) / CARD).read_text(encoding="utf-8"))
    model = load_model(name, device=device, dtype="bfloat16")
    for said in card.figures:
        found = measure(model, said.benchmark, said.evaluator, said.prompts, said.seed)
        pairs = [
            (f"{method}, right by {said.evaluator}", found.right[method], right) for method, right in said.right.items()
        ]
        for title, now, then in (*pairs, ("images on which its own verdict is the evaluator's", found.seen, said.seen)):
            low, high = wilson(now / found.prompts, found.prompts)
            text = f"{now} of {found.prompts} [{low:.2f}, {high:.2f}]; the card says {then}"
            yield Finding(f"{said.benchmark}, {title}", low <= then / said.prompts <= high, text)
