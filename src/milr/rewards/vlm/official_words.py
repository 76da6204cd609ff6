"""The words of an official evaluator's questions to its VLM judge, read from its program, which is not run."""

from __future__ import annotations

import ast
from pathlib import Path

from milr.errors import UsageError

_SLOTS = {"Prompt": "{prompt}", "Explanation": "{explanation}", "question": "{question}"}
"""Field of a prompt's row -> its place in a protocol's words."""


def read_words(program: Path) -> tuple[str, str]:
    """Return the text of the messages of a WISE evaluator.

    Args:
        program: Python source in which the messages are a list of dictionaries, each with a role and parts of content,
            and rows of prompts are filled in by f-strings.

    Returns:
        The system's words, and the user's with ``{prompt}`` and ``{explanation}``.

    Raises:
        UsageError: The file has no such messages.
    """
    try:
        tree = ast.parse(program.read_text(encoding="utf-8"))
        words = {role: text for node in ast.walk(tree) if isinstance(node, ast.Dict) for role, text in _read(node)}
        system, user = words["system"], words["user"]
        if "{prompt}" not in user or "{explanation}" not in user:
            raise KeyError("prompt and explanation")
    except (OSError, ValueError, SyntaxError, KeyError) as error:
        raise _lacks(program, error) from error
    return system, user


def read_geneval2_words(program: Path) -> tuple[None, str]:
    """Return the words in which GenEval 2's scorer asks about an item: a string that is formatted with the question.

    Raises:
        UsageError: The file has none.
    """
    for node in _walk(program):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            text, names = node.func.value, [one.id for one in node.args if isinstance(one, ast.Name)]
            if names == ["question"] and isinstance(text, ast.Constant) and str(text.value).count("{}") == 1:
                return None, str(text.value).replace("{}", "{question}")
    raise _lacks(program, "none is formatted with a question")


def read_corebench_words(program: Path) -> tuple[str, str]:
    """Return the system's and the user's words of T2I-CoReBench's scorer, the latter with prompt and question.

    Raises:
        UsageError: The file has none.
    """
    found: dict[str, ast.expr] = {}
    for node in _walk(program):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, node.value)
    try:
        system, user = _write(found["TEMPLATE"]), _write(found["TEXT"])
    except KeyError as error:
        raise _lacks(program, error) from error
    if "{prompt}" not in user or "{question}" not in user:
        raise _lacks(program, "prompt and question")
    return system, user


def _walk(program: Path) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(program.read_text(encoding="utf-8"))))
    except (OSError, ValueError, SyntaxError) as error:
        raise _lacks(program, error) from error


def _lacks(program: Path, reason: object) -> UsageError:
    return UsageError(f"{program} holds no words for a judge ({reason}): type milr data get")


def _read(message: ast.Dict) -> list[tuple[str, str]]:
    """Return the role and the text of a message; nothing if it is not one."""
    entries = _entries(message)
    role, content = entries.get("role"), entries.get("content")
    if not isinstance(role, ast.Constant) or not isinstance(content, ast.List):
        return []
    parts = [_entries(part) for part in content.elts if isinstance(part, ast.Dict)]
    return [(str(role.value), "".join(_write(part["text"]) for part in parts if "text" in part))]


def _entries(node: ast.Dict) -> dict[object, ast.expr]:
    return {
        key.value: value for key, value in zip(node.keys, node.values, strict=True) if isinstance(key, ast.Constant)
    }


def _write(text: ast.expr) -> str:
    """Return a string's text, that of an f-string with slots for the fields of a row."""
    if isinstance(text, ast.JoinedStr):
        return "".join(map(_write, text.values))
    if isinstance(text, ast.FormattedValue) and isinstance(text.value, ast.Subscript):
        field = text.value.slice
        return _SLOTS[str(field.value)] if isinstance(field, ast.Constant) else _write(field)
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return text.value
    raise KeyError(ast.unparse(text))
