"""`milr info`: the names that other commands take."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import typer

from milr._version import __version__
from milr.cli.capabilities import say_capabilities
from milr.cli.options import Offline, Profile
from milr.registry import list_plugins
from milr.settings import GRADIENTS, METHOD_SETTINGS, NOISES, SAMPLERS, STRATEGIES, json_schema
from milr.tasks import list_words


def info(
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object, with the JSON schema of each method's settings and the embedded folder."
        ),
    ] = False,
    words: Annotated[
        bool, typer.Option("--words", help="The words that prompts of the embedded model may use, in place of names.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Say what this model can do, from its small files; default: list all names.")
    ] = None,
    profile: Profile = None,
    offline: Offline = False,
) -> None:
    """List models, prompt profiles, rewards, methods with the settings that they read, strategies and benchmarks."""
    if words:
        vocabulary = list_words()
        print(json.dumps(vocabulary, indent=2) if as_json else "\n".join(_say_words(vocabulary)))
        return
    if model is not None:
        _say_model(model, profile, offline, as_json)
        return
    from milr.benchmarks import BENCHMARKS
    from milr.methods import METHODS
    from milr.models import FAMILIES, MODELS, embedded_folder
    from milr.models.prompts import PROFILES
    from milr.rewards import REWARDS

    tables = {
        "models": MODELS,
        "families": FAMILIES,
        "profiles": PROFILES,
        "rewards": REWARDS,
        "methods": METHODS,
        "strategies": STRATEGIES,
        "gradients": GRADIENTS,
        "noises": NOISES,
        "samplers": SAMPLERS,
        "benchmarks": BENCHMARKS,
    }
    lists = {kind: {name: entry.summary for name, entry in table.items()} for kind, table in tables.items()}
    offered = {kind: _list_offered(kind) for kind in tables}
    for kind, others in offered.items():
        lists[kind] |= {one["name"]: one["summary"] for one in others if one["name"] not in tables[kind]}
    if as_json:
        schemas = {method: json_schema(method) for method in METHOD_SETTINGS}
        embedded = str(embedded_folder())
        found = {**lists, "settings": schemas, "embedded_model": embedded, "from_packages": offered}
        print(json.dumps({"version": __version__, **found}, indent=2))
        return
    for method, own in METHOD_SETTINGS.items():
        if own.model_fields:
            lists["methods"][method] += f" [{', '.join(own.model_fields)}]"
    for kind, others in offered.items():
        for one in others:
            if one["name"] in tables[kind]:
                lists[kind][one["target"]] = f"{one['name']!r} of {one['package']}; the name is milr's own"
            else:
                lists[kind][one["name"]] = f"{one['summary']} (from {one['package']})".strip()
    width = max(len(name) for summaries in lists.values() for name in summaries)
    for kind, summaries in lists.items():
        for name, summary in summaries.items():
            print(f"{kind:<12}{name:<{width}}  {summary}")


def _say_model(name: str, profile: str | None, offline: bool, as_json: bool) -> None:
    """Print a model's capabilities and the methods that work with it; no weights are read."""
    from milr.methods.needs import list_working
    from milr.models import find_source, read_best_method, read_capabilities

    source = find_source(name, weights=False, offline=offline)
    able = read_capabilities(source, profile)
    methods, best = list_working(able), read_best_method(source).get("method", "milr")
    if as_json:
        found = {"model": name, "capabilities": dataclasses.asdict(able), "methods": methods, "default_method": best}
        print(json.dumps(found, indent=2))
        return
    for line in (f"model       {name}, of the family {able.family or 'of its own'}", *say_capabilities(able)):
        print(line)
    print(f"methods     {' or '.join(methods)}; default: {best}")


def _list_offered(kind: str) -> list[dict[str, str]]:
    """Return the names of a kind that installed packages offer, "models" for instance."""
    return [
        {
            "name": name,
            "summary": entry.summary,
            "package": str(entry.package),
            "target": entry.target,
        }
        for name, entries in sorted(list_plugins(kind.removesuffix("s")).items())
        for entry in entries
    ]


def _say_words(vocabulary: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[str]:
    yield "Prompts of the embedded model are in English: one to three of [a, or a count] [colour] object, joined by"
    yield "'and', commas or a relation, as in 'a photo of two red apples left of a dog'. Other models read any text."
    for kind, table in vocabulary.items():
        yield f"\n{kind}:"
        width = max(map(len, table))
        yield from (f"  {word:<{width}}  {', '.join(others)}".rstrip() for word, others in table.items())
