"""The reward `grounding-dino`: objects, counts and positions of a task, detected by GroundingDINO.

A part of the authors' MixedReward. Source: their `reward_gdino.py` after CaraJ7/T2I-R1 2d9d4d1; the span mean is that
of GroundingDINO's own given-phrase mode. Two errors of the authors' code are corrected: boxes are converted to corners
before their overlap is measured, and to pixels before positions are compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from PIL import Image
from transformers.models.bert.tokenization_bert import BertTokenizer
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoForObjectDetection

from milr.errors import UsageError
from milr.rewards.compbench.spatial import BOTTOM, LEFT, RIGHT, TOP, Box, overlap, score_geometry
from milr.rewards.images.tensors import IMAGENET_DEVIATION, IMAGENET_MEAN, read_rgb, to_tensor
from milr.rewards.mixed.known_answers import refuse_blind
from milr.rewards.pretrained import load_network, load_tokenizer
from milr.tasks import check_task
from milr.types import Region, Relation, Requirement, Score, Task, Unscored
from milr.weights import WeightFile, Weights, name_with

WEIGHTS = Weights(
    name="grounding-dino-tiny",
    title="GroundingDINO Swin-T OGC",
    files=(WeightFile("config.json"), WeightFile("model.safetensors"), WeightFile("vocab.txt")),
    commands=("hf download IDEA-Research/grounding-dino-tiny --local-dir {folder}",),
)
THRESHOLD = 0.3
"""Least span mean of a box."""
MOST_OVERLAP = 0.5
"""Largest overlap of two boxes of a class; above it only the more confident one counts."""
FOUND, PLACED = 0.2, 0.5
"""Weights of each of the two objects and of their placement; together 0.9, so that no placed pair scores 1."""
WRONG_COUNT = 0.2
"""Share of its weight that a class gets if it is detected in the wrong number."""
SHORT_SIDE, LONG_SIDE = 800, 1333
_GEOMETRY: Mapping[Relation, str] = {"left of": LEFT, "right of": RIGHT, "above": TOP, "below": BOTTOM}

_STRIDES = (8, 16, 32, 64)
"""Strides of the four feature maps from which the model takes its boxes."""

Found = tuple[float, Box]
"""Span mean, corners in the image's pixels."""


def write_caption(names: Sequence[str]) -> str:
    """Return the text in which GroundingDINO looks for names: "dog . traffic light."."""
    return " . ".join(names) + "."


def find_words(names: Sequence[str]) -> list[tuple[tuple[int, int], ...]]:
    """Return the position of each name's words in the caption: (first character, last character)."""
    spans: list[tuple[tuple[int, int], ...]] = []
    start = 0
    for name in names:
        words = [(start + match.start(), start + match.end() - 1) for match in re.finditer(r"\S+", name)]
        spans.append(tuple(dict.fromkeys((words[0], words[-1]))))
        start += len(name) + len(" . ")
    return spans


def span_mean(chances: torch.Tensor, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return each query's score for each class: the mean probability over the tokens of its words.

    transformers' post-processing takes the largest probability over the whole text instead.

    Args:
        chances: (Q, T), sigmoid of the logits.
        tokens: For each class, the indices of its words' tokens.

    Returns:
        (C, Q).
    """
    span = torch.zeros(len(tokens), chances.shape[1])  # (C, T)
    for row, places in zip(span, tokens, strict=True):
        row[list(places)] = 1
    return span / (span.sum(-1, keepdim=True) + 1e-6) @ chances.T


def to_corners(boxes: torch.Tensor, width: int, height: int) -> list[Box]:
    """Convert the model's boxes, (n, 4) of centre and size in [0, 1], to corners in pixels."""
    x, y, w, h = boxes.double().unbind(-1)
    corners = torch.stack([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height], -1)
    rows = cast("list[list[float]]", corners.tolist())
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in rows]


def suppress(found: Sequence[Found]) -> list[Found]:
    """Return the boxes of one class, the most confident first; drop those that overlap a better one by over half."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: -one[0]):
        if all(overlap(one[1], other[1]) <= MOST_OVERLAP for other in kept):
            kept.append(one)
    return kept


def score_counts(include: Sequence[Requirement], found: Mapping[str, Sequence[Found]]) -> dict[str, float]:
    """Score the number of each item: 1 if as asked, 0.2 for another number, 0 for none; "dog: 2 of 2" -> value."""
    parts: dict[str, float] = {}
    for item in include:
        seen = len(suppress(found.get(item.name, ())))
        parts[f"{item.name}: {seen} of {item.count}"] = 1.0 if seen == item.count else WRONG_COUNT if seen else 0.0
    return parts


def score_places(
    include: Sequence[Requirement], found: Mapping[str, Sequence[Found]]
) -> tuple[float, dict[str, float]]:
    """Return value and parts of a task that places one object by another: the first such pair counts."""
    item = next(item for item in include if item.position is not None)
    relation, index = cast("tuple[Relation, int]", item.position)
    reference = include[index]
    best = [max(found.get(one.name, ()), key=lambda seen: seen[0], default=None) for one in (item, reference)]
    parts = {f"{one.name}: present": float(seen is not None) for one, seen in zip((item, reference), best, strict=True)}
    value = FOUND * sum(parts.values())
    first, second = best
    if first is not None and second is not None:
        placed = score_geometry(_GEOMETRY[relation], first[1], second[1])
        parts[f"{item.name}: {relation} {reference.name}"] = placed
        value += PLACED * placed
    return value, parts


class GroundingDino:
    """The counts of a task's objects, or, if it places one by another, the presence and the placement of both.

    A score's parts are the counts or the placement, its regions are all detections, without colours.
    """

    stop_at = 0.8

    def __init__(
        self, *, device: str = "cpu", short_side: int = SHORT_SIDE, long_side: int = LONG_SIDE, self_test: bool = True
    ) -> None:
        """Load the model.

        Args:
            device: In torch's notation.
            short_side: Pixels of the shorter side after resizing.
            long_side: Most pixels of the longer side after resizing.
            self_test: Refuse weights that do not tell a cat from a pizza.

        Raises:
            UsageError: The weights are missing, or are not a GroundingDINO.
            MilrError: The self-test failed.
        """
        folder = WEIGHTS.find()
        self.name = name_with("grounding-dino@1", WEIGHTS)
        self.device = device
        self.network = load_network(GroundingDinoForObjectDetection, folder, f"type {WEIGHTS.mend[0]}", device)
        self.tokenizer = load_tokenizer(BertTokenizer, folder, f"type {WEIGHTS.mend[0]}")
        self._sides = short_side, long_side
        if self_test:
            refuse_blind(self)

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return [self._score(image, task) for image, task in zip(images, tasks, strict=True)]

    def _score(self, image: Image.Image, task: Task) -> Score | Unscored:
        if not task.include:
            reason = "the task has no include list, so there is nothing to look for"
            return Unscored(reason=reason, reward=self.name)
        try:
            check_task(task)
            found = self.detect(image, tuple(dict.fromkeys(item.name for item in task.include)))
        except (UsageError, OSError, ValueError) as error:
            return Unscored(reason=str(error), reward=self.name)
        if any(item.position is not None for item in task.include):
            value, parts = score_places(task.include, found)
        else:
            parts = score_counts(task.include, found)
            value = sum(parts.values()) / len(task.include)
        return Score(
            value=min(1.0, value),
            reward=self.name,
            stop_at=self.stop_at,
            parts=parts,
            explanation=", ".join(f"{name} {part:.2f}" for name, part in parts.items()),
            regions=tuple(Region(name, box, score) for name, seen in found.items() for score, box in seen),
        )

    @torch.inference_mode()
    def detect(self, image: Image.Image, names: Sequence[str]) -> dict[str, list[Found]]:
        """Return all boxes above the threshold, by name, the most confident first. One box may have two names."""
        encoded = self.tokenizer(write_caption(names), return_tensors="pt").to(self.device)
        pixels = self._pixels(image)
        seen = self.network(
            pixel_values=pixels,
            pixel_mask=torch.ones(1, *pixels.shape[-2:], dtype=torch.long, device=self.device),
            input_ids=encoded["input_ids"],
            token_type_ids=encoded["token_type_ids"],
            attention_mask=encoded["attention_mask"],
        )
        chances = seen.logits[0].sigmoid().float().cpu()  # (Q, T)
        tokens = [
            [
                place
                for span in spans
                for place in range(encoded.char_to_token(span[0]), encoded.char_to_token(span[1]) + 1)
            ]
            for spans in find_words(names)
        ]
        corners = to_corners(seen.pred_boxes[0].cpu(), *image.size)
        found: dict[str, list[Found]] = {}
        means = cast("list[list[float]]", span_mean(chances, tokens).tolist())
        for name, scores in zip(names, means, strict=True):
            above = [(score, box) for score, box in zip(scores, corners, strict=True) if score > THRESHOLD]
            found[name] = sorted(above, key=lambda one: -one[0])
        return found

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        """Convert an image to (1, 3, H, W), shorter side 800 but longer at most 1333, ImageNet's colours."""
        rgb = read_rgb(image)
        size = fit(*rgb.size, *self._sides)
        places = sum(math.prod(math.ceil(side / stride) for side in size) for stride in _STRIDES)
        if places < self.network.config.num_queries:
            raise ValueError(
                f"an image of {rgb.width} x {rgb.height} pixels is too narrow for GroundingDINO: "
                f"{places} places for {self.network.config.num_queries} boxes"
            )
        small = rgb.resize(size, Image.Resampling.BILINEAR)
        return to_tensor(small, IMAGENET_MEAN, IMAGENET_DEVIATION).to(self.device)


def fit(width: int, height: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Return the width and height to which an image is resized, as in DETR's transforms."""
    short, long = sorted((width, height))
    side = round(long_side * short / long) if long / short * short_side > long_side else short_side
    side = max(1, side)
    return (side, int(side * height / width)) if width < height else (int(side * width / height), side)
