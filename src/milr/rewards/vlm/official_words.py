"""The words of an official evaluator's questions to its VLM judge, read from its program, which is not run."""

from __future__ import annotations

import ast
from pathlib import Path

from milr.errors import UsageError

_SLOTS = {"Prompt": "{prompt}", "Explanation": "{explanation}"}
"""Field of a prompt's row -> its place in `VlmProtocol.user`."""


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
        if not all(slot in user for slot in _SLOTS.values()):
            raise KeyError("prompt and explanation")
    except (OSError, ValueError, SyntaxError, KeyError) as error:
        raise UsageError(f"{program} holds no words for a judge ({error}): type milr data get") from error
    return system, user


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
