"""Checklists in rows of prompt files: milr's own form, GenEval 2's and T2I-CoReBench's.

* milr: `checklist`, a list of questions, each a text (answer yes) or an object with question, answer and tags.
* GenEval 2 (facebookresearch/GenEval2, geneval2_data.jsonl): `vqa_list` of [question, answer] pairs, `skills`, one per
  question, and `atom_count`.
* T2I-CoReBench (KwaiVGI/T2I-CoReBench, data/*.json): `Checklist`, objects with question and tags, all to be answered
  yes; the file is one object that maps ids to entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from milr.errors import UsageError
from milr.tasks.prompt_files import find_key
from milr.tasks.vocabulary import quote
from milr.types import ChecklistItem

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ANSWERS = ("yes", "no", *NUMBERS)
"""Answers that a question may expect; a number may also be written in digits."""
_KEYS = ("question", "answer", "tags")
FORM = '"checklist": [{"question": "Is there a cat?", "answer": "yes", "tags": ["object"]}]'


def read_checklist(row: Mapping[str, object]) -> tuple[tuple[ChecklistItem, ...], frozenset[str]]:
    """Return a row's checklist, and the row's keys that were read; () if it has none.

    Raises:
        UsageError: A question is no text, repeats another one or expects an answer that is not in `ANSWERS`, or the
            list is empty; names the field.
    """
    own, pairs = find_key(row, ("checklist",)), find_key(row, ("vqa_list",))
    if own is not None and row[own] not in (None, ""):
        questions = [_read_item(f"{own}[{place}]", one) for place, one in enumerate(_read_list(own, row[own]))]
        used = {own}
    elif pairs is not None:
        skills = find_key(row, ("skills",))
        tags = [] if skills is None else _read_list(skills, row[skills])
        listed = _read_list(pairs, row[pairs])
        if skills is not None and len(tags) != len(listed):
            raise UsageError(f"{skills!r} has {len(tags)} entries for {len(listed)} questions: give one per question")
        questions = [_read_pair(f"{pairs}[{place}]", one) for place, one in enumerate(listed)]
        for place, tag in enumerate(tags):
            where = f"{skills}[{place}]"
            questions[place] = questions[place].model_copy(update={"tags": (_read_text(where, tag),)})
        used = {pairs, *([] if skills is None else [skills])}
    else:
        return (), frozenset()
    seen: dict[str, int] = {}
    for place, item in enumerate(questions):
        if item.question in seen:
            raise UsageError(
                f"question {place + 1} of {next(iter(used))!r} repeats question {seen[item.question] + 1}, "
                f"{quote(item.question, 60)}: give each once"
            )
        seen[item.question] = place
    return tuple(questions), frozenset(used)


def fold_answer(text: str) -> str | None:
    """Return an answer as one of `ANSWERS`, numbers in words; None if it is none of them."""
    folded = text.strip().casefold()
    if folded.isascii() and folded.isdigit() and len(folded) < 4:
        return NUMBERS[int(folded)] if int(folded) < len(NUMBERS) else None
    return folded if folded in ANSWERS else None


def _read_list(field: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise UsageError(f"{field!r} is no list: write {FORM}")
    if not value:
        raise UsageError(f"{field!r} is empty: give at least one question, or leave it out")
    return cast("list[object]", value)


def _read_item(where: str, value: object) -> ChecklistItem:
    if isinstance(value, str):
        return ChecklistItem(question=_read_text(where, value))
    if not isinstance(value, dict):
        raise UsageError(f"{where!r} is neither a question nor an object: write {FORM}")
    item = cast("dict[str, object]", value)
    unknown = next((key for key in item if key not in _KEYS), None)
    if unknown is not None:
        raise UsageError(f"{where!r} has the key {unknown!r}: the keys are {', '.join(_KEYS)}")
    if "question" not in item:
        raise UsageError(f"{where!r} has no key 'question': write {FORM}")
    tags = item.get("tags", [])
    if not isinstance(tags, list):
        raise UsageError(f"'{where}.tags' is no list: write {FORM}")
    return ChecklistItem(
        question=_read_text(f"{where}.question", item["question"]),
        answer=_read_answer(f"{where}.answer", item.get("answer", "yes")),
        tags=tuple(_read_text(f"{where}.tags", tag) for tag in cast("list[object]", tags)),
    )


def _read_pair(where: str, value: object) -> ChecklistItem:
    pair = cast("list[object]", value) if isinstance(value, list) else []
    if len(pair) != 2:
        raise UsageError(f'{where!r} is no pair: write ["Are there any cows in the image?", "Yes"]')
    return ChecklistItem(question=_read_text(where, pair[0]), answer=_read_answer(where, pair[1]))


def _read_text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where!r} is {quote(repr(value), 40)}: give a text")
    return value.strip()


def _read_answer(where: str, value: object) -> str:
    answer = fold_answer(str(value)) if isinstance(value, str) or type(value) is int else None
    if answer is None:
        said = quote(value, 40) if isinstance(value, str) else quote(repr(value), 40)
        raise UsageError(f"{where!r} expects {said}: answers are {', '.join(ANSWERS)}")
    return answer
