"""`checklist-self`: the model that drew the image answers the questions of its task's checklist."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from milr.errors import unknown_name
from milr.rewards.images.convert import image_hash, to_rgb
from milr.rewards.lru_cache import LruCache
from milr.rewards.self_reward import CACHED, take_model
from milr.rewards.vlm.items import STOP_AT, Mean, lacks_checklist, rate
from milr.types import ChecklistItem, Score, Task, Unscored


class SelfChecklist:
    """The checklist's answers of the model that drew. Implements `milr.rewards.base.Reward`.

    Every item is a yes/no question to the model: one that expects a number is asked "... Is the answer three?", and one
    that expects no has the value 1 - p(yes).
    """

    stop_at = STOP_AT

    def __init__(self, argument: str | None, model: object | None) -> None:
        """Take the model that draws.

        Args:
            argument: None for the geometric mean, "mean" for the arithmetic one.
            model: The model of the search.

        Raises:
            UsageError: No model is given, or the argument is unknown.
        """
        if argument not in (None, "mean"):
            raise unknown_name("variant of 'checklist-self'", str(argument), ["mean"])
        self._model = take_model("checklist-self", model)
        self._mean: Mean = "geometric" if argument is None else "arithmetic"
        self.name = f"checklist-self{'' if argument is None else ':mean'}@1/{self._model.name}"
        self._answers: LruCache[tuple[str, str], float] = LruCache(CACHED)  # by image and question

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order; all questions about all images are one batch."""
        read = [_read_image(image, task, self.name) for image, task in zip(images, tasks, strict=True)]
        asked = [
            (image, image_hash(image), _ask_yes(item))
            for image, task in zip(read, tasks, strict=True)
            if not isinstance(image, Unscored)
            for item in task.checklist
        ]
        answers = iter(
            self._answers.get_all(
                [(key, question) for _, key, question in asked],
                lambda places: self._model.answer([asked[i][0] for i in places], [asked[i][2] for i in places]),
            )
        )
        return [
            image if isinstance(image, Unscored) else self._rate(task, [next(answers) for _ in task.checklist])
            for image, task in zip(read, tasks, strict=True)
        ]

    def _rate(self, task: Task, sure: Sequence[float]) -> Score | Unscored:
        lost = next((item for item, one in zip(task.checklist, sure, strict=True) if not 0.0 <= one <= 1.0), None)
        if lost is not None:
            return Unscored(f"the model would say neither yes nor no: {lost.question}", self.name)
        values = [1 - p if item.answer == "no" else p for item, p in zip(task.checklist, sure, strict=True)]
        return rate(self.name, task.checklist, values, self._mean, {"questions": list(map(_ask_yes, task.checklist))})


def _read_image(image: Image.Image, task: Task, reward: str) -> Image.Image | Unscored:
    try:
        rgb = to_rgb(image)
    except (OSError, ValueError) as error:
        return Unscored(f"the image cannot be read: {error}", reward)
    return lacks_checklist(reward, task) or rgb


def _ask_yes(item: ChecklistItem) -> str:
    return item.question if item.answer in ("yes", "no") else f"{item.question} Is the answer {item.answer}?"
