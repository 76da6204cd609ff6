"""What hidden states must know on the way from a plan to a picture, taught directly while the model is trained.

A picture obeys its plan when three things are there: an image position knows its row and column, the last word of
an object knows the object's place and colour, and an image position finds the object of its own place. Left to the loss
of image tokens none of them came about in thousands of steps (docs/experiments.md). Linear heads read them off layers
in the middle; the heads are thrown away afterwards, nothing of them is shipped. Looking is taught alike: a name in a
question knows where the picture shows it, and in which colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from milr.tasks import COLORS, OBJECT_NAMES
from training.scenes import GRID, PLACES, Item

IGNORED = -100
TOLD_LAYER = 2
"""Behind it a word knows its object's place, an image position its own."""
FOUND_LAYER = 4
"""Behind it an image position knows what stands there."""
NOTHING = len(OBJECT_NAMES)
"""The name of plain ground."""


@dataclass(frozen=True)
class Facts:
    """The answers: of N objects' last words, and of the image positions that predict (B, M + 1) cells."""

    words: torch.Tensor  # (N, 2) int64: row of the batch, position in its text
    place: torch.Tensor  # (N,) int64
    color: torch.Tensor  # (N,) int64, 0 where the plan names none
    cells: torch.Tensor  # (B, M + 1) int64: raster place of the predicted cell, or IGNORED
    cell_name: torch.Tensor  # (B, M + 1) int64: what stands there, or IGNORED where no plan says so
    cell_color: torch.Tensor  # (B, M + 1) int64, likewise


@dataclass(frozen=True)
class AskedFacts:
    """What pictures show of N objects that questions name, known at the last token of each name."""

    words: torch.Tensor  # (N, 2) int64: row of the batch, position in its conversation
    places: torch.Tensor  # (N, 9) float32: 1 where one of that name stands
    colors: torch.Tensor  # (N, 11) float32: 1 for colours that one of that name has; the first is none


def place_number(item: Item) -> int:
    """Of an object's place, in reading order."""
    return list(PLACES).index(item.place)


def color_number(item: Item) -> int:
    """Of an object's colour; 0 is none."""
    return 0 if item.color is None else 1 + COLORS.index(item.color)


def name_number(item: Item) -> int:
    """Of an object's name, GenEval's order."""
    return OBJECT_NAMES.index(item.name)


class Probes(nn.Module):
    """Linear heads over normalised hidden states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(width, len(PLACES))
        self.color = nn.Linear(width, 1 + len(COLORS))
        self.row, self.column = nn.Linear(width, GRID), nn.Linear(width, GRID)
        self.cell_name = nn.Linear(width, 1 + NOTHING)
        self.cell_color = nn.Linear(width, 1 + len(COLORS))
        self.asked_place = nn.Linear(width, len(PLACES))
        self.asked_color = nn.Linear(width, 1 + len(COLORS))

    def forward(
        self, layers: Sequence[torch.Tensor], predicting: torch.Tensor, facts: Facts
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean cross-entropies, added, in nats.

        Args:
            layers: (B, T, d) each: the embeddings, then the states behind every layer.
            predicting: (B, M + 1) int64: the position that predicts each cell.
            facts: The answers.
        """
        told, found = _normalise(layers[TOLD_LAYER]), _normalise(layers[FOUND_LAYER])
        row, position = facts.words.unbind(-1)
        words = told[row, position]  # (N, d)
        where = predicting[..., None].expand(-1, -1, told.shape[-1])
        here, seen = told.gather(1, where), found.gather(1, where)  # (B, M + 1, d)
        known, planned = facts.cells != IGNORED, facts.cell_name != IGNORED
        losses = {
            "place": F.cross_entropy(self.place(words), facts.place),
            "color": F.cross_entropy(self.color(words), facts.color),
            "row": F.cross_entropy(self.row(here[known]), facts.cells[known] // GRID),
            "column": F.cross_entropy(self.column(here[known]), facts.cells[known] % GRID),
            "cell_name": F.cross_entropy(self.cell_name(seen[planned]), facts.cell_name[planned]),
            "cell_color": F.cross_entropy(self.cell_color(seen[planned]), facts.cell_color[planned]),
        }
        return _add(losses)

    def look(self, layers: Sequence[torch.Tensor], asked: AskedFacts) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean binary cross-entropies of a name's places and colours, each summed over all of them, added, in nats."""
        row, position = asked.words.unbind(-1)
        found = _normalise(layers[FOUND_LAYER][row, position])  # (N, d)
        losses = {
            name: F.binary_cross_entropy_with_logits(head(found), truth, reduction="sum") / len(truth)
            for name, head, truth in (
                ("asked_place", self.asked_place, asked.places),
                ("asked_color", self.asked_color, asked.colors),
            )
        }
        return _add(losses)


def _add(losses: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    return sum(losses.values(), torch.zeros(())), {name: loss.item() for name, loss in losses.items()}


def _normalise(states: torch.Tensor) -> torch.Tensor:
    states = states.float()
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-6)
