"""Stage 4, the unified model: reasoning, drawing, checking texts and looking, trained together.

Weights are bfloat16 with float32 masters; Muon optimises the language model's hidden matrices, AdamW all else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerBase

from training.examiner import Examiner
from training.feeder import Feeder
from training.losses import Figures, checking_loss, drawing_loss, looking_loss, reasoning_loss, tower_loss
from training.model import build_model, factor, multiply_out, to_bfloat16, trainable
from training.optimiser import Masters, Optimiser, schedule
from training.probes import Probes
from training.seeing import Lexicon
from training.stage import Checkpoint, Settings, log, start_from_shipped

SAVED_EVERY = 100  # steps
LOGGED_EVERY = 25  # steps
EXAMINED_FROM = 1_000_000  # seeds of the worlds of examinations; those of lessons are their phases' first steps

OpenFeeder = Callable[[dict[str, Any], int], Feeder]
"""Opens a feeder for world settings and a seed."""


@dataclass(frozen=True)
class Lesson:
    """One kind of batch and its loss."""

    name: str
    batches: Iterator[Any]
    learn: Callable[[Any], tuple[torch.Tensor, Figures]]


@dataclass(frozen=True)
class Training:
    """Everything that a step changes, in one checkpoint."""

    model: JanusForConditionalGeneration
    masters: Masters
    probes: Probes
    optimiser: Optimiser
    checkpoint: Checkpoint

    def load(self) -> int:
        """Fill it from the checkpoint and return its step; 0 if there is none."""
        step = self.checkpoint.load(masters=self.masters, probes=self.probes, optimiser=self.optimiser)
        self.masters.give_back(1.0)
        return step

    def save(self, step: int) -> None:
        """Save a checkpoint."""
        self.checkpoint.save(step, masters=self.masters, probes=self.probes, optimiser=self.optimiser)


def train(
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    open_feeder: OpenFeeder,
    codes: torch.Tensor,
    folder: Path,
) -> None:
    """Train through all phases, from the last checkpoint.

    Args:
        settings: Settings of all stages.
        tokenizer: The model's tokenizer.
        open_feeder: Opens the feeders of a phase.
        codes: The codebook's first vectors (codes, embed_dim).
        folder: Holds the checkpoint ``unified.pt``.
    """
    own: dict[str, Any] = settings["unified"]
    torch.manual_seed(own["seed"])
    model = build_model(settings, tokenizer, codes)
    start_from_shipped(model, Path(settings["export"]["folder"]))  # a checkpoint, where there is one, goes before
    factor(model)
    model.set_attn_implementation("eager")  # the fused kernel's backward takes a third of a step on a CPU
    model = to_bfloat16(model).train()
    masters, probes = Masters(trainable(model)), Probes(settings["model"]["width"])
    training = Training(model, masters, probes, Optimiser(masters, probes, own), Checkpoint(folder / "unified.pt"))
    step = training.load()
    for phase in phases(own):
        if step < phase["until"]:
            step = _train_phase(step, training, open_feeder, phase)


def phases(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the common settings with each phase's own over them, in order.

    A phase lasts until its step, or until its examiner is satisfied.
    """
    for phase in settings["phases"]:
        yield settings | phase


def _lessons(training: Training, open_feeder: OpenFeeder, own: dict[str, Any], seed: int) -> list[Lesson]:
    """Return the lessons of a phase that are taught in it."""
    model, probes = training.model, training.probes
    drawing, reasoning, looking = (
        open_feeder(own[world], seed) for world in ("world", "reasoning_world", "looking_world")
    )
    lexicon, random = Lexicon(drawing.encode), looking.world.random
    lessons = (
        Lesson("drawing", drawing.drawings(own), lambda batch: drawing_loss(model, batch, probes)),
        Lesson("reasoning", reasoning.reasonings(own), lambda batch: reasoning_loss(model, *batch)),
        Lesson("checking", reasoning.checks(own), lambda batch: checking_loss(model, batch, probes)),
        Lesson("looking", looking.lookings(own), lambda batch: looking_loss(model, batch, lexicon, random, probes)),
        Lesson("seeing", looking.seeings(own), lambda batch: tower_loss(model, batch, lexicon, random)),
    )
    return [lesson for lesson in lessons if own[f"{lesson.name}_every"]]


def _train_phase(step: int, training: Training, open_feeder: OpenFeeder, own: dict[str, Any]) -> int:
    masters = training.masters
    examiner = Examiner(training.model, masters, lambda step: open_feeder(own["world"], EXAMINED_FROM + step), own)
    lessons = _lessons(training, open_feeder, own, own["seed"] + step)
    started, sums = time.time(), dict[str, list[float]]()
    while step < own["until"] and not examiner.is_satisfied(step):
        for lesson in lessons:
            if step % own[f"{lesson.name}_every"] == 0:
                loss, figures = lesson.learn(next(lesson.batches))
                (own[f"{lesson.name}_weight"] * loss).backward()
                for name, value in {f"{lesson.name}_loss": loss.item(), **figures}.items():
                    sums.setdefault(name, []).append(value)
        masters.take_gradients()
        nn.utils.clip_grad_norm_(masters.masters.parameters(), 1.0)
        training.optimiser.step(schedule(step, own))
        masters.give_back(min(own["average"], (step + 1) / (step + 10)))
        step += 1
        if step % LOGGED_EVERY == 0:
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            right = {f"texts_{kind}": share for kind, share in examiner.right.items()}
            log("unified", step=step, **means, **right, seconds=(time.time() - started) / LOGGED_EVERY)
            started, sums = time.time(), {}
        if step % SAVED_EVERY == 0:
            training.save(step)
    training.save(own["until"])  # the next phase begins at its own step, also if the examiner ended this one
    return int(own["until"])


def load(settings: Settings, tokenizer: PreTrainedTokenizerBase, folder: Path) -> JanusForConditionalGeneration:
    """Return the moving average of the last checkpoint, or the shipped weights, in bfloat16; without the VQ model's."""
    model = build_model(settings, tokenizer)
    start_from_shipped(model, Path(settings["export"]["folder"]))
    factor(model)
    masters = Masters(trainable(to_bfloat16(model)))
    Checkpoint(folder / "unified.pt").load(masters=masters)
    masters.write_averages()
    multiply_out(model)
    return model.eval()
