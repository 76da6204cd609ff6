"""Yes/no questions about images: rendered scenes, and the model's own drawings as the evaluator sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from training.grounds import GRID, GROUNDS, HORIZONS, TOKEN
from training.properties.shares import share, share_by
from training.properties.studio import ROWS, SEED, Seen, Studio
from training.questions import ask_questions
from training.scenes import SIZES, STYLES, Item, Library, Scene, render
from training.world import World

QUESTIONS = 2  # about each image


def look_at_scenes(studio: Studio, world: World, library: Library, number: int) -> list[dict[str, Any]]:
    """Ask about rendered scenes; return the kind of each question and True if its answer is right."""
    scenes = [world.scene(world.request()) for _ in range(number)]
    images = [Image.fromarray(render(scene, library).round().astype(np.uint8)) for scene in scenes]
    return _ask(studio, scenes, images)


def look_at_drawings(studio: Studio, world: World, number: int, label: str) -> list[dict[str, Any]]:
    """Ask about own drawings after greedy texts; the evaluator's detections are the truth."""
    tasks = [world.request() for _ in range(number)]
    images = [drawing.image for drawing in studio.draw(tasks, studio.write(tasks), label)]
    shown = [(to_scene(seen), image) for seen, image in zip(studio.look(images), images, strict=True) if seen]
    return _ask(studio, [scene for scene, _ in shown], [image for _, image in shown])


def describe_looks(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the share of right answers, all and by kind."""
    right = [one["right"] for one in answers]
    return {"all": share(right), **share_by([one["kind"] for one in answers], right)}


def to_scene(seen: Sequence[Seen]) -> Scene:
    """Return found objects as a scene, each box moved to the nearest cells; its ground and style say nothing."""
    return Scene(tuple(_to_item(one) for one in seen), GROUNDS[0], "near", HORIZONS[0], STYLES[0])


def _to_item(seen: Seen) -> Item:
    x0, y0, x1, y1 = (side / TOKEN for side in seen.box)
    size = min(SIZES, key=lambda word: abs(SIZES[word] - max(x1 - x0, y1 - y0)))
    side = SIZES[size]
    top, left = (min(max(round(middle - side / 2), 0), GRID - side) for middle in ((y0 + y1) / 2, (x0 + x1) / 2))
    return Item(seen.name, seen.color, top, left, size)


def _ask(studio: Studio, scenes: Sequence[Scene], images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    random = np.random.default_rng([SEED, len(scenes)])
    answered: list[dict[str, Any]] = []
    for start in range(0, len(scenes), ROWS):
        batch = scenes[start : start + ROWS]
        asked = [question for scene in batch for question in ask_questions(random, scene, QUESTIONS)]
        shown = [image for image in images[start : start + ROWS] for _ in range(QUESTIONS)]
        sure = studio.model.answer(shown, [question.text for question in asked])
        answered += [
            {"kind": question.kind, "right": (yes > 0.5) == question.truth}
            for question, yes in zip(asked, sure, strict=True)
        ]
    return answered
