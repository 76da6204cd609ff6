"""Readers of prompt lists and prompt files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from milr.errors import UsageError, unknown_name
from milr.tasks.grammar import read_prompt
from milr.tasks.refusals import PromptError
from milr.tasks.vocabulary import COLORS, OBJECT_NAMES, quote
from milr.types import Task


def tasks_from_prompts(prompts: Iterable[str], *, free: bool = False) -> list[Task]:
    """One task a prompt, in order.

    Args:
        prompts: At least one.
        free: For models that read any text: every prompt stays as it was typed. One that the grammar reads to the last
            word says what is correct; any other becomes a task with nothing to judge by.
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
        raise UsageError(f"the task {quote(task.prompt)} does not say what is correct: give it an include list")
    for place, item in enumerate(task.include):
        if item.position is not None and not 0 <= item.position[1] < place:
            raise UsageError(
                f"the task {quote(task.prompt)} places {item.name!r} by item {item.position[1]}: "
                f"give the place of an item before it in the include list"
            )
    for item in task.exclude:
        if item.color is not None or item.position is not None:
            raise UsageError(
                f"the task {quote(task.prompt)} excludes {item.name!r} by colour or position: give class and count only"
            )
    for item in (*task.include, *task.exclude):
        if item.name not in OBJECT_NAMES:
            raise unknown_name("object", item.name, OBJECT_NAMES)
        if item.color is not None and item.color not in COLORS:
            raise unknown_name("colour", item.color, COLORS)


def _from_text(prompt: str, free: bool) -> Task:
    try:
        reading = read_prompt(prompt)
    except PromptError:
        if not free or not prompt.strip():
            raise
    else:
        if not free:
            return reading.task
        if not reading.notes:
            return reading.task.model_copy(update={"prompt": prompt.strip(), "typed": None})
    try:
        return Task(prompt=prompt.strip())
    except ValidationError as error:
        raise UsageError(f"{quote(prompt)} is not text, {error.errors()[0]['msg']}: write it in UTF-8") from error


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
        read = {
            "tag": task.tag or by_prompt.tag,
            "explanation": task.explanation,
            "typed": task.typed or by_prompt.typed,
        }
        return by_prompt.model_copy(update=read)
    check_task(task)
    return task.model_copy(update={"prompt": by_prompt.prompt, "typed": task.typed or by_prompt.typed})
