"""Models by name. A model is imported, and its weights are read, when it is first used."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from milr.errors import UsageError
from milr.models.families import FAMILIES, FamilyEntry, find_family
from milr.models.hub import WEIGHTS, Confirm, find_at_hub, parse_hub_name, refuse
from milr.registry import Entry, construct, find, is_code, is_named, load, split_code
from milr.untrusted import read_file

if TYPE_CHECKING:
    from milr.models.base import Capabilities, Description, Model

__all__ = [
    "FAMILIES",
    "MODELS",
    "FamilyEntry",
    "ModelClass",
    "ModelEntry",
    "ModelSource",
    "check_model",
    "describe_model",
    "embedded_folder",
    "find_model",
    "find_source",
    "load_model",
    "read_best_method",
    "read_capabilities",
    "reads_free_prompts",
]

_OWN = FAMILIES["janus"].target


@dataclass(frozen=True)
class ModelEntry(Entry):
    """One line of the table of models."""

    is_checkpoint: bool = False
    """True if the name is that of a folder in the package's assets, which is loaded."""


MODELS: Mapping[str, ModelEntry] = {
    "embedded": ModelEntry(
        _OWN, "a Janus checkpoint in miniature that comes with milr: draws icons", is_checkpoint=True
    ),
    "embedded-small": ModelEntry(
        _OWN, "its sibling of a quarter of the size, made by the same recipe", is_checkpoint=True
    ),
    "diffusers": ModelEntry(
        "milr.models.diffusers:Diffusers",
        "diffusers:NAME_OR_FOLDER,size=N,steps=N,lora=NAME_OR_FOLDER: any text-to-image pipeline of diffusers",
    ),
    "openai": ModelEntry(
        "milr.remote.openai_images:OpenAIImages",
        "openai:MODEL,url=URL,size=N,quality=NAME,price=DOLLARS,seeds=yes: a service with OpenAI's images API",
    ),
}
"""Name -> entry: checkpoints that come with milr, and models that are no folder of one of `FAMILIES`."""


@dataclass(frozen=True)
class ModelClass:
    """A model without a checkpoint folder: a class or a function that makes one, see `milr.models.base.Model`."""

    name: str
    """The given name, without its argument."""
    make: Any
    """Makes the model; its parameters name what it needs."""
    argument: str | None = None
    """The text after the name's colon."""
    offline: bool = False
    """True if nothing may be fetched, not even the small files that describe it."""

    @property
    def capabilities(self) -> Capabilities:
        """Return the capabilities that the class declares before it makes a model.

        Raises:
            UsageError: It declares none, or its argument names no model.
        """
        return self.description.capabilities

    @property
    def description(self) -> Description:
        """Return the class's description of the model that it would make: from `describe`, or from its attributes.

        Raises:
            UsageError: It declares no capabilities, or its argument names no model.
        """
        from milr.models.base import Capabilities, Description

        if callable(describe := getattr(self.make, "describe", None)):
            found: object = describe(self.argument, offline=self.offline)
            if not isinstance(found, Description):
                raise UsageError(f"describe() of the model {self.name!r} returns no milr.models.base.Description")
            return found
        declared: object = getattr(self.make, "capabilities", None)
        if not isinstance(declared, Capabilities):
            raise UsageError(
                f"the model {self.name!r} declares no capabilities: give its class the attribute capabilities = "
                "milr.models.base.Capabilities(...)"
            )
        defaults: object = getattr(self.make, "defaults", None)
        return Description(
            capabilities=declared,
            defaults=cast("Mapping[str, object]", defaults) if isinstance(defaults, Mapping) else {},
            profile="",
            summary="",
            size=None,
            reads_free_prompts=bool(getattr(self.make, "reads_free_prompts", True)),
        )


ModelSource: TypeAlias = Path | ModelClass
"""Source of a model: a checkpoint's folder, or a class."""


def embedded_folder(name: str = "embedded") -> Path:
    """Return the folder of one of `MODELS`, a checkpoint that plain transformers can load too."""
    return Path(__file__).parent.parent / "assets" / name


def find_source(name: str, *, weights: bool = True, offline: bool = False, confirm: Confirm = refuse) -> ModelSource:
    """Return the source of a model; its weights are not read.

    Args:
        name: As `find_model` takes it; or a name of an installed package, with its argument after a colon, or
            ``package.module:attribute``, ``./file.py:attribute``, with its argument after another colon.
        weights: As in `find_model`.
        offline: As in `find_model`.
        confirm: As in `find_model`.

    Raises:
        UsageError: As `find_model`; or the named code cannot be imported.
    """
    is_there = Path(name).exists() and not name.endswith(".py")
    if is_there or (name in MODELS and MODELS[name].is_checkpoint):
        return find_model(name, weights=weights, offline=offline, confirm=confirm)
    base, colon, argument = name.partition(":")
    if is_named("model", base, MODELS):
        return _make_source(base, argument if colon else None, offline)
    if is_code(name):
        return _make_source(*split_code(name), offline)
    return find_model(name, weights=weights, offline=offline, confirm=confirm)


def _make_source(name: str, argument: str | None, offline: bool) -> ModelClass:
    made = load(find("model", name, MODELS))
    if argument is not None and not (callable(made) and "argument" in inspect.signature(made).parameters):
        raise UsageError(f"the model {name!r} takes no argument, and is given {argument!r}: type {name}")
    return ModelClass(name, made, argument, offline)


def find_model(name: str, *, weights: bool = True, offline: bool = False, confirm: Confirm = refuse) -> Path:
    """Return the folder of a model that is a checkpoint; `find_source` also finds other models.

    Args:
        name: One of `MODELS`, a folder, or a hub's name: ``organisation/name`` or ``organisation/name@revision``.
        weights: If true, its weights are needed. Files without weights are fetched without asking.
        offline: Fetch nothing from the hub.
        confirm: Decides on a download, see `milr.models.hub`.

    Raises:
        UsageError: There is no such model, folder or hub name, or the download was not confirmed.
    """
    if name in MODELS and MODELS[name].is_checkpoint:
        return embedded_folder(name)
    if Path(name).exists():
        return Path(name)
    at_hub = parse_hub_name(name)
    if at_hub is not None:
        return find_at_hub(at_hub, weights=(WEIGHTS,) if weights else (), offline=offline, confirm=confirm)
    check_model(name)
    if is_named("model", name.partition(":")[0], MODELS) or is_code(name):
        raise UsageError(f"the model {name!r} is no checkpoint: give a folder, a name at the hub, or embedded")
    return Path(name)


def check_model(name: str) -> None:
    """Refuse text that cannot be a model's name, folder or hub name; the hub is not asked."""
    if not (Path(name).exists() or "/" in name or "\\" in name or is_named("model", name.partition(":")[0], MODELS)):
        base, _ = split_code(name)
        find("model", base, MODELS, also=", a folder, a name at the hub such as deepseek-community/Janus-Pro-1B")


def read_capabilities(source: ModelSource, profile: str | None = None) -> Capabilities:
    """Read a model's capabilities from its config, or its class, alone.

    Raises:
        UsageError: The folder holds no model that milr knows, or the class declares nothing.
    """
    if isinstance(source, ModelClass):
        return source.capabilities
    return find_family(source).open(source, profile).capabilities


def describe_model(source: ModelSource, profile: str | None = None) -> Description:
    """Return everything that is known about a model before its weights are loaded; it may take seconds.

    Raises:
        UsageError: As `read_capabilities`.
    """
    if isinstance(source, ModelClass):
        return source.description
    return find_family(source).open(source, profile).description


def reads_free_prompts(source: ModelSource) -> bool:
    """Return true if a model reads any text, false if it reads only the grammar of `milr.tasks`.

    This takes milliseconds: it reads milr's own settings beside the checkpoint; other faults are found when it is
    loaded. A class declares it by the attribute of that name; the default is true.
    """
    if isinstance(source, ModelClass):
        return bool(getattr(source.make, "reads_free_prompts", True))
    try:
        settings: object = json.loads(read_file(source / "milr.json"))
    except (OSError, ValueError, RecursionError):
        return True
    return not (isinstance(settings, dict) and cast("dict[str, object]", settings).get("grammar") == "icons")


def read_best_method(source: ModelSource) -> dict[str, str]:
    """Return the best measured method of a model, and its strategy if it has one; {} means the paper's.

    This takes milliseconds: it reads milr's own settings beside the checkpoint. A class declares it by the attribute
    ``best``; the default is {}.
    """
    if isinstance(source, ModelClass):
        declared: object = getattr(source.make, "best", {})
        return dict(cast("Mapping[str, str]", declared)) if isinstance(declared, Mapping) else {}
    try:
        settings: object = json.loads(read_file(source / "milr.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    best = cast("dict[str, object]", settings).get("best") if isinstance(settings, dict) else None
    return cast("dict[str, str]", best) if isinstance(best, dict) else {}


def load_model(
    name: str = "embedded",
    *,
    device: str = "cpu",
    dtype: str | None = None,
    profile: str | None = None,
    offline: bool = False,
    confirm: Confirm = refuse,
    settings: Mapping[str, object] | None = None,
    deterministic: bool = False,
    graphs: bool = True,
) -> Model:
    """Load a frozen model.

    Args:
        name: One of `MODELS`, with its argument after a colon; the path of a folder with a checkpoint of one of
            `FAMILIES`, or its name at the Hugging Face hub; a name of an installed package; or
            ``package.module:attribute``, ``./file.py:attribute``: a class, or a function that makes a model. An
            argument after another colon is given to its parameter ``argument``.
        device: As torch names it: "cpu", "cuda", "cuda:1".
        dtype: Dtype of the weights: "float32", "bfloat16" or "float16"; None is float32 on CPU, bfloat16 elsewhere.
        profile: Its prompt profile, one of `milr.models.prompts.PROFILES`; None takes the checkpoint's own.
        deterministic: Decode in batches of fixed shape, so that in bfloat16 too an image does not depend on the rest of
            its batch. A small batch then takes as long as a full one.
        graphs: On a CUDA device, record decode steps as CUDA graphs and replay them.
        offline: Fetch nothing from the hub.
        confirm: Called with a download, to allow or refuse it; the default refuses all.
        settings: The user's settings, by name: latents that the model does not have are refused before its weights are
            read.

    Raises:
        UsageError: No such model or folder, no safetensors in it, an unknown device, dtype or profile, a download that
            was not confirmed, or latents in `settings` that it does not have.
    """
    if not isinstance(cast("object", name), str):
        raise UsageError(f"{name!r} ({type(name).__name__}) is no model's name: give one in words, or a folder's path")
    source = find_source(name, offline=offline, confirm=confirm)
    capabilities = read_capabilities(source, profile) if settings or isinstance(source, ModelClass) else None
    if settings and capabilities is not None:
        from milr.models.absent import check_latents

        check_latents(settings, capabilities)
    from milr.models.devices import own_numbers, telling_shortage

    how = {"device": device, "dtype": dtype, "profile": profile, "deterministic": deterministic, "graphs": graphs}
    with own_numbers(), telling_shortage(f"the model {name}"):
        if isinstance(source, ModelClass):
            hub = {"offline": offline, "confirm": confirm}
            made: Model = construct(source.make, {"argument": source.argument, **hub, **how})
            _check_members(name, made)
        else:
            made = load(find_family(source))(source, **how)
    return made


def _check_members(name: str, made: object) -> None:
    """Refuse an object that lacks a member that every model has."""
    from milr.models.base import Model

    members = [*Model.__annotations__, *(member for member in vars(Model) if not member.startswith("_"))]
    lacking = [member for member in members if not hasattr(made, member)]
    if lacking:
        raise UsageError(f"the model {name!r} lacks {', '.join(lacking)}: milr.models.base.Model says what a model has")
