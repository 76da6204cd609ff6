"""Settings whose value is a name from a table. The table holds each name once, with its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from milr.errors import unknown_name


class Described(Protocol):
    """A table's value with one line of help."""

    @property
    def summary(self) -> str:
        """Return one line of help."""
        ...


@dataclass(frozen=True)
class OneOf:
    """Annotation of a `str` field: allow the names of a table, refuse others with the nearest match.

    ``strategy: Annotated[str, OneOf("strategy", STRATEGIES)]``
    """

    kind: str
    """Noun for the names in error messages."""
    table: Mapping[str, Described]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate a string, then look it up."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """List the names."""
        return {**handler(schema), "enum": list(self.table)}

    def _check(self, name: str) -> str:
        if name not in self.table:
            raise ValueError(str(unknown_name(self.kind, name, self.table)))
        return name

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the names with their summaries, one each, for command lines."""
        return tuple(f"{name}: {entry.summary}" for name, entry in self.table.items())

    @property
    def help(self) -> str:
        """Return the names with their summaries in one line, for forms and tables."""
        return "; ".join(self.lines)
