"""Prompt text and files -> tasks.

The grammar of the icon world lives here::

    prompt   = [["a"] "photo of"] phrase {joiner phrase} ["."]  one to three phrases
    phrase   = ["a" | "an" | "the" | count] [colour] object     count: one, two, three, four
    joiner   = "and" | "," | ", and" | relation
    relation = ["to the" | "on the"] ("left of" | "right of") | "above" | "below"

Letters may be large or small. What is read here says how a picture is judged. It never reaches a model: only the
prompt's words do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from milr.errors import UsageError, unknown_name
from milr.types import Relation, Requirement, Task

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
MAX_PHRASES = 3

_ALREADY_PLURAL = frozenset({"skis", "scissors"})
# Read as well as GenEval's plurals, never written.
_ENGLISH_PLURALS = {
    "people": "person",
    "benches": "bench",
    "knives": "knife",
    "sandwiches": "sandwich",
    "couches": "couch",
    "computer mice": "computer mouse",
    "toothbrushes": "toothbrush",
}
_TEXT_JOINERS = (" and ", ", ", ", and ")
_FORM = "write [a, or one to four] [colour] object, as in 'a photo of two red apples left of a dog'"
_COUNT_FORM = f"the counts are {', '.join(map(repr, COUNT_WORDS))}"
_JOINER_FORM = f"join objects by 'and', commas, {', '.join(map(repr, RELATIONS))}"
# Words that ask for a count which the grammar does not have.
_OTHER_COUNTS = re.compile(
    r"[-+]?\d+|no|zero|five|six|seven|eight|nine|ten|eleven|twelve|dozen|some|several|many|few|both"
)

_Entry = TypeVar("_Entry")


class PromptError(UsageError):
    """A prompt that the grammar cannot read; the message names the word."""


def plural(name: str) -> str:
    """An object name as GenEval's prompts write more than one of it.

    GenEval adds "s", or "es" after an "s" ("buses"), and knows no exceptions ("benchs", "knifes", "sheeps"). Skis and
    scissors, which it never counts, stay as they are.
    """
    if name in _ALREADY_PLURAL:
        return name
    return name + ("es" if name.endswith("s") else "s")


@dataclass(frozen=True)
class Phrase:
    """One object of a prompt: what, how many, of which colour."""

    name: str
    """One of `OBJECT_NAMES`."""
    count: int = 1
    """1 to 4."""
    color: str | None = None
    """One of `COLORS`; None where the prompt does not say."""

    def __post_init__(self) -> None:
        """Refuse what the grammar has no word for."""
        if self.name not in OBJECT_NAMES:
            raise unknown_name("object", self.name, OBJECT_NAMES)
        if self.count not in COUNT_WORDS.values():
            raise UsageError(f"a count of {self.count} has no word: counts go from one to four")
        if self.color is not None and self.color not in COLORS:
            raise unknown_name("colour", self.color, COLORS)


def write_prompt(
    phrases: Sequence[Phrase], joiners: Sequence[str] | None = None, photo: bool = True, article: bool = True
) -> str:
    """Phrases as a prompt in GenEval's words; `parse_prompt` reads it back.

    Args:
        phrases: One to three.
        joiners: What stands between them, one fewer than phrases: " and ", ", ", ", and " or one of `RELATIONS`.
            None joins all by " and ".
        photo: Begin with "a photo of".
        article: Write "a" or "an" before a single object.
    """
    joiners = [" and "] * (len(phrases) - 1) if joiners is None else joiners
    if not 1 <= len(phrases) <= MAX_PHRASES or len(joiners) != len(phrases) - 1:
        raise UsageError(
            f"{len(phrases)} phrases and {len(joiners)} joiners make no prompt: "
            f"give one to three phrases and one joiner between each two"
        )
    text = ("a photo of " if photo else "") + _write_phrase(phrases[0], article)
    for joiner, phrase in zip(joiners, phrases[1:], strict=True):
        if joiner not in _TEXT_JOINERS and joiner not in RELATIONS:
            raise unknown_name("joiner", joiner, (*_TEXT_JOINERS, *RELATIONS))
        text += (f" {joiner} " if joiner in RELATIONS else joiner) + _write_phrase(phrase, article)
    return text


def _write_phrase(phrase: Phrase, article: bool) -> str:
    noun = phrase.name if phrase.count == 1 else plural(phrase.name)
    words = noun if phrase.color is None else f"{phrase.color} {noun}"
    if phrase.count > 1:
        return f"{next(word for word, count in COUNT_WORDS.items() if count == phrase.count)} {words}"
    return with_article(words) if article else words


def with_article(words: str) -> str:
    """The words behind "a" or "an", which goes by the first letter."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def parse_prompt(text: str) -> Task:
    """A prompt as a task in GenEval's metadata form.

    * "A left of B" places A by B; the reference B comes first in the include list. A relation binds its two neighbours
      only: "A left of B above C" places A by B and B by C, "A left of B and C" asks nothing of C but to be there.
    * A count above one also excludes one more, so that it is exact. "A dog" asks for at least one dog.
    * The tag is set where the prompt asks for what one of GenEval's six tags asks for, else None.
    * The count word decides, not the noun's form: "two dog" is two and "a dogs" is one. Plurals are read as GenEval
      writes them ("knifes") and as English does ("knives"). "Dogs" without a count is refused.
    * "Orange" is a colour where an object follows, else the fruit.

    Args:
        text: The prompt; the task keeps it as given, stripped.

    Raises:
        PromptError: The grammar cannot read it; one line that names the word and says what can be read.
    """
    prompt = text.strip()
    if not prompt:
        raise PromptError("the prompt is empty: write what to draw, for instance 'a photo of a red apple'")
    phrases, joiners = _Reader(prompt).read()
    include = _include(phrases, joiners)
    exclude = [{"class": item.name, "count": item.count + 1} for item in include if item.count > 1]
    return Task(
        prompt=prompt,
        tag=_tag(phrases, joiners),
        include=include,
        exclude=tuple(Requirement.model_validate(item) for item in exclude),
    )


def tasks_from_prompts(prompts: Iterable[str], *, free: bool = False) -> list[Task]:
    """One task a prompt, in order.

    Args:
        prompts: At least one.
        free: Let a prompt that the grammar cannot read become a task with that prompt and nothing to judge by. For
            models that read any text.
    """
    tasks = [_from_text(prompt, free) for prompt in prompts]
    if not tasks:
        raise UsageError("no prompts: give at least one, for instance 'a photo of a red apple'")
    return tasks


def read_tasks(path: str | Path, *, free: bool = False) -> list[Task]:
    """The tasks of a file, in order: one prompt a line, or GenEval's JSONL where the first line begins with "{".

    Blank lines are skipped. A JSON line that has an include or exclude list keeps it; one that has neither is read by
    its prompt. Errors name file and line.

    Args:
        path: A UTF-8 file.
        free: As in `tasks_from_prompts`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"no file {str(path)!r}: give one with a prompt a line, or GenEval's JSONL") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r} ({error}): give a UTF-8 file with a prompt a line") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UsageError(f"{str(path)!r} holds no prompts: write one a line, for instance 'a photo of a red apple'")
    read_line = _from_json if lines[0][1].startswith("{") else _from_text
    tasks: list[Task] = []
    for number, line in lines:
        try:
            tasks.append(read_line(line, free))
        except UsageError as error:
            raise UsageError(f"{str(path)!r}, line {number}: {error}") from error
    return tasks


def check_task(task: Task) -> None:
    """Refuse a task that GenEval's rules cannot judge; all that `parse_prompt` returns pass.

    Raises:
        UsageError: No include and no exclude list, an object or colour that GenEval does not know, an object placed by
            one that does not come before it, or an exclude item with more than class and count.
    """
    if not task.include and not task.exclude:
        raise UsageError(f"the task {_quote(task.prompt)} does not say what is correct: give it an include list")
    for place, item in enumerate(task.include):
        if item.position is not None and not 0 <= item.position[1] < place:
            raise UsageError(
                f"the task {_quote(task.prompt)} places {item.name!r} by item {item.position[1]}: "
                f"give the place of an item before it in the include list"
            )
    for item in task.exclude:
        if item.color is not None or item.position is not None:
            raise UsageError(
                f"the task {_quote(task.prompt)} excludes {item.name!r} by colour or position: "
                f"give class and count only"
            )
    for item in (*task.include, *task.exclude):
        if item.name not in OBJECT_NAMES:
            raise unknown_name("object", item.name, OBJECT_NAMES)
        if item.color is not None and item.color not in COLORS:
            raise unknown_name("colour", item.color, COLORS)


def _from_text(prompt: str, free: bool) -> Task:
    try:
        return parse_prompt(prompt)
    except PromptError:
        if not free or not prompt.strip():
            raise
    try:
        return Task(prompt=prompt.strip())
    except ValidationError as error:
        raise UsageError(f"{_quote(prompt)} is not text, {error.errors()[0]['msg']}: write it in UTF-8") from error


def _from_json(line: str, free: bool) -> Task:
    try:
        task = Task.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{f'{where!r}: ' if where else ''}{first['msg']}; a line is one JSON object "
            f"with the keys {', '.join(Task.model_fields)}, as in GenEval's evaluation_metadata.jsonl"
        ) from error
    by_prompt = _from_text(task.prompt, free)
    if not task.include and not task.exclude:
        return by_prompt.model_copy(update={"tag": task.tag or by_prompt.tag, "explanation": task.explanation})
    check_task(task)
    return task


Joiner = Relation | Literal["and"]


def _spellings() -> dict[tuple[str, ...], tuple[str, bool]]:
    """The words of every object -> its name, and whether they are its plural."""
    forms = {name: (name, False) for name in OBJECT_NAMES}
    plurals = {plural(name): name for name in OBJECT_NAMES if plural(name) != name} | _ENGLISH_PLURALS
    forms |= {spelling: (name, True) for spelling, name in plurals.items()}
    return {tuple(spelling.split()): form for spelling, form in forms.items()}


_OBJECTS = _spellings()
_COLORS = {(color,): color for color in COLORS}
_UNSAID = 0
_COUNTS: dict[tuple[str, ...], int] = {
    ("a",): 1,
    ("an",): 1,
    ("the",): _UNSAID,
    **{(word,): count for word, count in COUNT_WORDS.items()},
}
_JOINERS: dict[tuple[str, ...], Joiner] = {
    ("and",): "and",
    (",",): "and",
    (",", "and"): "and",
    **{tuple(relation.split()): relation for relation in RELATIONS},
    **{(lead, "the", *relation.split()): relation for lead in ("to", "on") for relation in RELATIONS[:2]},
}
_PHOTO = {("a", "photo", "of"): True, ("photo", "of"): True}


class _Reader:
    """Reads one prompt from left to right."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.words: list[str] = re.findall(r"[^\s,]+|,", prompt.lower().removesuffix("."))
        self.at = 0

    def read(self) -> tuple[list[Phrase], list[Joiner]]:
        """The phrases and what stands between them."""
        self._take(_PHOTO)
        phrases = [self._phrase()]
        joiners: list[Joiner] = []
        while self.at < len(self.words):
            joiner = self._take(_JOINERS)
            if joiner is None:
                near = _nearest(self.words[self.at], map(" ".join, _JOINERS))
                raise self._unreadable(f"{_did_you_mean(near)}{_JOINER_FORM}")
            if len(phrases) == MAX_PHRASES:
                raise PromptError(f"{_quote(self.prompt)} asks for more than three kinds of objects: leave some out")
            joiners.append(joiner)
            phrases.append(self._phrase())
            if phrases[-1].name in [phrase.name for phrase in phrases[:-1]]:
                raise PromptError(
                    f"{_quote(self.prompt)} names {phrases[-1].name!r} twice, which GenEval's rules cannot judge: "
                    f"write a count ('two {plural(phrases[-1].name)}') or another object"
                )
        return phrases, joiners

    def _phrase(self) -> Phrase:
        start = self.at
        count = self._take(_COUNTS) or _UNSAID
        color = self._take(_COLORS)
        if color in OBJECT_NAMES and self._phrase_ends():
            color = None
            self.at -= 1
        noun = self._take(_OBJECTS)
        if noun is None:
            raise self._no_object(may_count=self.at == start, may_color=color is None)
        name, is_plural = noun
        if is_plural and count == _UNSAID:
            raise PromptError(
                f"{_quote(self.prompt)} does not say how many {plural(name)}: "
                f"write 'two', 'three' or 'four' before the word, or {name!r} for one"
            )
        return Phrase(name, count or 1, color)

    def _take(self, table: Mapping[tuple[str, ...], _Entry]) -> _Entry | None:
        """Read the longest entry of the table that comes next; None where none does."""
        for length in range(max(map(len, table)), 0, -1):
            words = tuple(self.words[self.at : self.at + length])
            if words in table:
                self.at += len(words)
                return table[words]
        return None

    def _comes(self, table: Mapping[tuple[str, ...], object], at: int) -> bool:
        return any(tuple(self.words[at : at + len(entry)]) == entry for entry in table)

    def _phrase_ends(self) -> bool:
        return self.at == len(self.words) or self._comes(_JOINERS, self.at)

    def _unreadable(self, way_out: str) -> PromptError:
        return PromptError(f"cannot read {_quote(self.words[self.at])} in {_quote(self.prompt)}: {way_out}")

    def _no_object(self, may_count: bool, may_color: bool) -> PromptError:
        """The error where an object should come next, and does not."""
        if self.at == len(self.words):
            return PromptError(f"an object is missing at the end of {_quote(self.prompt)}: {_FORM}")
        word = self.words[self.at]
        if self._phrase_ends():
            return PromptError(f"an object is missing before {word!r} in {_quote(self.prompt)}: {_FORM}")
        if _OTHER_COUNTS.fullmatch(word):
            return self._unreadable(_COUNT_FORM)
        if self._comes(_COUNTS, self.at) or self._comes(_COLORS, self.at):
            return self._unreadable(_FORM)
        if may_color and (self._comes(_OBJECTS, self.at + 1) or self._comes(_COLORS, self.at + 1)):
            near = _nearest(word, (*COLORS, *(COUNT_WORDS if may_count else ())))
            return self._unreadable(f"{_did_you_mean(near)}{_FORM}; colours: {', '.join(COLORS)}")
        near = (
            [name for name in OBJECT_NAMES if word in name.split()]
            or _nearest(word, map(" ".join, _OBJECTS))
            or _nearest(" ".join(self.words[self.at : self.at + 2]), OBJECT_NAMES)
        )
        objects = "" if near else f"; objects: {', '.join(OBJECT_NAMES)}"
        return self._unreadable(f"{_did_you_mean(near)}{_FORM}{objects}")


def _include(phrases: Sequence[Phrase], joiners: Sequence[Joiner]) -> tuple[Requirement, ...]:
    """The include list: phrases in order, but each chain of relations from its end, so that references come first."""
    include: list[Requirement] = []
    first = 0
    for last in range(len(phrases)):
        if last < len(joiners) and joiners[last] != "and":
            continue
        for i in range(last, first - 1, -1):
            position = (joiners[i], len(include) - 1) if i < last else None
            item = {"class": phrases[i].name, "count": phrases[i].count, "color": phrases[i].color}
            include.append(Requirement.model_validate({**item, "position": position}))
        first = last + 1
    return tuple(include)


def _tag(phrases: Sequence[Phrase], joiners: Sequence[Joiner]) -> str | None:
    """The one of GenEval's six tags whose prompts ask for the same; None where none does."""
    colored = [phrase.color is not None for phrase in phrases]
    if len(phrases) == 1:
        if phrases[0].count > 1:
            return None if colored[0] else "counting"
        return "colors" if colored[0] else "single_object"
    if len(phrases) > 2 or any(phrase.count > 1 for phrase in phrases):
        return None
    if joiners[0] != "and":
        return None if any(colored) else "position"
    if any(colored):
        return "color_attr" if all(colored) else None
    return "two_object"


def _nearest(word: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(word, list(names), n=1)


def _did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(map(repr, names))}? " if names else ""


def _quote(text: str, longest: int = 120) -> str:
    """The text in quotes, on one line, cut where it is long."""
    return repr(text if len(text) <= longest else text[: longest - 3] + "...")
