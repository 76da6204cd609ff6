"""A detector's scores: its detections compared with labels, and the calibration that gives a score its meaning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from milr.rewards.geneval.rules import Detection
from milr.rewards.icons.detector import DetectorConfig, IconDetector
from milr.tasks import OBJECT_NAMES
from training.coders import Coder, Encoded, VqCoder
from training.damage import coded_images
from training.layouts import IGNORE, Sampler
from training.stage import log

KINDS = ("rendered", "coded", "damaged", "encoded")
"""Kinds of images: rendered; by codes and decoder; the same with codes exchanged; by the encoder as well."""
_CHUNK = 32  # images made at once
_EVEN = math.log(0.3 / 0.7)  # logit of the score at which correct and wrong are equally likely
_COUNTED = math.log(0.9 / 0.1)  # logit of the score that a counted object needs


def fresh_images(sampler: Sampler, coder: VqCoder, seed: int, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return images and labels, ``number`` of each kind of `KINDS`, that depend on the seed only."""
    random = np.random.default_rng([seed, 2])
    layouts = [sampler.layout(random) for _ in range(number)]
    rendered = np.stack([sampler.draw(layout) for layout in layouts])
    sets = [(rendered, np.stack([sampler.labels(layout) for layout in layouts]))]
    kinds: list[tuple[Coder, float]] = [(coder, 0.0), (coder, 1.0), (Encoded(coder, sampler), 0.0)]
    for made_by, damaged in kinds:
        sizes = [min(_CHUNK, number - start) for start in range(0, number, _CHUNK)]
        chunks = [coded_images(sampler, made_by, random, size, damaged) for size in sizes]
        sets.append((np.concatenate([images for images, _ in chunks]), np.concatenate([rows for _, rows in chunks])))
    return sets


def match(
    seen: dict[str, list[Detection]], labels: np.ndarray
) -> tuple[list[tuple[Detection, bool, int]], list[float]]:
    """Compare one image's detections with its labels.

    Returns:
        (detection, True if class and place are correct, label row or -1) of all but those on ignored places, and the
        score of each labelled object's detection, 0 for a missed one.
    """
    rows = [row for row in labels if row[0] >= 0]
    ignored = [row for row in labels if row[0] == IGNORE]
    best = [0.0] * len(rows)
    results: list[tuple[Detection, bool, int]] = []
    flat = sorted(((d, name) for name, found in seen.items() for d in found), key=lambda item: -item[0][4])
    for detection, name in flat:
        if any(iou(detection, row) > 0.3 for row in ignored):
            continue
        index = next(
            (
                i
                for i, row in enumerate(rows)
                if OBJECT_NAMES[int(row[0])] == name and not best[i] and iou(detection, row) > 0.5
            ),
            -1,
        )
        if index >= 0:
            best[index] = detection[4]
        results.append((detection, index >= 0, index))
    return results, best


def iou(detection: Detection, row: np.ndarray) -> float:
    """Return the intersection over union of a detection's and a label's box."""
    x0, y0, x1, y1 = detection[:4]
    a0, b0, a1, b1 = row[1:5]
    shared = max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
    return float(shared / max((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - shared, 1e-6))


def calibrate(detector: IconDetector, own: dict[str, Any], sampler: Sampler, coder: VqCoder) -> IconDetector:
    """Calibrate by Platt scaling on fresh images, then stretch the scores so that GenEval's thresholds have a meaning.

    A score of 0.3 stands for even chances that a detection is correct, one of 0.9 (counting) for the probability
    ``own["sure"]``.
    """
    raw = IconDetector(detector.network, replace_config(detector.config, slope=1.0, offset=0.0, least=0.01))
    points: list[tuple[float, bool]] = []
    for images, labels in fresh_images(sampler, coder, own["seed"] + 1, own["calibration_images"]):
        for seen, rows in zip(raw.detect([Image.fromarray(image) for image in images]), labels, strict=True):
            points += [(detection[4], correct) for detection, correct, _ in match(seen, rows)[0]]
    slope, offset = fit_platt(points)
    log("detector-calibration", points=len(points), slope=slope, offset=offset)
    stretch = (_COUNTED - _EVEN) / math.log(own["sure"] / (1 - own["sure"]))
    config = replace_config(detector.config, slope=stretch * slope, offset=stretch * offset + _EVEN, least=0.05)
    return IconDetector(detector.network, config)


def fit_platt(points: list[tuple[float, bool]]) -> tuple[float, float]:
    """Return slope and offset of the logit that make scores the probabilities that their detections are correct."""
    kept = [(score, correct) for score, correct in points if score < 1 - 1e-12]
    x = np.array([math.log(score / (1 - score)) for score, _ in kept])
    y = np.array([float(correct) for _, correct in kept])
    parameters = np.array([1.0, 0.0])
    design = np.stack([x, np.ones_like(x)], 1)
    for _ in range(50):  # Newton's method on the log likelihood
        p = 1 / (1 + np.exp(-(parameters[0] * x + parameters[1])))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        parameters -= np.linalg.solve(hessian, design.T @ (p - y))
    return float(parameters[0]), float(parameters[1])


def replace_config(config: DetectorConfig, slope: float, offset: float, least: float) -> DetectorConfig:
    """Return the config with other score settings."""
    return config.model_copy(update={"score_slope": slope, "score_offset": offset, "least_score": least})
