"""Tasks from prompts: text, JSON objects, files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from milr.errors import UsageError, say_reason, unknown_name
from milr.tasks.checklists import read_checklist
from milr.tasks.grammar import read_prompt
from milr.tasks.prompt_files import PROMPT_KEYS, find_key, name_file, read_rows
from milr.tasks.refusals import PromptError
from milr.tasks.vocabulary import COLORS, OBJECT_NAMES, quote
from milr.types import ChecklistItem, Task

_NAMED = 8  # most keys in a note


@dataclass(frozen=True)
class PromptFile:
    """The tasks of a file of prompts."""

    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = ()
    """A note on the keys that were skipped."""


def tasks_from_prompts(prompts: str | Iterable[str | Task], *, free: bool = False) -> list[Task]:
    """Return one task per prompt, in order.

    Args:
        prompts: At least one; a single string is one prompt. Tasks are returned unchanged.
        free: For models that read any text: every prompt stays as typed. A prompt that the grammar reads completely
            also gets an include list; any other has none.

    Raises:
        UsageError: There are no prompts, one is neither text nor a task, or the grammar cannot read one and `free` is
            False.
    """
    tasks = [make_task(prompt, free=free) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
    if not tasks:
        raise UsageError("no prompts: give at least one, for instance 'a photo of a red apple'")
    return tasks


def make_task(prompt: object, *, free: bool = False) -> Task:
    """Return a prompt as a task; return a task unchanged. Otherwise as `tasks_from_prompts`."""
    if isinstance(prompt, Task):
        return prompt
    if isinstance(prompt, str):
        return _from_text(prompt, free)
    said = quote(repr(prompt), 40)
    raise UsageError(f"{said} ({type(prompt).__name__}) is no task: give a prompt in words, or a milr.Task")


def read_tasks(path: str | Path, *, free: bool = False) -> list[Task]:
    """Return the tasks of a file of prompts, in order; `read_prompt_file` also returns notes on what was skipped."""
    return list(read_prompt_file(path, free=free).tasks)


def read_prompt_file(path: str | Path, *, free: bool = False) -> PromptFile:
    """Read a file of prompts of any form that `milr.tasks.prompt_files.read_rows` reads.

    An object, or a table's row, has the prompt under "prompt" ("caption", "text"; in any case), and may have GenEval's
    keys, an explanation and a checklist (`milr.tasks.checklists`); other keys are skipped. An include or exclude list
    is kept; an object that has neither is read by its prompt.

    Args:
        path: A file or a pipe; "-" is standard input.
        free: As in `tasks_from_prompts`.

    Raises:
        UsageError: The file cannot be read, or an entry is not a task; names file and position.
    """
    tasks: list[Task] = []
    passed_over: Counter[str] = Counter()
    ids: dict[str, str] = {}
    for row in read_rows(path):
        try:
            if isinstance(row.content, str):
                tasks.append(_from_text(row.content, free))
            else:
                values = _pick(row.content)
                passed_over.update(key for key in row.content if key not in values.sources)
                task = _from_values(values.fields, free)
                if values.checklist:
                    _check_id(row.content, row.place, ids)
                    task = task.model_copy(update={"checklist": values.checklist})
                tasks.append(task)
        except UsageError as error:
            raise UsageError(f"{name_file(path)}, {row.place}: {error}") from error
    return PromptFile(tuple(tasks), _explain_passed_over(path, passed_over, len(tasks)))


def check_task(task: Task) -> None:
    """Refuse a task that GenEval's rules cannot score; every result of `parse_prompt` passes.

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


@dataclass(frozen=True)
class _Values:
    """A task's fields in a row."""

    fields: Mapping[str, object]
    sources: frozenset[str]
    """The row's keys that were read."""
    checklist: tuple[ChecklistItem, ...]


def _pick(row: Mapping[str, object]) -> _Values:
    """Return a task's fields from a row, with keys in any case; null and empty cells count as absent."""
    fields = [field for field in Task.model_fields if field != "checklist"]
    keys = {field: find_key(row, PROMPT_KEYS if field == "prompt" else (field,)) for field in fields}
    found = {field: key for field, key in keys.items() if key is not None}
    if "prompt" not in found:
        raise UsageError(
            f"no key 'prompt' among {quote(', '.join(map(str, row)), 60)}; give an object with prompt and, where "
            f"known, {', '.join(field for field in Task.model_fields if field not in ('prompt', 'typed'))}"
        )
    said = {field: row[key] for field, key in found.items() if row[key] is not None}
    fields = {field: value for field, value in said.items() if value != "" or field == "prompt"}
    checklist, sources = read_checklist(row)
    return _Values(fields, frozenset(found.values()) | sources, checklist)


def _check_id(row: Mapping[str, object], place: str, seen: dict[str, str]) -> None:
    """Refuse the id of an earlier row: results of checklists go by their ids."""
    key = find_key(row, ("id", "prompt_id"))
    if key is None:
        return
    said = str(row[key])
    if said in seen:
        raise UsageError(f"{key!r} is {quote(said, 40)}, as in {seen[said]}: give each prompt an id of its own")
    seen[said] = place


def _from_values(values: Mapping[str, object], free: bool) -> Task:
    if values.get("prompt") == "":
        return _from_text("", free)
    try:
        task = Task.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        keys = ("class", "count", "color", "position") if len(first["loc"]) > 1 else Task.model_fields
        raise UsageError(
            f"{where!r}: {say_reason(first)}; the keys are {', '.join(keys)}, as in GenEval's evaluation_metadata.jsonl"
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


def _explain_passed_over(path: str | Path, keys: Counter[str], entries: int) -> tuple[str, ...]:
    if not keys:
        return ()
    named = [key if many == entries else f"{key} (of {many})" for key, many in keys.most_common(_NAMED)]
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return (f"{name_file(path)} says more than a task holds; passed over: {', '.join(named)}{more}",)
