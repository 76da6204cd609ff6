"""Default temperature and guidance beside a sweep of both; and the seconds of a search step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from milr.decode.sampling import open_stream
from milr.models.base import ImageRequest, Model, TextRequest
from milr.types import Reasoning, Task
from training.properties.shares import Figure, difference, share
from training.properties.studio import SEED, Studio
from training.world import World

TEMPERATURES = (0.7, 0.85, 1.0, 1.15, 1.3)
"""As shares of the model's own temperature."""
GUIDANCES = (0.5, 1.0, 1.5, 2.0)
"""As shares of the model's own weight."""
BATCH = 32  # searches of the step that is timed
_REPEATS = 3
_TEXT_LATENTS = 0.2  # share of the text that comes from latents, as in the paper


def grid_points(studio: Studio) -> list[tuple[float, float]]:
    """Return temperature and guidance of each point, the model's own first."""
    own = studio.sampling
    points = [(round(own.temperature * t, 4), round(own.guidance * g, 4)) for t in TEMPERATURES for g in GUIDANCES]
    return list(dict.fromkeys([(own.temperature, own.guidance), *points]))


def draw_point(
    studio: Studio, tasks: Sequence[Task], texts: Sequence[str], point: tuple[float, float], label: str
) -> list[bool]:
    """Return the verdicts on one drawing for each task; all points have the same texts and random numbers."""
    temperature, guidance = point
    sampling = studio.sampling.model_copy(update={"temperature": temperature, "guidance": guidance})
    drawn = studio.draw(tasks, [Reasoning(text, ()) for text in texts], label, sampling=sampling)
    return [drawing.right for drawing in drawn]


def describe_sweep(points: Sequence[tuple[float, float]], right: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Return every point's share, and the first point's minus the best one's, paired.

    The best of many points is good by chance as well, so the difference overstates what is lost.
    """
    shares = [_describe_point(*one) for one in zip(points, right, strict=True)]
    best = max(range(len(points)), key=lambda i: shares[i]["value"])
    return {
        "default": shares[0],
        "best": shares[best],
        "default minus best": _subtract(right[0], right[best]),
        "points": shares,
    }


def describe_check(points: Sequence[tuple[float, float]], right: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Return the default's share minus the best point's, on drawings that did not choose the best point.

    Args:
        points: The default and the best point of the sweep.
        right: The verdicts on new drawings of each.
    """
    default, best = (_describe_point(*one) for one in zip(points, right, strict=True))
    return {"default": default, "best of the sweep": best, "default minus best of the sweep": _subtract(*right)}


def _describe_point(point: tuple[float, float], right: Sequence[bool]) -> Figure:
    return {"temperature": point[0], "guidance": point[1], **share(right)}


def _subtract(first: Sequence[bool], second: Sequence[bool]) -> Figure:
    return difference([float(a) - float(b) for a, b in zip(first, second, strict=True)])


def time_step(model: Model, world: World) -> dict[str, Any]:
    """Return the CPU seconds of a search step of a batch on one core: its text, its image tokens, their pixels.

    The prompts are cached, as in a search. A fifth of each text is given, as if it came from latents; the rest of the
    text and the whole image are new. Each number is the median of some repeats after one to warm up.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _time_step(model, [world.request() for _ in range(BATCH)])
    finally:
        torch.set_num_threads(threads)


def _time_step(model: Model, tasks: Sequence[Task]) -> dict[str, Any]:
    sampling = model.settings("one-shot").sampling
    states = model.start(tasks)
    first = model.reason([TextRequest(state) for state in states])
    taken: dict[str, list[float]] = {"text": [], "image": [], "pixels": []}
    for turn in range(_REPEATS + 1):

        def stream(number: int, purpose: str, turn: int = turn) -> torch.Generator:
            return open_stream(SEED, f"step {number}", 0, turn, purpose)

        texts = _clock(
            taken["text"],
            lambda stream=stream: model.reason(
                [
                    TextRequest(state, one.tokens[: int(_TEXT_LATENTS * len(one.tokens))], stream=stream(i, "text"))
                    for i, (state, one) in enumerate(zip(states, first, strict=True))
                ]
            ),
        )
        drawn = _clock(
            taken["image"],
            lambda texts=texts, stream=stream: model.draw(
                [
                    ImageRequest(state, text.reasoning, stream(i, "image"))
                    for i, (state, text) in enumerate(zip(states, texts, strict=True))
                ],
                sampling,
            ),
        )
        _clock(
            taken["pixels"],
            lambda drawn=drawn: model.draw(
                [
                    ImageRequest(state, None, stream(i, "image"), tokens=one.sample.tokens)
                    for i, (state, one) in enumerate(zip(model.start(tasks), drawn, strict=True))
                ],
                sampling,
            ),
        )
    text, image, pixels = (round(median(times[1:]), 3) for times in taken.values())
    return {
        "seconds": round(text + image, 3),
        "text": text,
        "image tokens": round(image - pixels, 3),
        "pixels": pixels,
        "batch": BATCH,
    }


def _clock(times: list[float], work: Callable[[], Any]) -> Any:
    begun = time.process_time()
    found = work()
    times.append(time.process_time() - begun)
    return found
