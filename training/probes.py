"""Probes: linear heads that teach hidden states what they must know between a text and an image.

An image follows its text when an image position knows its row and column, the last word of an object knows the object's
place and colour, and an image position finds the object that it belongs to. Left to the loss of image tokens none of
these came about in thousands of steps (docs/experiments.md). Visual question answering is taught alike: a name in a
question knows where the image shows it, in which colours and how often; the position that answers knows the places of
both names of a relation. Checking a text is taught alike: a name in a text knows how many of it a prompt asks for, in
which colour and on which side of a relation; the position that answers knows how many objects are missing. From the
answers alone checking stayed near chance. The heads are thrown away after training; nothing of them is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from milr.tasks import COLORS, OBJECT_NAMES, RELATIONS
from training.grounds import GRID
from training.scenes import MOST_OBJECTS, PLACES, Item, Scene

IGNORED = -100
TOLD_LAYER = 2
"""After this layer a word knows its object's place, an image position its own, a name in a question its object's."""
SIDES = 1 + 2 * len(RELATIONS)
"""Sides of relations (`training.text_checks.Demand.side`)."""
NOTHING = len(OBJECT_NAMES)
"""The name of plain ground."""


@dataclass(frozen=True)
class Facts:
    """Truths about a batch of drawings: N objects' last words, and positions that predict (B, M + 1) cells."""

    words: torch.Tensor  # (N, 2) int64: row of the batch, position in its text
    place: torch.Tensor  # (N,) int64, IGNORED where the text names none
    color: torch.Tensor  # (N,) int64, 0 where the text names none
    cells: torch.Tensor  # (B, M + 1) int64: raster place of the predicted cell, or IGNORED
    cell_name: torch.Tensor  # (B, M + 1) int64: the name of the object there, or IGNORED where there is no text
    cell_color: torch.Tensor  # (B, M + 1) int64, likewise


@dataclass(frozen=True)
class AskedFacts:
    """Truths about N names in questions and about the P positions that answer questions."""

    words: torch.Tensor  # (N, 2) int64: row of the batch, position of the name's last token in its conversation
    cells: torch.Tensor  # (N, 20) float32: 1 for each row, then for each column, that an object of that name covers
    colors: torch.Tensor  # (N, 11) float32: 1 for each colour that one of that name has; the first is none
    count: torch.Tensor  # (N,) int64: how many of that name there are
    answering: torch.Tensor  # (P, 2) int64: row of the batch, position that predicts the answer
    first: torch.Tensor  # (P, 20) float32: cells of the first name
    second: torch.Tensor  # (P, 20) float32: cells of the second name; zeros where there is none
    number: torch.Tensor  # (P,) int64: how many of the first name there are


@dataclass(frozen=True)
class DemandFacts:
    """Truths about the N objects that checked texts name (`training.text_checks.Demand`), and about B texts."""

    count: torch.Tensor  # (N,) int64
    color: torch.Tensor  # (N,) int64: 0 for none; IGNORED for a name that the prompt does not have
    side: torch.Tensor  # (N,) int64, likewise
    missing: torch.Tensor  # (B,) int64: asked objects that the text does not name, or IGNORED


def color_number(color: str | None) -> int:
    """Return a colour's number; 0 is none."""
    return 0 if color is None else 1 + COLORS.index(color)


def name_number(item: Item) -> int:
    """Return a name's number in GenEval's order."""
    return OBJECT_NAMES.index(item.name)


def covered(scene: Scene, name: str) -> list[float]:
    """Return the rows and columns (20,) that objects of a name cover, as zeros and ones."""
    found = [0.0] * (2 * GRID)
    for item in scene.items:
        if item.name == name:
            top, left, bottom, right = item.box
            for place in (*range(top, bottom), *range(GRID + left, GRID + right)):
                found[place] = 1.0
    return found


def shown_colors(scene: Scene, name: str) -> list[float]:
    """Return the colours (11,) of the objects of a name, as zeros and ones; the first is none."""
    colors = {color_number(item.color) for item in scene.items if item.name == name}
    return [float(number in colors) for number in range(1 + len(COLORS))]


class Probes(nn.Module):
    """Linear heads over normalised hidden states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(width, len(PLACES))
        self.color = nn.Linear(width, 1 + len(COLORS))
        self.row, self.column = nn.Linear(width, GRID), nn.Linear(width, GRID)
        self.cell_name = nn.Linear(width, 1 + NOTHING)
        self.cell_color = nn.Linear(width, 1 + len(COLORS))
        self.asked_cells = nn.Linear(width, 2 * GRID)
        self.asked_color = nn.Linear(width, 1 + len(COLORS))
        self.asked_count = nn.Linear(width, 1 + MOST_OBJECTS)
        self.first, self.second = nn.Linear(width, 2 * GRID), nn.Linear(width, 2 * GRID)
        self.number = nn.Linear(width, 1 + MOST_OBJECTS)
        self.demanded_count, self.missing = nn.Linear(width, 1 + MOST_OBJECTS), nn.Linear(width, 1 + MOST_OBJECTS)
        self.demanded_color = nn.Linear(width, 1 + len(COLORS))
        self.demanded_side = nn.Linear(width, SIDES)

    def forward(
        self, layers: Sequence[torch.Tensor], predicting: torch.Tensor, facts: Facts
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the sum of the mean cross-entropies in nats, and each for the log.

        Args:
            layers: (B, T, d) each: the embeddings, then the states after every layer.
            predicting: (B, M + 1) int64: the position that predicts each cell.
            facts: The truths.
        """
        told, found = _normalise(layers[TOLD_LAYER]), _normalise(layers[-2])
        row, position = facts.words.unbind(-1)
        words = told[row, position]  # (N, d)
        where = predicting[..., None].expand(-1, -1, told.shape[-1])
        here, seen = told.gather(1, where), found.gather(1, where)  # (B, M + 1, d)
        known, planned = facts.cells != IGNORED, facts.cell_name != IGNORED
        losses = {
            "place": _entropy(self.place(words), facts.place),
            "color": _entropy(self.color(words), facts.color),
            "row": _entropy(self.row(here[known]), facts.cells[known] // GRID),
            "column": _entropy(self.column(here[known]), facts.cells[known] % GRID),
            "cell_name": _entropy(self.cell_name(seen[planned]), facts.cell_name[planned]),
            "cell_color": _entropy(self.cell_color(seen[planned]), facts.cell_color[planned]),
        }
        return _add(losses)

    def look(self, layers: Sequence[torch.Tensor], asked: AskedFacts) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the sum of the mean losses of what names in questions and answering positions know, and each."""
        row, position = asked.words.unbind(-1)
        found = _normalise(layers[TOLD_LAYER][row, position])  # (N, d)
        late = _normalise(layers[-2][row, position])  # (N, d)
        row, position = asked.answering.unbind(-1)
        answering = _normalise(layers[-2][row, position])  # (P, d)
        losses = {
            "asked_cells": _binary(self.asked_cells(found), asked.cells),
            "asked_color": _binary(self.asked_color(late), asked.colors),
            "asked_count": _entropy(self.asked_count(late), asked.count),
            "first": _binary(self.first(answering), asked.first),
            "second": _binary(self.second(answering), asked.second),
            "number": _entropy(self.number(answering), asked.number),
        }
        return _add(losses)

    def check(
        self, layers: Sequence[torch.Tensor], words: torch.Tensor, places: torch.Tensor, demands: DemandFacts
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the sum of the mean cross-entropies of what a checked text's positions know, and each.

        Args:
            layers: (B, T, d) each: the embeddings, then the states after every layer.
            words: (N, 2) int64: row, and position of each object's last word.
            places: (B,) int64: the position that predicts the answer.
            demands: The truths.
        """
        row, position = words.unbind(-1)
        read = _normalise(layers[-3][row, position])  # (N, d): before it is told whether the object fits
        answering = _normalise(layers[-2][torch.arange(len(places)), places])  # (B, d)
        losses = {
            "demanded_count": _entropy(self.demanded_count(read), demands.count),
            "demanded_color": _entropy(self.demanded_color(read), demands.color),
            "demanded_side": _entropy(self.demanded_side(read), demands.side),
            "missing": _entropy(self.missing(answering), demands.missing),
        }
        return _add(losses)


def _entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy; 0 if nothing is known."""
    known = truth != IGNORED
    return F.cross_entropy(logits[known], truth[known]) if bool(known.any()) else logits.sum() * 0


def _binary(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the binary cross-entropy, summed over the last axis, its mean over the first."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / max(1, len(truth))


def _add(losses: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    return sum(losses.values(), torch.zeros(())), {name: loss.item() for name, loss in losses.items()}


def _normalise(states: torch.Tensor) -> torch.Tensor:
    states = states.float()
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-6)
