"""Batches of the unified model's training: their tensors, and rows padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.probes import AskedFacts, DemandFacts, Facts
from training.seeing import SeenBatch


@dataclass(frozen=True)
class DrawingBatch:
    """Texts followed by the image tokens that are fed; M image tokens fed, P text tokens.

    Ground is most of an image and soon known. A thinned batch leaves most of it out: the other tokens keep their true
    positions, so the decoder sees an image with holes.
    """

    text: torch.Tensor  # (B, P) int64
    lengths: torch.Tensor  # (B,) int64: text tokens of each row
    fed: torch.Tensor  # (B, M) int64: image tokens fed
    places: torch.Tensor  # (B, M) int64: their raster places
    targets: torch.Tensor  # (B, M + 1) int64: predicted by the last text token and by each fed token, or IGNORED
    objects: torch.Tensor  # (B, M + 1) bool: targets that are cells of objects, not ground
    facts: Facts


@dataclass(frozen=True)
class Row:
    """One drawing before it is padded."""

    text: list[int]
    tokens: np.ndarray  # (100,) int64
    objects: np.ndarray  # (100,) bool
    kept: np.ndarray  # (100,) bool: targets; a token is fed if the one after it is a target
    words: list[tuple[int, int, int]]  # position, place and colour of each object's last word in the text
    names: np.ndarray  # (100,) the object in each cell, or IGNORED
    colors: np.ndarray  # (100,) likewise


@dataclass(frozen=True)
class AnswerBatch:
    """Questions in words alone, each answered by yes or no."""

    ids: torch.Tensor  # (B, T) int64
    places: torch.Tensor  # (B,) int64: the position that predicts the answer
    answers: torch.Tensor  # (B,) int64: the token of yes or no
    words: torch.Tensor  # (N, 2) int64: row, and position of the last word of an object that a text names
    fitting: torch.Tensor  # (N,) int64: the token of yes or no: whether this object is what the prompt asks for
    demands: DemandFacts


@dataclass(frozen=True)
class LookingBatch:
    """Images, each with a conversation about it."""

    seen: SeenBatch
    ids: torch.Tensor  # (B, T) int64, with placeholders where the image is
    answers: torch.Tensor  # (B, T) int64: yes, no and their ends under the token before; or IGNORED
    description: torch.Tensor  # (B, T) int64: the description, likewise
    asked: AskedFacts


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Return rows padded on the right: (B, T) int64."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows])
