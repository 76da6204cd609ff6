"""`python -m training report`: what the embedded model can and cannot do, in figures for its card.

Everything is measured on the shipped folder through milr's own API, as a user would have it. Scenes come from a world
of a seed that training never used; verdicts on drawings come from `icons-judge`, which nothing was optimised for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from milr import load_model, load_reward
from milr.benchmarks.intervals import wilson
from milr.decode.sampling import open_stream
from milr.models.base import ImageRequest, Model, TaskState, TextOutput, TextRequest
from milr.rewards.compbench.spatial import overlap
from milr.rewards.icons.detector import IconDetector
from milr.settings import SamplingParams
from milr.tasks import COLORS, OBJECT_NAMES, Phrase, parse_prompt, write_prompt
from milr.types import ImageSample, Reasoning, Score, Task
from training.detector import SIDE, Encoded, Sampler, VqCoder, psnr
from training.planning import fulfils
from training.scenes import AIR, PLACES, TOKEN, Item, Scene, World, read_forbidden, read_held_out, read_riddles, render
from training.stage import Settings
from training.unified import DESCRIBE
from training.vq import Bank, Library

SEED = 90_000  # of worlds that training never saw
ROWS = 40  # drawings at once
GENERALITY = 1500  # drawings a side, whatever the scale
CONFIDENT = 0.3  # GenEval's threshold of a detection
OVERLAP = 0.3  # least IoU of a found object with its place: icons are smaller than their places


def share(values: Sequence[bool]) -> dict[str, float]:
    """A share with Wilson's 95 % interval, and how many."""
    if not values:
        return {"share": math.nan, "low": math.nan, "high": math.nan, "of": 0}
    mean = float(np.mean(values))
    low, high = wilson(mean, len(values))
    return {"share": round(mean, 4), "low": round(low, 4), "high": round(high, 4), "of": len(values)}


def draw_once(
    model: Model, tasks: Sequence[Task], reasonings: Sequence[Reasoning | None], seed: int
) -> list[ImageSample]:
    """Draw one image for each task, at the model's own guidance."""
    sampling = SamplingParams(guidance=model.settings().sampling.guidance)
    samples: list[ImageSample] = []
    for start in range(0, len(tasks), ROWS):
        rows = range(start, min(start + ROWS, len(tasks)))
        requests = [
            ImageRequest(TaskState(tasks[i]), reasonings[i], open_stream(SEED, f"{i} {tasks[i].key}", seed, 0))
            for i in rows
        ]
        samples += [output.sample for output in model.draw(requests, sampling)]
    return samples


def draw_all(
    model: Model, tasks: Sequence[Task], reasonings: Sequence[Reasoning | None], seed: int
) -> list[Image.Image]:
    """Return the images of `draw_once`."""
    return [sample.image for sample in draw_once(model, tasks, reasonings, seed)]


def write_texts(model: Model, tasks: Sequence[Task]) -> list[TextOutput]:
    """Write each task's greedy reasoning."""
    outputs: list[TextOutput] = []
    for start in range(0, len(tasks), ROWS):
        outputs += model.reason([TextRequest(state) for state in model.start(tasks[start : start + ROWS])])
    return outputs


def reason_all(model: Model, tasks: Sequence[Task]) -> list[Reasoning]:
    """Return the greedy reasoning of each task."""
    return [output.reasoning for output in write_texts(model, tasks)]


def called_right(pictures: Sequence[Image.Image], tasks: Sequence[Task], reward: str = "icons-judge") -> list[bool]:
    """Verdicts of a detector under GenEval's rules."""
    scores = load_reward(reward)(pictures, tasks)
    return [isinstance(score, Score) and score.value > score.stop_at for score in scores]


def by_tag(tasks: Sequence[Task], right: Sequence[bool]) -> dict[str, dict[str, float]]:
    """Shares by tag."""
    tags = list(dict.fromkeys(task.tag or "untagged" for task in tasks))
    return {tag: share([r for r, t in zip(right, tasks, strict=True) if (t.tag or "untagged") == tag]) for tag in tags}


def one_shot(model: Model, tasks: Sequence[Task]) -> dict[str, Any]:
    """First drawings after the greedy reasoning, and from the prompt alone; judged by the judge and by the reward."""
    figures: dict[str, Any] = {}
    for title, reasonings in (("after reasoning", reason_all(model, tasks)), ("plain", [None] * len(tasks))):
        pictures = draw_all(model, tasks, reasonings, seed=1)
        right = called_right(pictures, tasks)
        tags = by_tag(tasks, right)
        figures[title] = {
            "icons-judge": share(right),
            "mean over tags": round(float(np.mean([one["share"] for one in tags.values()])), 4),
            "by tag": tags,
            "icons (the reward)": share(called_right(pictures, tasks, "icons")),
        }
    return figures


def obedience(model: Model, world: World, judge: IconDetector, number: int) -> dict[str, Any]:
    """Does the picture follow the text? Two plans a prompt: every object at its place, in its colour, and no other."""
    tasks, scenes = [], []
    for _ in range(number):
        task = world.request()
        for _ in range(2):
            tasks.append(task)
            scenes.append(world.scene(task))
    pictures = draw_all(model, tasks, [Reasoning(scene.plan, ()) for scene in scenes], seed=2)
    own, other, objects = [], [], []
    for i, found in enumerate(judge.detect(pictures)):
        met = [stands(item, found) for item in scenes[i].items]
        objects += met
        seen = sum(d[4] > CONFIDENT for detections in found.values() for d in detections)
        own.append(all(met) and seen == len(met))
        other.append(all(stands(item, found) for item in scenes[i ^ 1].items))
    return {
        "picture shows its own plan": share(own),
        "picture shows the other plan of its prompt": share(other),
        "objects at their place in their colour": share(objects),
    }


def stands(item: Item, found: dict[str, list[Any]]) -> bool:
    """Whether an object was found at its place, in its colour where it has one."""
    top, left, bottom, right = (side * TOKEN for side in item.box)
    return any(
        score > CONFIDENT
        and overlap((x0, y0, x1, y1), (left, top, right, bottom)) > OVERLAP
        and item.color in (None, color)
        for x0, y0, x1, y1, score, color in found.get(item.name, [])
    )


def plans(model: Model, world: World, number: int) -> dict[str, Any]:
    """Entropy of the reasoning's first fifth, and whether greedy plans fulfil their prompts."""
    tasks = [world.request() for _ in range(number)]
    entropies, named, fulfilled = [], [], []
    for task, output in zip(tasks, write_texts(model, tasks), strict=True):
        first = output.hidden[: max(1, len(output.reasoning.tokens) // 5)]
        logs = torch.log_softmax(model.text_logits(first), dim=-1)
        entropies += (-(logs.exp() * logs).sum(-1) / math.log(2)).tolist()
        named.append(named_objects(output.reasoning.text) == asked_objects(task))
        fulfilled.append(fulfils(output.reasoning.text, task))
    return {
        "bits a token in the first fifth (greedy prefix)": round(float(np.mean(entropies)), 3),
        "greedy plan names what is asked, as often and in its colours": share(named),
        "greedy plan does what is asked, by GenEval's rules": share(fulfilled),
    }


def riddles(model: Model) -> dict[str, Any]:
    """Does the reasoning name what a riddle means? "train" is memory; "wording" and "fact" were never told."""
    tasks = [Task(prompt=riddle.text) for riddle in read_riddles()]
    resolved: dict[str, list[bool]] = {}
    for riddle, reasoning in zip(read_riddles(), reason_all(model, tasks), strict=True):
        right = named_objects(reasoning.text) == [riddle.name]
        resolved.setdefault(riddle.split, []).append(right)
        resolved.setdefault(f"{riddle.split}, {riddle.kind}", []).append(right)
    return {title: share(right) for title, right in sorted(resolved.items())}


def asked_objects(task: Task) -> list[str]:
    """Colour and name of each object that a task asks for, sorted."""
    return sorted(f"{need.color or ''} {need.name}".strip() for need in task.include for _ in range(need.count))


def named_objects(plan: str) -> list[str]:
    """Colour and name of each object of a plan, sorted."""
    words = sorted(PLACES, key=len, reverse=True)
    found: list[str] = []
    for part in plan.split(", ")[:-1]:
        place = next((word for word in words if part.startswith(f"{word} ")), "")
        found.append(part.removeprefix(place).strip().removeprefix("small ").removeprefix("large "))
    return sorted(found)


def looking(
    model: Model, world: World, show: Callable[[list[Scene]], list[Image.Image]], number: int
) -> dict[str, Any]:
    """Yes/no questions, balanced, by kind, about scenes as `show` shows them; and the description, item by item."""
    scenes = [world.scene(world.request()) for _ in range(number)]
    return _ask(model, world, scenes, show(scenes))


def looking_at_drawings(model: Model, world: World, judge: IconDetector, number: int) -> dict[str, Any]:
    """The same about the model's own drawings; the truth is what the judge sees."""
    tasks = [world.request() for _ in range(number)]
    pictures = draw_all(model, tasks, reason_all(model, tasks), seed=3)
    scenes, kept = [], []
    for picture, found in zip(pictures, judge.detect(pictures), strict=True):
        items = [
            Item(name, color, nearest_place(x0 + x1, y0 + y1), "small")
            for name, detections in found.items()
            for x0, y0, x1, y1, score, color in detections
            if score > CONFIDENT
        ]
        if items:
            scenes.append(Scene(tuple(items), "grey"))
            kept.append(picture)
    return _ask(model, world, scenes, kept)


def nearest_place(x: float, y: float) -> str:
    """The place of twice a centre, in pixels."""
    row, column = (min(2, int(3 * value / (2 * SIDE))) for value in (y, x))
    return next(name for name, place in PLACES.items() if place == (row, column))


def _ask(model: Model, world: World, scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> dict[str, Any]:
    kinds: dict[str, list[bool]] = {}
    for start in range(0, len(scenes), ROWS):
        shown, asked = [], []
        for i in range(start, min(start + ROWS, len(scenes))):
            for question in world.questions(scenes[i], 2):
                shown.append(pictures[i])
                asked.append(question)
        answers = model.answer(shown, [question.text for question in asked])
        for question, sure in zip(asked, answers, strict=True):
            kinds.setdefault(question.kind, []).append((sure > 0.5) == question.truth)
    said = model.reply(pictures[:ROWS], [DESCRIBE] * len(pictures[:ROWS]), 96)
    named = [sorted(f"{i.color or ''} {i.name}".strip() for i in scene.items) for scene in scenes[:ROWS]]
    return {
        "all": share([right for kind in kinds.values() for right in kind]),
        **{kind: share(right) for kind, right in sorted(kinds.items())},
        "description names exactly what is there": share(
            [named_objects(text) == n for text, n in zip(said, named, strict=True)]
        ),
    }


def speed(model: Model, world: World) -> dict[str, float]:
    """Seconds a drawing, its reasoning counted, of batches of 8: the median of five after one to warm up."""
    tasks = [world.request() for _ in range(8)]
    taken: list[float] = []
    for turn in range(6):
        begun = time.perf_counter()
        draw_all(model, tasks, reason_all(model, tasks), seed=turn)
        taken.append((time.perf_counter() - begun) / len(tasks))
    return {"seconds": round(float(np.median(taken[1:])), 3), "threads": torch.get_num_threads()}


def generality(model: Model, number: int) -> dict[str, Any]:
    """Combinations held out from all training beside all others of the same forms, `number` drawings a side."""
    held_out = read_held_out()
    colors = [(c, n) for c in COLORS for n in OBJECT_NAMES]
    counts = [(k, n) for k in (2, 3, 4) for n in OBJECT_NAMES]
    random = np.random.default_rng(SEED + 7)
    figures: dict[str, Any] = {}
    for title, unseen in (("held out", True), ("others", False)):
        colored = [write_prompt([Phrase(n, 1, c)]) for c, n in colors if ((c, n) in held_out.colors) is unseen]
        counted = [write_prompt([Phrase(n, k, None)]) for k, n in counts if ((k, n) in held_out.counts) is unseen]
        # As many of each form on both sides as there are held-out ones.
        share_colored = len(held_out.colors) / (len(held_out.colors) + len(held_out.counts))
        many = round(number * share_colored)
        chosen = [*_repeat(colored, many, random), *_repeat(counted, number - many, random)]
        tasks = [parse_prompt(prompt) for prompt in chosen]
        right = called_right(draw_all(model, tasks, reason_all(model, tasks), seed=4), tasks)
        figures[title] = {
            "all": share(right),
            "colour and object": share(right[:many]),
            "count and object": share(right[many:]),
        }
    return figures


def _repeat(prompts: list[str], number: int, random: np.random.Generator) -> list[str]:
    """Each prompt as often as every other one, but for chance in the last round."""
    rounds = [prompts[i] for _ in range(-(-number // len(prompts))) for i in random.permutation(len(prompts))]
    return rounds[:number]


def codebook(bank: Bank, codes: int) -> dict[str, float]:
    """How evenly the tokens of all icons, of every tint and size, use the codebook."""
    shown = np.concatenate([tokens.ravel() for tokens in bank.values()])
    counts = np.bincount(shown[shown != AIR], minlength=codes)
    p = counts[counts > 0] / counts.sum()
    return {
        "codes used": int((counts > 0).sum()),
        "of": codes,
        "perplexity": round(float(np.exp(-(p * np.log(p)).sum())), 1),
    }


def measure(
    settings: Settings, library: Library, bank: Bank, folder: Path, benchmark: Path | None, scale: float
) -> dict[str, Any]:
    """All figures.

    Args:
        settings: Of all stages.
        library: The generator's icons.
        bank: Their tokens.
        folder: Holds the VQ model's checkpoint.
        benchmark: GenEval's `evaluation_metadata.jsonl`; None leaves the one-shot figures out.
        scale: 1 takes a few minutes on two cores; more gives narrower intervals.
    """
    torch.manual_seed(0)
    model = load_model(settings["export"]["folder"], dtype="bfloat16")
    judge = IconDetector.from_folder("icons-judge")
    own = settings["unified"]
    world = World(np.random.default_rng(SEED), read_held_out(), read_forbidden(), **own["world"])
    sampler, coder = Sampler(library), VqCoder(settings, library, folder)

    def rendered(scenes: list[Scene]) -> list[Image.Image]:
        return [Image.fromarray(render(scene, library).round().astype(np.uint8)) for scene in scenes]

    many = lambda number: max(8, round(number * scale))  # noqa: E731
    figures: dict[str, Any] = {
        "scenes through codes and decoder, dB": round(psnr(coder, sampler, many(64)), 2),
        "scenes through encoder and decoder, dB": round(psnr(Encoded(coder, sampler), sampler, many(64)), 2),
        "codebook": codebook(bank, settings["vq"]["codebook"]),
        "plans": plans(model, world, many(120)),
        "obedience": obedience(model, world, judge, many(60)),
        "looking at scenes": looking(model, world, rendered, many(160)),
        "looking at own drawings": looking_at_drawings(model, world, judge, many(480)),
        "a drawing at batch 8": speed(model, world),
        "riddles resolved in the text": riddles(model),
        "generality": generality(model, GENERALITY),
    }
    if benchmark is not None:
        tasks = [Task.model_validate_json(line) for line in benchmark.read_text().splitlines()]
        order = np.random.default_rng(SEED).permutation(len(tasks))[: many(180)]
        figures["one shot"] = one_shot(model, [tasks[i] for i in sorted(order)])
    return figures
