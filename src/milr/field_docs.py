"""Documentation of fields in a class's `help`: Python itself keeps no docstrings of fields, only the source does."""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from types import ModuleType

_HEADING = "Attributes:"
_PACKAGE = __name__.partition(".")[0]


def document_fields(kind: type) -> None:
    """Add the documentation of a class's fields, inherited ones in this package included, to its docstring.

    A class without annotated fields or without source is left unchanged; a second call changes nothing.
    """
    fields: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] == _PACKAGE:
            fields |= _read_module(sys.modules[base.__module__]).get(base.__qualname__, {})
    if fields and _HEADING not in (kind.__doc__ or ""):
        listed = "\n".join(f"    {line}" for line in fields.values())
        kind.__doc__ = f"{inspect.cleandoc(kind.__doc__ or '')}\n\n{_HEADING}\n{listed}\n"


@cache
def _read_module(module: ModuleType) -> dict[str, dict[str, str]]:
    """Return class -> field -> its line, for all classes at the top level of a module."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except OSError:
        return {}
    return {node.name: _read_class(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _read_class(node: ast.ClassDef) -> dict[str, str]:
    fields: dict[str, str] = {}
    for here, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(here, ast.AnnAssign) or not isinstance(here.target, ast.Name):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            text = " ".join(after.value.value.split())
        fields[here.target.id] = f"{here.target.id} ({_write_type(here)}){f': {text}' if text else ''}"
    return fields


def _write_type(field: ast.AnnAssign) -> str:
    """Return a field's type, and its default if it is a plain value."""
    kind = field.annotation
    if isinstance(kind, ast.Subscript) and isinstance(kind.value, ast.Name) and kind.value.id == "Annotated":
        assert isinstance(kind.slice, ast.Tuple)
        kind = kind.slice.elts[0]
    value = field.value
    if isinstance(value, ast.Call):  # a Field(default=...) of pydantic or of dataclasses
        value = next((word.value for word in value.keywords if word.arg == "default"), None)
    default = "" if value is None else f", default {ast.unparse(value)}"
    return f"{ast.unparse(kind)}{default}"
