"""Flat names and values to checked settings: built-in defaults, the model's, the strategy's, the user's."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, Self, cast, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, model_validator

from milr.display import show_table
from milr.errors import UsageError, say_reason, unknown_name
from milr.registry import Entry, find, load
from milr.settings.models import METHOD_SETTINGS, MethodSettings, MilrSettings, RunSettings, SamplingParams
from milr.settings.strategies import STRATEGIES

_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


class OtherSettings(MethodSettings):
    """Stored settings of a method that this process does not know."""

    model_config = ConfigDict(extra="allow")


class Settings(BaseModel):
    """All settings of a run: everything that it depends on besides tasks, model and reward."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "milr"
    """The method's name."""
    own: SerializeAsAny[MethodSettings] = MilrSettings()
    """The method's own settings."""
    sampling: SamplingParams = SamplingParams()
    """Sampling parameters of the image tokens."""
    run: RunSettings = RunSettings()
    """Seed, batch and limits."""

    @model_validator(mode="before")
    @classmethod
    def _read_own(cls, values: Any) -> Any:
        """Read the method's settings with the settings model that the method declares."""
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, Any]", values)
        if isinstance(given.get("own"), MethodSettings):
            return given
        # settings may be read from files, so no method is imported for them
        declared = METHOD_SETTINGS.get(given.get("method", "milr"), OtherSettings)
        return {**given, "own": declared.model_validate(given.get("own", {}))}

    def __repr__(self) -> str:
        """Return the method and all settings that are set, as `make_settings` takes them, on one line."""
        said = ", ".join(f"{name}={value!r}" for name, value in self.flat.items() if value is not None)
        return f"Settings({self.method!r}, {said})"

    def _repr_html_(self) -> str:
        return show_table(f"settings of {self.method}", {k: v for k, v in self.flat.items() if v is not None})

    @property
    def flat(self) -> dict[str, Any]:
        """Return all settings by name, the method's first."""
        return {**self.own.model_dump(), **self.sampling.model_dump(), **self.run.model_dump()}

    def get(self, name: str, default: Any = None) -> Any:
        """Return one setting by name, or the default if the method does not read it."""
        return self.flat.get(name, default)

    def most_images(self, tasks: int) -> int:
        """Return the largest number of images that a run of this many tasks draws."""
        limits = self.run
        each = [self.own.most_drawings, limits.max_drawings, limits.max_reward_calls]
        most = tasks * min(limit for limit in each if limit is not None)
        total = [most, limits.total_drawings, limits.total_reward_calls]
        return math.ceil(min(limit for limit in total if limit is not None))

    def change(self, **changes: object) -> Self:
        """Return a checked copy with these values changed.

        Raises:
            UsageError: The method does not read a name, or a value is not allowed.
        """
        made = make_settings(self.method, changes, self.flat, declared=type(self.own))
        own = self.own if isinstance(self.own, OtherSettings) else made.own
        return type(self)(method=made.method, own=own, sampling=made.sampling, run=made.run)


def make_settings(
    method: str = "milr",
    given: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
    *,
    declared: type[MethodSettings] | None = None,
) -> Settings:
    """Check and merge: built-in defaults, then `defaults`, then the strategy's recommendations, then `given`.

    Args:
        method: Name of the method, as `milr.load_method` takes it.
        given: The user's settings, by name. A name that the method does not read is an error.
        defaults: A model's defaults, by name. Names that the method does not read are left out.
        declared: The settings model of the method; None asks the method of that name.

    Raises:
        UsageError: No such method or setting, a setting that the method does not read, or a value that is not allowed.
    """
    given, defaults = given or {}, defaults or {}
    declared = declared or find_settings(method)
    kinds: tuple[type[BaseModel], ...] = (declared, SamplingParams, RunSettings)
    for name in given:
        if not any(name in kind.model_fields for kind in kinds):
            raise unread(method, name, kinds)
    merged = {**defaults, **_recommended(given, defaults), **given}
    own, sampling, run = (_validate(kind, merged) for kind in kinds)
    assert isinstance(own, MethodSettings)
    assert isinstance(sampling, SamplingParams)
    assert isinstance(run, RunSettings)
    return Settings(method=method, own=own, sampling=sampling, run=run)


def find_settings(method: str) -> type[MethodSettings]:
    """Return the settings model of a method; a method from outside the package is imported.

    Raises:
        UsageError: No method has that name, or it declares no settings.
    """
    if method in METHOD_SETTINGS:
        return METHOD_SETTINGS[method]
    return read_declared(method, load(find("method", method, _NAMES)))


def read_declared(name: str, method: object) -> type[MethodSettings]:
    """Return the settings model that a method declares.

    Args:
        name: The method's, for the error.
        method: An object with the attribute `settings`, or a generator function whose parameter is annotated as
            ``TaskContext[ItsSettings]``.

    Raises:
        UsageError: The method is neither of the two.
    """
    declared: object = getattr(method, "settings", None)
    if declared is None and inspect.isfunction(method):
        try:
            hints = get_type_hints(method)
        except (NameError, TypeError):  # names imported for type checkers only
            hints = dict[str, Any]()
        first = next(iter(inspect.signature(method).parameters), "")
        declared = next(iter(get_args(hints.get(first))), None)
    if isinstance(declared, type) and issubclass(declared, MethodSettings):
        return declared
    raise UsageError(
        f"the method {name!r} declares no settings: annotate its parameter as ctx: TaskContext[StepSettings], or name "
        "a milr.methods.context.Method"
    )


def _recommended(given: Mapping[str, object], defaults: Mapping[str, object]) -> Mapping[str, float]:
    """Return the strategy's recommended settings; refuse a ratio of latents that the strategy does not have."""
    name = given.get("strategy", defaults.get("strategy"))
    if not isinstance(name, str) or name not in STRATEGIES:
        return {}
    strategy = STRATEGIES[name]
    for modality in {"text", "image"}.difference(strategy.latents):
        if given.get(f"{modality}_ratio"):
            raise UsageError(
                f"the strategy {name!r} has no {modality} latents, so it does not read {modality}_ratio: leave it out, "
                f"or choose {' or '.join(one for one, other in STRATEGIES.items() if modality in other.latents)}"
            )
    return strategy.defaults if "strategy" in given else {}


def unread(method: str, name: str, kinds: Iterable[type[BaseModel]]) -> UsageError:
    """Return the error for a setting that a method does not read; it names the methods that do, or the nearest name."""
    readers = [other for other, kind in METHOD_SETTINGS.items() if name in kind.model_fields]
    if readers:
        return UsageError(
            f"the method {method!r} does not read the setting {name!r}; {', '.join(readers)} "
            f"{'does' if len(readers) == 1 else 'do'}: leave it out, or choose another method"
        )
    known = [field for kind in kinds for field in kind.model_fields]
    return unknown_name("setting", name, known)


def all_fields() -> dict[str, Any]:
    """Return all settings of built-in methods, then sampling parameters, then run settings: name -> pydantic field."""
    kinds = (*dict.fromkeys(METHOD_SETTINGS.values()), SamplingParams, RunSettings)
    return {name: field for kind in kinds for name, field in kind.model_fields.items()}


_NAMES = {name: Entry("", "") for name in METHOD_SETTINGS}


def json_schema(method: str) -> dict[str, Any]:
    """Return the JSON schema of a built-in method's settings, as `make_settings` takes them: flat, all optional."""
    properties: dict[str, Any] = {}
    for kind in (METHOD_SETTINGS[method], SamplingParams, RunSettings):
        properties |= kind.model_json_schema()["properties"]
    return {"title": method, "type": "object", "properties": properties, "additionalProperties": False}


def _validate(kind: type[BaseModel], values: Mapping[str, object]) -> BaseModel:
    try:
        return kind.model_validate({name: values[name] for name in kind.model_fields if name in values})
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        if wrong["type"] == "value_error":
            raise UsageError(say_reason(wrong)) from None
        limits = allowed(kind, name) if wrong["type"] in _BOUNDS else ""
        raise UsageError(f"{name} {wrong['input']}: {limits or say_reason(wrong)}") from None


def allowed(kind: type[BaseModel], name: str) -> str:
    """Return a field's bounds in words; empty if it has none."""
    bounds = kind.model_fields[name].metadata
    least, above, most = (
        next((getattr(bound, end) for bound in bounds if hasattr(bound, end)), None) for end in ("ge", "gt", "le")
    )
    if least is not None and most is not None:
        return f"must be in [{least}, {most}]"
    if least is not None:
        return f"must be at least {least}"
    return "" if above is None else f"must be above {above}"
