"""Methods by name: ways to spend test-time compute on a task. A method is imported when it is first used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from milr.errors import UsageError
from milr.registry import Entry, find, load
from milr.settings import METHOD_SETTINGS, read_declared

if TYPE_CHECKING:
    from milr.methods.context import Method, Need

__all__ = ["METHODS", "POOLED", "MethodEntry", "choose_method", "load_method"]


@dataclass(frozen=True)
class MethodEntry(Entry):
    """One line of the table of methods."""

    needs: frozenset[Need] = frozenset()
    """Abilities that a model must have, see `milr.methods.needs`."""


_TEXT: frozenset[Need] = frozenset({"text"})
_TOKENS: frozenset[Need] = frozenset({"image tokens"})
_LATENTS: frozenset[Need] = frozenset({"latents"})
METHODS: Mapping[str, MethodEntry] = {
    "one-shot": MethodEntry("milr.methods.one_shot:one_shot", "one drawing from the prompt alone"),
    "text-reasoning": MethodEntry(
        "milr.methods.one_shot:text_reasoning", "one drawing after the model's greedy text", needs=_TEXT
    ),
    "best-of-n": MethodEntry(
        "milr.methods.best_of_n:best_of_n", "up to K + 1 drawings from one greedy text; the best one"
    ),
    "best-of-n-sampled": MethodEntry(
        "milr.methods.best_of_n:best_of_n_sampled", "the same, each from a text of its own", needs=_TEXT
    ),
    "best-of-n-greedy-first": MethodEntry(
        "milr.methods.best_of_n:best_of_n_greedy_first",
        "the same, but the first text is greedy, as in a search",
        needs=_TEXT,
    ),
    "parm": MethodEntry(
        "milr.methods.parm:parm",
        "the same from one text; drawings without potential are left unfinished",
        needs=_TOKENS,
    ),
    "reflection": MethodEntry(
        "milr.methods.reflection:reflection", "rewrite the text from what the reward criticises, redraw", needs=_TEXT
    ),
    "milr": MethodEntry(
        "milr.methods.milr:milr", "the paper's search over the latents of text and image", needs=_LATENTS
    ),
    "consensus": MethodEntry(
        "milr.methods.consensus:consensus", "ours: write several texts, draw those that agree most", needs=_TEXT
    ),
    "keep-right": MethodEntry(
        "milr.methods.keep_right:keep_right", "ours: draw again around the objects that are right", needs=_TOKENS
    ),
    "grid-prune": MethodEntry(
        "milr.methods.grid_prune:grid_prune", "ours: drawings grow side by side, the worse half drops", needs=_TOKENS
    ),
}
"""Name -> entry. A method is one file and one line here."""
POOLED = ("best-of-n", "best-of-n-sampled")
"""Methods with independent drawings: every best of n can be computed from one pool of N of their drawings."""


def choose_method(name: str | None, pool: int | None) -> str:
    """Return the method's name: the one asked for, else the one for a pool, else the paper's."""
    return name or (POOLED[0] if pool else "milr")


def load_method(name: str = "milr") -> Method:
    """Return the method of that name, with the settings that it reads.

    Args:
        name: One of `METHODS`, of an installed package, or ``package.module:attribute``, ``./file.py:attribute``: a
            generator function of a ``TaskContext[ItsSettings]``, or a `milr.methods.context.Method`.

    Raises:
        UsageError: There is no such method, or the object is not a method.
    """
    from milr.methods.context import Method

    found = load(find("method", name, METHODS))
    if name in METHOD_SETTINGS:
        return Method(name, found, METHOD_SETTINGS[name], METHODS[name].needs)
    solve = found.solve if isinstance(found, Method) else found
    if not inspect.isgeneratorfunction(solve):
        said = f"{type(solve).__name__}, not a generator function"
        raise UsageError(f"the method {name!r} is a {said}: write def method(ctx): ... yield from ctx.draw()")
    declared = read_declared(name, found)
    return replace(found, name=name) if isinstance(found, Method) else Method(name, solve, declared)
