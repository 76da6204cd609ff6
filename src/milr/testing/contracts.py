"""The contracts of models, rewards, methods and benchmarks as checks, for authors of new ones.

Three lines are a test::

    from milr.testing.contracts import check_reward

    def test_contract() -> None:
        check_reward("my-reward")

milr's own pass the same checks. Nothing is fetched; a reward that asks a server is checked with the server in its
settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydantic import TypeAdapter
from pydantic_core import to_json

from milr.benchmarks import load_benchmark
from milr.benchmarks.base import Answer, Benchmark
from milr.benchmarks.layouts import LAYOUTS
from milr.benchmarks.tables import summarise
from milr.decode.sampling import open_stream
from milr.decode.tensors import to_integers
from milr.errors import MilrError, UsageError
from milr.methods import load_method
from milr.methods.context import Method
from milr.methods.runner import Runner
from milr.models import find_source, load_model, read_capabilities
from milr.models.base import Capabilities, ImageOutput, ImageRequest, Model, TextOutput, TextRequest
from milr.rewards import check_reward as check_reward_name
from milr.rewards import check_scorable, load_reward
from milr.rewards.base import (
    Candidate,
    ComparingReward,
    Reward,
    RewardError,
    RewardFunction,
    WaitingReward,
    check_scores,
    make_reward,
)
from milr.settings import SamplingParams, make_settings
from milr.tasks import parse_prompt, tasks_from_prompts
from milr.testing.fakes import FakeModel, FakeReward, brightness
from milr.types import Score, StepRecord, Task, Unscored, order

PROMPTS = ("a photo of a red apple", "a photo of two dogs", "a photo of a cat left of a clock")
ODD_SIZES = ((1, 1), (4000, 10), (0, 5))
ODD_MODES = ("CMYK", "RGBA", "P", "L", "1", "I;16")
_ROUNDING = 1  # levels of 255 by which a decoder may round otherwise in a batch


class ContractError(AssertionError):
    """The error for a broken contract; the message says what was found and what was expected."""


def check_reward(
    reward: str | Reward | RewardFunction,
    *,
    tasks: Sequence[Task] | None = None,
    images: Sequence[Image.Image] | None = None,
    odd_images: bool = True,
    **options: object,
) -> None:
    """Check a reward: one score per image, the same in any batch, for any image.

    Args:
        reward: A name, as `milr.load_reward` takes it, or the reward itself.
        tasks: The task for which it scores images; None takes three prompts of icons with an explanation.
        images: One per task; None draws coloured shapes.
        odd_images: Show it images without pixels, of one pixel and of rare modes too: those must be scored or
            `Unscored`, never raise.
        options: For `milr.load_reward`: model, vlm, settings of the reward.

    Raises:
        ContractError: The contract is not kept.
    """
    made = load_reward(reward, **options) if isinstance(reward, str) else make_reward(reward)  # pyright: ignore
    _require(made.name.strip() != "", f"name is {made.name!r}: give it a name")
    _require(0 < made.stop_at <= 1, f"stop_at is {made.stop_at}: a score is in [0, 1]")
    tasks = tasks or [parse_prompt(prompt).model_copy(update={"explanation": prompt}) for prompt in PROMPTS]
    images = images or [_draw_shapes(number) for number in range(len(tasks))]
    before = [image.tobytes() for image in images]
    batch = _score(made, images, tasks)
    _require(before == [image.tobytes() for image in images], f"{made.name} changes the images that it is given")
    _require(_score(made, [], []) == [], f"{made.name} returns scores for no images")
    _require(batch == _score(made, images, tasks), f"{made.name} scores the same images otherwise a second time")
    alone = [_score(made, [image], [task])[0] for image, task in zip(images, tasks, strict=True)]
    _require(batch == alone, f"{made.name} scores an image otherwise beside others than alone")
    backwards = _score(made, images[::-1], tasks[::-1])[::-1]
    _require(batch == backwards, f"the scores of {made.name} depend on the order of the images")
    if isinstance(made, WaitingReward):
        begun = check_scores(made, made.begin(images, tasks)(), len(images))
        _require(batch == begun, f"begin of {made.name} gives other scores than a call")
    for image, score in zip(images, batch, strict=True):
        _check_score(made, score, image)
    if isinstance(made, ComparingReward):
        _check_comparing(made, images, tasks, batch)
    for image in _odd() if odd_images else ():
        said = f"an image of {image.width} x {image.height} pixels, mode {image.mode}"
        try:
            (score,) = _score(made, [image], tasks[:1])
        except MilrError:
            raise
        except Exception as error:
            raise ContractError(
                f"{made.name} raises {type(error).__name__} ({error}) for {said}: return milr.Unscored with the reason"
            ) from error
        _check_score(made, score, image)


def check_model(model: str | Model, *, prompts: Sequence[str] = PROMPTS[:2], **options: Any) -> None:
    """Check a model: its declarations, texts and images, alone and in a batch.

    Args:
        model: A name, as `milr.load_model` takes it, or the model itself.
        prompts: Prompts that it reads.
        options: For `milr.load_model`: device, dtype, profile.

    Raises:
        ContractError: The contract is not kept.
    """
    if isinstance(model, str):
        declared, model = read_capabilities(find_source(model)), load_model(model, **options)
        _require(model.capabilities == declared, "the model's capabilities are not those known before it is loaded")
    able = model.capabilities
    tasks = tasks_from_prompts(prompts, free=model.reads_free_prompts)
    settings = model.settings("best-of-n", steps=3)
    _require(settings.get("steps") == 3 and settings.method == "best-of-n", "settings() leaves changes out")
    states = model.start(tasks)
    _require([state.task for state in states] == tasks, "start() returns one state per task, in order")
    texts: list[TextOutput] = []
    if able.writes_text:
        texts = model.reason([TextRequest(state, stream=_stream(model)) for state in states])
    for state, text in zip(states, texts, strict=bool(texts)):
        _check_text(model, text)
        (again,) = model.reason([TextRequest(model.start([state.task])[0], stream=_stream(model))])
        _require(again.tokens == text.tokens, f"the text of {state.task.prompt!r} depends on the batch")
        begun = TextRequest(state, prefix=text.tokens[:1], stream=_stream(model))
        _require(model.reason([begun])[0].tokens[:1] == text.tokens[:1], "a text leaves out its given beginning")
    sampling = settings.sampling
    keep = 2 if able.has_latents("image") else 0
    requests = [
        ImageRequest(
            state, texts[number].reasoning if texts else None, open_stream(0, "contract", number, 0), keep_hidden=keep
        )
        for number, state in enumerate(states)
    ]
    drawn = model.draw(requests, sampling)
    _require(len(drawn) == len(requests), "draw() returns one image per request, in order")
    for request, output in zip(requests, drawn, strict=True):
        _check_image(able, output)
        if not able.repeatable:
            continue
        (again,) = model.draw([replace(request, state=model.start([request.state.task])[0])], sampling)
        same = again.sample.tokens == output.sample.tokens
        _require(same, f"the image of {request.state.task.prompt!r} depends on the batch, or on what was drawn before")
        first, second = (np.asarray(one.sample.image, np.int16) for one in (output, again))
        apart = int(np.abs(first - second).max())
        what = "the same tokens decode to" if able.image_tokens else "the same request gives"
        _require(apart <= _ROUNDING, f"{what} images that differ by {apart} levels, alone and beside others")
    if able.repeatable and not able.image_tokens:
        (other,) = model.draw([replace(requests[0], stream=open_stream(1, "contract", 0, 0))], sampling)
        _require(other.sample.image != drawn[0].sample.image, "another stream gives the same image")
    if able.image_tokens:
        _check_given(model, requests[0], drawn[0], sampling)
    if able.has_latents("image"):
        _check_offsets(model, requests[0], sampling)
    _check_heads(model, texts[0] if texts else None, drawn[0], sampling.guidance)
    if able.reads_images:
        shown = [output.sample.image for output in drawn]
        chances = model.answer(shown, ["Is it red?"] * len(shown))
        fine = len(chances) == len(shown) and all(math.isnan(one) or 0 <= one <= 1 for one in chances)
        _require(fine, f"answer() returned {chances}: one p(yes) in [0, 1] per image, or NaN")
        replies = model.reply(shown, ["What is it?"] * len(shown), 8)
        _require(len(replies) == len(shown), "reply() returns one text per image")


def check_method(method: str | Method, **settings: object) -> None:
    """Check a method with milr's fake model and fake rewards.

    The method must draw whole images, keep the best one, stay within its limits, and continue if an image cannot be
    scored. A task must get the same images beside other tasks, and when it is repeated.

    Args:
        method: A name, as `milr.load_method` takes it, or the method itself.
        settings: For it; small ones make the check fast.

    Raises:
        ContractError: The contract is not kept.
    """
    made = load_method(method) if isinstance(method, str) else method
    tasks = tasks_from_prompts(["a red cat", "two dogs", "a big tree"], free=True)
    never: dict[str, object] = {"stop_at": 1.0, **settings}
    whole = _run(made, tasks, never)
    alone = [record for task in tasks for record in _run(made, [task], never)]
    _require(_shown(whole) == _shown(alone), f"what {made.name} draws for a task depends on its neighbours")
    _require(_shown(whole) == _shown(_run(made, tasks, never)), f"{made.name} draws something else a second time")
    for index in range(len(tasks)):
        records = [record for record in whole if record.index == index]
        _require(bool(records), f"{made.name} ends without a whole image")
        _require([one.step for one in records] == list(range(len(records))), "a task's steps are 0, 1, 2, ...")
        best = max(order(score) for record in records for score in record.scores)
        _require(order(records[-1].best_score) == best, "the best image is not the task's answer")
        _require(records[-1].finished is not None, "a task's last record says why it ended")
        spent = [record.drawings_spent for record in records]
        _require(all(a <= b for a, b in pairwise(spent)) and spent[0] > 0, "what is drawn is not counted")
        most = make_settings(made.name, settings, declared=made.settings).own.most_drawings
        _require(spent[-1] <= most + 1e-9, f"{made.name} draws {spent[-1]:g} images, and says at most {most}")
    first = _run(made, tasks, {**settings, "stop_at": 0.0})
    _require(
        all(one.finished == "met" for one in first if one.step == 0), f"{made.name} goes on after its reward is met"
    )
    capped = _run(made, tasks, {**never, "max_drawings": 1})
    fine = all(record.drawings_spent <= 1 + 1e-9 for record in capped)
    _require(fine, f"{made.name} draws more than max_drawings allows")
    down = _run(made, tasks, never, FakeReward(unscored_calls=range(1, 100, 2)))
    _require(len({record.index for record in down}) == len(tasks), f"{made.name} loses tasks where a reward is down")
    try:
        make_settings(made.name, {"no_such_setting": 1}, declared=made.settings)
    except UsageError:
        pass
    else:
        raise ContractError(f"{made.name} takes settings that it does not read: its model must forbid extra fields")
    try:
        _run(made, tasks, never, make_reward(lambda images, tasks: []))
    except RewardError:
        pass
    else:
        raise ContractError(f"{made.name} goes on with a reward that returns no scores")


def check_benchmark(benchmark: str | Benchmark, *, data: Any = None) -> None:
    """Check a benchmark: its tasks, tags, weights, default evaluator and table.

    Args:
        benchmark: A name, as `milr.benchmarks.load_benchmark` takes it, or the benchmark itself.
        data: Folder of its files, for `Benchmark.read`.

    Raises:
        ContractError: The contract is not kept.
    """
    made = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    tasks = made.read(data)
    _require(bool(tasks), f"{made.name} has no tasks")
    _require(tasks == made.read(data), f"{made.name} lists other tasks, or another order, when it is read again")
    counts = {tag: sum(task.tag == tag for task in tasks) for tag in made.columns}
    _require(counts == dict(made.columns), f"columns say {dict(made.columns)}, and the tasks' tags are {counts}")
    _require(len(tasks) == made.prompts, f"{made.name} has tasks with tags that are none of its columns")
    _require(set(made.weights) == set(made.columns), "weights and columns have other tags")
    _require(math.isclose(sum(made.weights.values()), 1), f"weights add up to {sum(made.weights.values())}, not to 1")
    _require(made.layout is None or made.layout in LAYOUTS, f"no layout {made.layout!r}; known: {', '.join(LAYOUTS)}")
    check_reward_name(made.reward)
    check_scorable(made.reward, tasks)
    table = summarise(made, [Answer(task, place, 0, 1.0) for place, task in enumerate(tasks)])
    fine = table.overall is not None and math.isclose(table.overall.mean, 1)
    _require(fine, "a benchmark whose images are all right has an overall score of 1")


def _require(kept: bool, message: str) -> None:
    if not kept:
        raise ContractError(message)


def _score(reward: Reward, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
    return check_scores(reward, reward(images, tasks), len(images))


def _check_score(reward: Reward, score: Score | Unscored, image: Image.Image) -> None:
    _require(score.reward == reward.name, f"a score says it is by {score.reward!r}, and the reward is {reward.name!r}")
    _require(score.cost >= 0, f"a score costs {score.cost} US dollars")
    if isinstance(score, Unscored):
        fine = score.reason.strip() != "" and "\n" not in score.reason
        _require(fine, f"the reason of an unscored image is one line of words, not {score.reason!r}")
        return
    _require(0 < score.stop_at <= 1, f"a score's stop_at is {score.stop_at}")
    odd = {name: part for name, part in score.parts.items() if not 0 <= part <= 1}
    _require(not odd, f"parts are in [0, 1], and {odd} are not")
    for region in score.regions:
        x0, y0, x1, y1 = region.box
        inside = -1 <= x0 <= x1 <= image.width + 1 and -1 <= y0 <= y1 <= image.height + 1
        _require(inside, f"the region {region} is outside the image of {image.width} x {image.height} pixels")
    kept = TypeAdapter(Score).validate_json(to_json(score, fallback=str))
    _require((kept.value, kept.regions) == (score.value, score.regions), "a score is another one when it was stored")


def _check_comparing(
    reward: ComparingReward, images: Sequence[Image.Image], tasks: Sequence[Task], scores: Sequence[Score | Unscored]
) -> None:
    seen = [
        Candidate(image, tasks[0], score)
        for image, score in zip(images, scores, strict=True)
        if isinstance(score, Score)
    ]
    for a, b in pairwise(seen):
        there, back = reward.compare(a, b), reward.compare(b, a)
        _require((there > 0) == (back < 0) and (there < 0) == (back > 0), "compare(a, b) and compare(b, a) disagree")
        _require(reward.compare(a, a) == 0, "compare(a, a) is not 0")


def _odd() -> list[Image.Image]:
    return [
        *(Image.new("RGB", size, "red") for size in ODD_SIZES),
        *(Image.new(mode, (40, 30)) for mode in ODD_MODES),
    ]


def _draw_shapes(number: int) -> Image.Image:
    image = Image.new("RGB", (128, 128), "white")
    pen = ImageDraw.Draw(image)
    draw: Callable[..., None] = (pen.ellipse, pen.rectangle)[number % 2]
    draw((20 + 9 * number, 30, 70 + 9 * number, 90), fill=("red", "blue", "green")[number % 3])
    return image


def _stream(model: Model) -> torch.Generator | None:
    return open_stream(0, "contract", 0, 0, "text") if model.text_temperature else None


def _check_text(model: Model, text: TextOutput) -> None:
    width, latents = model.capabilities.width, model.capabilities.latents in ("text", "both")
    shape, wanted = tuple(text.hidden.shape), (len(text.tokens), width)
    _require(not latents or shape == wanted, f"a text's hidden states are {shape}, not (T, d) = {wanted}")
    _require(text.hidden.dtype == torch.float32, f"a text's hidden states are {text.hidden.dtype}, not float32")
    own = text.tokens[: len(text.reasoning.tokens)]
    fine = own == text.reasoning.tokens and len(text.tokens) - len(own) <= 1
    _require(fine, "a text's tokens are its reasoning's, and the end-of-sequence token if it ended by itself")
    spelled = "".join(model.spell(text.reasoning.tokens)).strip()
    _require(spelled == text.reasoning.text.strip(), f"spell() gives {spelled!r} for {text.reasoning.text!r}")


def _check_image(able: Capabilities, output: ImageOutput) -> None:
    sample, size = output.sample, able.dimensions
    _require(
        len(sample.tokens) == able.image_tokens, f"an image has {len(sample.tokens)} tokens, not {able.image_tokens}"
    )
    _require(sample.image.size == size, f"an image has {sample.image.size} pixels, not {size}")
    _require(sample.image.mode == "RGB", f"an image's mode is {sample.image.mode}, not RGB")
    if able.has_latents("image"):
        shape, wanted = None if output.hidden is None else tuple(output.hidden.shape), (2, able.branches, able.width)
        _require(
            shape == wanted, f"two hidden states were to be kept, (2, branches, d) = {wanted}, and here is {shape}"
        )


def _check_given(model: Model, request: ImageRequest, drawn: ImageOutput, sampling: SamplingParams) -> None:
    tokens = drawn.sample.tokens
    (given,) = model.draw([replace(request, tokens=tokens[:3], keep_hidden=0)], sampling)
    _require(given.sample.tokens == tokens, "an image that is finished from its own first tokens is another image")
    until = model.capabilities.image_tokens // 2
    (part,) = model.draw([replace(request, until=until, keep_hidden=0)], sampling)
    fine = part.sample.tokens == tokens[:until] and part.sample.image.size == drawn.sample.image.size
    _require(fine, "a partial image has other tokens, or another size, than the whole one")


def _check_offsets(model: Model, request: ImageRequest, sampling: SamplingParams) -> None:
    able, greedy = model.capabilities, sampling.model_copy(update={"temperature": 1e-6})
    push = torch.randn(2, able.branches, able.width, generator=torch.Generator().manual_seed(0))
    for scale in (0.0, 1.0, 10.0):
        (drawn,) = model.draw([replace(request, offsets=scale * push)], greedy)
        shape, wanted = None if drawn.hidden is None else tuple(drawn.hidden.shape), tuple(push.shape)
        _require(shape == wanted, f"an image with offsets has hidden states of shape {shape}, not {wanted}")
        if drawn.hidden is not None:
            moved = drawn.hidden + scale * push.to(drawn.hidden.device)
            best = model.image_logits(moved, sampling.guidance).argmax(-1)
            fine = drawn.sample.tokens[:2] == tuple(to_integers(best))
            _require(fine, "image tokens are not chosen from the hidden states plus the offsets of the request")


def _check_heads(model: Model, text: TextOutput | None, drawn: ImageOutput, guidance: float) -> None:
    able = model.capabilities
    heads: Mapping[str, tuple[torch.Tensor | None, Callable[[torch.Tensor], torch.Tensor]]] = {
        "text": (text.hidden if text else None, model.text_logits),
        "image": (drawn.hidden, lambda z: model.image_logits(z, guidance)),
    }
    for name, (hidden, read) in heads.items():
        if not able.has_latents(name) or hidden is None:
            continue
        z = hidden.detach().clone().requires_grad_()
        logits = read(z)
        fine = logits.ndim == 2 and len(logits) == len(z) and logits.dtype == torch.float32
        _require(fine, f"{name}_logits returns {tuple(logits.shape)} {logits.dtype}, not (n, V) float32")
        (gradient,) = torch.autograd.grad(logits.logsumexp(-1).sum(), z)
        _require(bool(gradient.isfinite().all()) and bool(gradient.any()), f"{name}_logits is not differentiable")


def _run(
    method: Method, tasks: Sequence[Task], given: Mapping[str, object], reward: Reward | None = None
) -> list[StepRecord]:
    model = FakeModel()
    settings = make_settings(method.name, given, model.defaults, declared=method.settings)
    runner = Runner(
        method, list(tasks), model, reward or FakeReward(lambda image, task: brightness(image) * 0.9), settings
    )
    return sorted(runner, key=lambda record: (record.index, record.step))


def _shown(records: Sequence[StepRecord]) -> list[object]:
    return [
        (one.task, one.step, one.reasoning, tuple(image.tokens for image in one.images), one.best.tokens)
        for one in records
    ]
