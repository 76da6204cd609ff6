"""Figures of a detector: on fresh images, and on pairs of a prompt and a scene that matches it or has one fault."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from milr.rewards.geneval.rules import Detection, apply_rules
from milr.rewards.icons.detector import IconDetector
from milr.tasks import COLORS, OBJECT_NAMES
from milr.types import Task
from training.calibration import KINDS, fresh_images, iou, match
from training.coders import Coder, Encoded, PixelCoder, VqCoder
from training.grounds import CAMERAS, GROUNDS, HORIZONS, ground_codes, ground_pixels
from training.layouts import MIXED, UNKNOWN, Layout, Sampler, to_layout
from training.prompt_lists import HeldOut
from training.questions import OPPOSITE
from training.scenes import Library, Scene
from training.stage import Settings
from training.world import World

_CHUNK = 32  # images made at once
_MOST_COUNTED = 4  # objects of the largest count that a prompt asks for


@dataclass(frozen=True)
class Pair:
    """A prompt and the layout of a scene."""

    task: Task
    layout: Layout
    matching: bool
    kind: str
    """The task's tag, or what is wrong."""


def report(settings: Settings, name: str, library: Library, folder: Path) -> dict[str, Any]:
    """Return figures on images of the generator's icons that neither training nor calibration saw."""
    own = settings["critics"][name]
    sampler = Sampler(library)
    coder = VqCoder(settings, library, folder)
    detector = IconDetector.from_folder(folder / name)
    sets = fresh_images(sampler, coder, own["seed"] + 2, own["report_images"])
    figures: dict[str, Any] = {
        kind: detection_figures(detector, images, labels) for kind, (images, labels) in zip(KINDS, sets, strict=True)
    }
    figures["objects seen in images that show nothing"] = count_false_objects(detector)
    pairs, skipped = make_pairs(sampler, np.random.default_rng([own["seed"], 3]), own["report_pairs"])
    figures["pairs"] = {"left out, because the labels themselves are judged otherwise": skipped}
    coders: dict[str, Coder] = {"rendered": PixelCoder(sampler), "coded": coder, "encoded": Encoded(coder, sampler)}
    for title, made_by in coders.items():
        figures["pairs"][title] = pair_figures(detector, pairs, made_by)
    return figures


def make_pairs(sampler: Sampler, random: np.random.Generator, number: int) -> tuple[list[Pair], dict[str, int]]:
    """Sample pairs.

    Args:
        sampler: Labels the layouts.
        random: The source of chance.
        number: Number of matching pairs, and of pairs with one fault.

    Returns:
        The pairs, and how many were left out of each kind, because their labels are judged otherwise.
    """
    world = World(random, HeldOut(frozenset(), frozenset()), frozenset())
    pairs: list[Pair] = []
    skipped = {"matching": 0, "one fault": 0}
    for matching in (True, False):
        while sum(pair.matching is matching for pair in pairs) < number:
            task = world.request()
            scene, kind = world.scene(task), task.tag or "other"
            if not matching:
                changed = wrong_scene(world, task, scene)
                if changed is None:
                    continue
                kind, scene = changed
            layout = to_layout(scene)
            if apply_rules(truth(sampler, layout), task).correct is matching:
                pairs.append(Pair(task, layout, matching, kind))
            else:
                skipped["matching" if matching else "one fault"] += 1
    return pairs, skipped


def wrong_scene(world: World, task: Task, scene: Scene) -> tuple[str, Scene] | None:
    """Return a scene with exactly one fault and the fault's kind; None if this scene cannot have that fault."""
    random = world.random
    kinds = ["object", "count"]
    kinds += ["color"] * any(r.color for r in task.include) + ["relation"] * any(r.position for r in task.include)
    kind = str(random.choice(kinds))
    asked = {r.name for r in task.include}
    items = list(scene.items)
    index = int(random.integers(len(items)))
    if kind == "object":
        absent = [name for name in OBJECT_NAMES if name not in asked]
        items[index] = replace(items[index], name=str(random.choice(absent)))
    elif kind == "color":
        index = int(random.choice([i for i, item in enumerate(items) if item.color]))
        others = [color for color in COLORS if color != items[index].color]
        items[index] = replace(items[index], color=str(random.choice(others)))
    elif kind == "count":
        if task.tag == "counting" and len(items) < _MOST_COUNTED and random.random() < 0.5:
            need = task.include[0].model_copy(update={"count": len(items) + 1})
            return kind, world.scene(task.model_copy(update={"include": (need,)}))
        del items[index]
    else:
        turned = tuple(
            r.model_copy(update={"position": (OPPOSITE[r.position[0]], r.position[1])}) if r.position else r
            for r in task.include
        )
        return kind, world.scene(task.model_copy(update={"include": turned}))
    return kind, replace(scene, items=tuple(items))


def truth(sampler: Sampler, layout: Layout) -> dict[str, list[Detection]]:
    """Return the detections of a perfect detector."""
    seen: dict[str, list[Detection]] = {}
    for name, x0, y0, x1, y1, color in sampler.labels(layout)[: len(layout.placed)].tolist():
        label = COLORS[int(color)] if 0 <= color < MIXED else None
        seen.setdefault(OBJECT_NAMES[int(name)], []).append((x0, y0, x1, y1, 1.0, label))
    return seen


def pair_figures(detector: IconDetector, pairs: Sequence[Pair], coder: Coder) -> dict[str, Any]:
    """Return the shares of pairs that a detector calls correct, with images by a coder."""
    verdicts: list[bool] = []
    for start in range(0, len(pairs), _CHUNK):
        part = pairs[start : start + _CHUNK]
        images = coder.images(coder.tokens([pair.layout for pair in part]))
        found = detector.detect([Image.fromarray(image) for image in images])
        verdicts += [apply_rules(seen, pair.task).correct for seen, pair in zip(found, part, strict=True)]
    by_kind: dict[str, list[bool]] = {}
    for verdict, pair in zip(verdicts, pairs, strict=True):
        by_kind.setdefault(("matching: " if pair.matching else "one fault: ") + pair.kind, []).append(verdict)
    shares = {
        matching: float(np.mean([v for v, pair in zip(verdicts, pairs, strict=True) if pair.matching is matching]))
        for matching in (True, False)
    }
    return {
        "called correct, of matching pairs": shares[True],
        "called correct, of pairs with one fault": shares[False],
        "by kind": {kind: f"{sum(given)}/{len(given)}" for kind, given in sorted(by_kind.items())},
    }


def count_false_objects(detector: IconDetector) -> int:
    """Count objects with a score over 0.3 in images of one colour, of noise and of a ground alone."""
    random = np.random.default_rng(0)
    plain = [np.broadcast_to(np.array(color), (64, 64, 3)) for color in np.ndindex(2, 2, 2)]
    images = [255 * image for image in plain] + [np.full((64, 64, 3), level) for level in (64, 128, 192)]
    images += [random.integers(0, 256, (size, size, 3)) for size in (64, 128, 160, 256)]
    images += [ground_pixels(ground_codes(ground, camera, HORIZONS[0])) for ground in GROUNDS for camera in CAMERAS]
    found = detector.detect([Image.fromarray(image.astype(np.uint8)) for image in images])
    return sum(detection[4] > 0.3 for seen in found for several in seen.values() for detection in several)


def detection_figures(detector: IconDetector, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return recall and precision at both of GenEval's thresholds, and how well colours and boxes agree."""
    found: list[float] = []
    scored: list[tuple[float, bool]] = []
    colors: list[bool] = []
    overlaps: list[float] = []
    missed: dict[str, int] = {}
    for seen, rows in zip(detector.detect([Image.fromarray(image) for image in images]), labels, strict=True):
        results, best = match(seen, rows)
        real = [row for row in rows if row[0] >= 0]
        found += best
        for score, row in zip(best, real, strict=True):
            if score <= 0.3:
                missed[OBJECT_NAMES[int(row[0])]] = missed.get(OBJECT_NAMES[int(row[0])], 0) + 1
        for detection, correct, index in results:
            scored.append((detection[4], correct))
            if correct and real[index][5] != UNKNOWN and detection[4] > 0.3:
                wanted = int(real[index][5])
                colors.append(detection[5] == (COLORS[wanted] if wanted < MIXED else None))
                overlaps.append(iou(detection, real[index]))
    figures: dict[str, Any] = {"objects": len(found)}
    for limit in (0.3, 0.9):
        kept = [correct for score, correct in scored if score > limit]
        figures[f"recall at {limit}"] = float(np.mean(np.array(found) > limit))
        figures[f"precision at {limit}"] = float(np.mean(kept or [math.nan]))
        figures[f"false ones an image at {limit}"] = kept.count(False) / len(images)
    figures["correct just above 0.3 (to 0.5)"] = float(
        np.mean([correct for score, correct in scored if 0.3 < score <= 0.5] or [math.nan])
    )
    figures["color accuracy"] = float(np.mean(colors or [math.nan]))
    figures["mean IoU"] = float(np.mean(overlaps or [math.nan]))
    figures["missed most"] = dict(sorted(missed.items(), key=lambda item: -item[1])[:8])
    return figures
