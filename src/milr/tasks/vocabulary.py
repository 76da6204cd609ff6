"""The words of the icon world: GenEval's objects and colours, counts and relations."""

from __future__ import annotations

from collections.abc import Mapping

from milr.types import Relation

OBJECT_NAMES: tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote"),
    *("computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock"),
    *("vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""GenEval's 80 names in its order, which is COCO's; the place of a name is the class of GenEval's detector."""
COLORS: tuple[str, ...] = (
    *("red", "orange", "yellow", "green", "blue"),
    *("purple", "pink", "brown", "black", "white"),
)
"""GenEval's ten, in its order."""
COUNT_WORDS: Mapping[str, int] = {"one": 1, "two": 2, "three": 3, "four": 4}
RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")

_ALREADY_PLURAL = frozenset({"skis", "scissors"})


def plural(name: str) -> str:
    """An object name as GenEval's prompts write more than one of it.

    GenEval adds "s", or "es" after an "s" ("buses"), and knows no exceptions ("benchs", "knifes", "sheeps"). Skis and
    scissors, which it never counts, stay as they are.
    """
    if name in _ALREADY_PLURAL:
        return name
    return name + ("es" if name.endswith("s") else "s")


def with_article(words: str) -> str:
    """The words behind "a" or "an", which goes by the first letter."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def quote(text: str, longest: int = 120) -> str:
    """The text in quotes, on one line, cut where it is long."""
    return repr(text if len(text) <= longest else text[: longest - 3] + "...")
