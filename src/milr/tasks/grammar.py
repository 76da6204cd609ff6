"""The grammar of the icon world: prompt text to task, and back.

::

    prompt   = ["a photo of"] phrase {joiner phrase}    one to three phrases
    phrase   = ["a" | "an" | count] [colour] object     count: two, three, four
    joiner   = "and" | "," | relation
    relation = "left of" | "right of" | "above" | "below"

The parser accepts more than the grammar writes: capitals, digits, English plurals, and other words for the same thing
("sofa", "under", "an image of"). It leaves out words that no rule can ask for ("big", "next to"), with a note. A task's
prompt always has the form that the grammar writes, the only one that models of the icon world were trained on; the text
as typed is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milr.tasks.parser import PromptParser
from milr.tasks.phrases import Phrase, write_prompt
from milr.tasks.refusals import PromptError
from milr.tasks.spellings import Joiner
from milr.tasks.vocabulary import quote
from milr.types import Requirement, Task


def parse_prompt(text: str) -> Task:
    """Return a prompt as a task in GenEval's metadata form.

    * "A left of B" places A by B; the reference B comes first in the include list. A relation binds its two neighbours
      only: "A left of B above C" places A by B and B by C, "A left of B and C" asks only that C is there.
    * A count above one also excludes one more, so that it is exact. "A dog" asks for at least one dog.
    * The tag is set if the prompt asks for what one of GenEval's six tags asks for, else None.
    * The count word decides, not the noun's form: "two dog" is two and "a dogs" is one. Plurals are read as GenEval
      writes them ("knifes") and as English does ("knives"). "Dogs" without a count is refused.
    * "Orange" is a colour where an object follows, else the fruit.

    Args:
        text: The prompt. The task's `prompt` is the form of `write_prompt`; if that differs, `typed` is the given text,
            stripped.

    Raises:
        PromptError: The grammar cannot read it; one line names the word and says what can be read.
    """
    return read_prompt(text).task


@dataclass(frozen=True)
class Reading:
    """The meaning of a prompt."""

    task: Task
    notes: tuple[str, ...] = ()
    """Words that were left out or read as something similar. Empty if the task asks for all that was said."""


def read_prompt(text: str) -> Reading:
    """Return a prompt as a task, with notes on words that were left out; otherwise as `parse_prompt`."""
    typed = text.strip()
    parser = PromptParser(typed)
    if not parser.words:
        raise PromptError("the prompt is empty: write what to draw, for instance 'a photo of a red apple'")
    phrases, joiners = parser.read()
    # as in training: "a, b and c"
    between = [
        joiner if joiner != "and" else (" and " if place == len(joiners) - 1 else ", ")
        for place, joiner in enumerate(joiners)
    ]
    prompt = write_prompt(phrases, between, photo=parser.photo)
    include = _include(phrases, joiners)
    exclude = [{"class": item.name, "count": item.count + 1} for item in include if item.count > 1]
    task = Task(
        prompt=prompt,
        tag=_tag(phrases, joiners),
        include=include,
        exclude=tuple(Requirement.model_validate(item) for item in exclude),
        typed=None if typed == prompt else typed,
    )
    return Reading(task, tuple(dict.fromkeys(parser.notes)))


def explain(task: Task) -> str | None:
    """Return a line on the user's words that were left out; None if there are none."""
    if task.typed is None:
        return None
    try:
        notes = read_prompt(task.typed).notes
    except PromptError:
        return None
    return f"{quote(task.typed)} is read as {quote(task.prompt)}: {'; '.join(notes)}" if notes else None


def _include(phrases: Sequence[Phrase], joiners: Sequence[Joiner]) -> tuple[Requirement, ...]:
    """Return the include list: phrases in order, chains of relations reversed, so that references come first."""
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
    """Return the one of GenEval's six tags whose prompts ask for the same; None if there is none."""
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
