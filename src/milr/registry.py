"""Names of models, rewards, methods and benchmarks: milr's own, those of installed packages, and code that is typed.

A name is looked up in milr's table, then among the entry points of installed packages (the groups in `GROUPS`), and is
imported only when it is asked for. A name may also be ``package.module:attribute`` or ``./file.py:attribute``. Such
code is loaded only if the user types its name: a name from a run, a recipe or a request goes through `check_stored`
first.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from milr.errors import UsageError, unknown_name

GROUPS: Mapping[str, str] = {
    "model": "milr.models",
    "reward": "milr.rewards",
    "method": "milr.methods",
    "benchmark": "milr.benchmarks",
}
"""Kind of a name -> the group of entry points in which packages offer more names."""
_ARGUMENT = r"(:(?P<argument>.*))?"
_FILE = re.compile(rf"(?P<code>(?P<module>.+?\.py)(:(?P<attribute>[^:]*))?){_ARGUMENT}", re.DOTALL)
_WORDS = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_MODULE = re.compile(rf"(?P<code>(?P<module>{_WORDS}):(?P<attribute>{_WORDS})){_ARGUMENT}", re.DOTALL)
_LISTED = 12  # most names in an error


@dataclass(frozen=True)
class Entry:
    """One line of a table."""

    target: str
    """Place of the object: "package.module:Name" or "./file.py:Name"."""
    summary: str
    """One line of help for `milr info`."""
    package: str | None = None
    """Name and version of the installed package that offers it; None for milr's own entries and for code."""


def find(kind: str, name: str, table: Mapping[str, Entry], also: str = "") -> Entry:
    """Return the entry of that name; import nothing, run no file.

    Args:
        kind: Kind of the name, for the error; packages can add to the kinds of `GROUPS`.
        name: A name of the table or of an installed package, or code: ``package.module:attribute``,
            ``./file.py:attribute``. An argument after it is for `split_code` first.
        table: milr's own names.
        also: What else may be typed, for the error: ", a folder".

    Raises:
        UsageError: There is no such name or file, or several packages offer it. Names the nearest one.
    """
    if name in table:
        return table[name]
    offered = list_plugins(kind)
    if name in offered:
        entries = offered[name]
        if len(entries) > 1:
            packages = " and ".join(str(entry.package) for entry in entries)
            targets = " or ".join(entry.target for entry in entries)
            raise UsageError(f"{packages} both have a {kind} {name!r}: type {targets}")
        return entries[0]
    if kind in GROUPS and (match := _match_code(name)):
        if match["argument"] is not None:
            raise UsageError(f"a {kind} takes no argument, and {name!r} has one: type {match['code']}")
        if match.re is _FILE:
            _check_file(match["module"], match["attribute"] or "")
        return Entry(name, "code that was typed")
    code = ", and package.module:attribute or ./file.py:attribute" if kind in GROUPS else ""
    raise unknown_name(kind, name, [*table, *offered], also + code)


def is_named(kind: str, name: str, table: Mapping[str, Entry]) -> bool:
    """Return true if milr or an installed package has that name."""
    return name in table or name in list_plugins(kind)


def is_code(name: str) -> bool:
    """Return true if a name is ``package.module:attribute`` or ``file.py:attribute``, with an argument or without."""
    return _match_code(name) is not None


def split_code(name: str) -> tuple[str, str | None]:
    """Split ``file.py:attribute:argument`` into the code and its argument, the text after the second colon, or None.

    A name that is no code is returned as it is.
    """
    match = _match_code(name)
    return (name, None) if match is None else (match["code"], match["argument"])


def _match_code(name: str) -> re.Match[str] | None:
    found = _MODULE.fullmatch(name)
    return found if found and not found["module"].endswith(".py") else _FILE.fullmatch(name)


def check_stored(kind: str, name: str, table: Mapping[str, Entry], where: object, typed: Collection[str] = ()) -> None:
    """Refuse code that the user did not type: a run, a recipe or a request must not choose what code runs here.

    Args:
        kind: Kind of the name.
        name: The stored name.
        table: milr's own names.
        where: Source of the name, for the error.
        typed: Code that the user typed again.

    Raises:
        UsageError: Says how to type it.
    """
    named = is_named(kind, name, table) or is_named(kind, name.partition(":")[0], table)  # the rest is its argument
    if not named and is_code(name) and name not in typed:
        raise UsageError(
            f"{where} names the {kind} {name!r}, and code is loaded only when you type it: if you trust it, add "
            f"--{kind} {name}"
        )


def list_plugins(kind: str) -> Mapping[str, list[Entry]]:
    """Return the names of a kind that installed packages offer: name -> entries, more than one if packages conflict."""
    return _read_plugins(GROUPS[kind], tuple(sys.path)) if kind in GROUPS else {}


def load(entry: Entry) -> Any:
    """Import the entry's module and return the object.

    Raises:
        UsageError: There is no such module, file or attribute, or it cannot be imported; the message lists the names
            that exist.
    """
    match = _match_code(entry.target)
    whose = f"{entry.target}, of the package {entry.package}," if entry.package else entry.target
    if match is None:
        raise UsageError(f"{whose} is no package.module:attribute: see its entry point")
    where, attribute = str(match["module"]), str(match["attribute"] or "")
    if where.endswith(".py"):
        _check_file(where, attribute)
        module = _import(whose, lambda: _load_file(Path(where).expanduser().resolve()))
    else:
        module = _import(whose, lambda: import_module(where))
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise UsageError(f"{where} has no {name!r}: {_propose(name, _public(found))}")
        found = getattr(found, name)
    return found


def construct(made: Callable[..., Any], offered: Mapping[str, object]) -> Any:
    """Call a class or a factory with those of the offered arguments that its parameters name.

    Raises:
        UsageError: It needs an argument that is not offered; says which are.
    """
    parameters = inspect.signature(made).parameters
    for name, parameter in parameters.items():
        asked = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if asked and name not in offered and parameter.default is parameter.empty:
            raise UsageError(
                f"{getattr(made, '__name__', made)} asks for {name!r} when it is made, and is offered "
                f"{', '.join(offered)}: give {name} a default value"
            )
    return made(**{name: value for name, value in offered.items() if name in parameters})


@cache
def _read_plugins(group: str, path: tuple[str, ...]) -> dict[str, list[Entry]]:
    """Read a group's entry points for one state of the search path."""
    found: dict[str, list[Entry]] = {}
    for point in entry_points(group=group):
        entry = Entry(point.value, *_describe(point))
        if entry not in found.setdefault(point.name, []):
            found[point.name].append(entry)
    return found


def _describe(point: EntryPoint) -> tuple[str, str]:
    """Return the summary of the entry point's package, and its name and version."""
    package = point.dist
    if package is None:
        return "", "an unnamed package"
    summary: str | None = package.metadata["Summary"]
    return summary or "", f"{package.name} {package.version}"


def _check_file(path: str, attribute: str) -> None:
    """Refuse a missing file, and a file without an attribute; the file is not run."""
    file = Path(path).expanduser()
    if not file.is_file():
        there = sorted(path.name for path in file.parent.glob("*.py")) if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, there, n=1)
        raise UsageError(f"no file {path}: {_propose(file.name, there) if near else 'give the path of a Python file'}")
    if not attribute:
        try:
            body = ast.parse(file.read_bytes()).body
        except (SyntaxError, ValueError) as error:
            raise _unimportable(path, error) from error
        names = [one.name for one in body if isinstance(one, ast.ClassDef | ast.FunctionDef)]
        first = names[0] if names else "NAME"
        raise UsageError(f"{path} names no attribute: type {path}:{first}; {_propose('', names)}")


@cache
def _load_file(file: Path) -> ModuleType:
    """Run a file, once per process, under its own module name."""
    name = f"milr_typed_{file.stem}_{abs(hash(file)):x}"
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, "the name ends in .py"
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look up their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(target: str, read: Callable[[], ModuleType]) -> ModuleType:
    try:
        return read()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"cannot load {target}: no module {error.name!r} is installed here; check the spelling, install its "
            "package, or type ./file.py:attribute"
        ) from error
    except (Exception, SystemExit) as error:
        raise _unimportable(target, error) from error


def _unimportable(target: str, error: BaseException) -> UsageError:
    """Return the error for code that fails while it is imported, with the last line of its own that ran."""
    trace, line = error.__traceback__, 0
    file = _FILE.fullmatch(target)
    while trace is not None:
        if file and Path(trace.tb_frame.f_code.co_filename).name == Path(file["module"]).name:
            line = trace.tb_lineno
        trace = trace.tb_next
    said = " ".join(str(error).split()) or "no message"
    return UsageError(f"cannot load {target}: {type(error).__name__}: {said}{f' (line {line})' if line else ''}")


def _public(found: object) -> list[str]:
    """Return the names that a user may have meant: those that a module defines itself, or an object's own."""
    members = {name: getattr(found, name) for name in dir(found) if not name.startswith("_")}
    if not isinstance(found, ModuleType):
        return list(members)
    return [
        name
        for name, one in members.items()
        if not isinstance(one, ModuleType)
        and (not isinstance(one, type | FunctionType) or one.__module__ == found.__name__)
    ]


def _propose(given: str, names: Iterable[str]) -> str:
    listed = list(names)
    near = difflib.get_close_matches(given, listed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = ", ..." if len(listed) > _LISTED else ""
    return f"{hint}there is {', '.join(listed[:_LISTED]) + more if listed else 'nothing in it'}"
