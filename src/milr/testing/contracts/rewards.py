"""The contract of rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from PIL import Image, ImageDraw
from pydantic import TypeAdapter
from pydantic_core import to_json

from milr.errors import MilrError
from milr.rewards import load_reward
from milr.rewards.base import (
    Candidate,
    ComparingReward,
    Reward,
    RewardFunction,
    WaitingReward,
    check_scores,
    make_reward,
)
from milr.tasks import parse_prompt
from milr.testing.contracts.violations import ContractError, require
from milr.types import Score, Task, Unscored

PROMPTS = ("a photo of a red apple", "a photo of two dogs", "a photo of a cat left of a clock")
ODD_SIZES = ((1, 1), (4000, 10), (0, 5))
ODD_MODES = ("CMYK", "RGBA", "P", "L", "1", "I;16")


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
    require(made.name.strip() != "", f"name is {made.name!r}: give it a name")
    require(0 < made.stop_at <= 1, f"stop_at is {made.stop_at}: a score is in [0, 1]")
    tasks = tasks or [parse_prompt(prompt).model_copy(update={"explanation": prompt}) for prompt in PROMPTS]
    images = images or [_draw_shapes(number) for number in range(len(tasks))]
    before = [image.tobytes() for image in images]
    batch = _score(made, images, tasks)
    require(before == [image.tobytes() for image in images], f"{made.name} changes the images that it is given")
    require(_score(made, [], []) == [], f"{made.name} returns scores for no images")
    require(batch == _score(made, images, tasks), f"{made.name} scores the same images otherwise a second time")
    alone = [_score(made, [image], [task])[0] for image, task in zip(images, tasks, strict=True)]
    require(batch == alone, f"{made.name} scores an image otherwise beside others than alone")
    backwards = _score(made, images[::-1], tasks[::-1])[::-1]
    require(batch == backwards, f"the scores of {made.name} depend on the order of the images")
    if isinstance(made, WaitingReward):
        begun = check_scores(made, made.begin(images, tasks)(), len(images))
        require(batch == begun, f"begin of {made.name} gives other scores than a call")
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


def _score(reward: Reward, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
    return check_scores(reward, reward(images, tasks), len(images))


def _check_score(reward: Reward, score: Score | Unscored, image: Image.Image) -> None:
    require(score.reward == reward.name, f"a score says it is by {score.reward!r}, and the reward is {reward.name!r}")
    require(score.cost >= 0, f"a score costs {score.cost} US dollars")
    if isinstance(score, Unscored):
        fine = score.reason.strip() != "" and "\n" not in score.reason
        require(fine, f"the reason of an unscored image is one line of words, not {score.reason!r}")
        return
    require(0 < score.stop_at <= 1, f"a score's stop_at is {score.stop_at}")
    odd = {name: part for name, part in score.parts.items() if not 0 <= part <= 1}
    require(not odd, f"parts are in [0, 1], and {odd} are not")
    for region in score.regions:
        x0, y0, x1, y1 = region.box
        inside = -1 <= x0 <= x1 <= image.width + 1 and -1 <= y0 <= y1 <= image.height + 1
        require(inside, f"the region {region} is outside the image of {image.width} x {image.height} pixels")
    kept = TypeAdapter(Score).validate_json(to_json(score, fallback=str))
    require((kept.value, kept.regions) == (score.value, score.regions), "a score is another one when it was stored")


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
        require((there > 0) == (back < 0) and (there < 0) == (back > 0), "compare(a, b) and compare(b, a) disagree")
        require(reward.compare(a, a) == 0, "compare(a, a) is not 0")


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
