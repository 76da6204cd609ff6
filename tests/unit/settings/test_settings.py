"""Settings: which ones each method reads, which value wins, and the refusals with their messages."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from milr.decode.sampling import sample
from milr.errors import UsageError
from milr.methods import METHODS, load_method
from milr.settings import (
    GRADIENTS,
    METHOD_SETTINGS,
    NOISES,
    SAMPLERS,
    STRATEGIES,
    MethodSettings,
    MilrSettings,
    OneOf,
    RunSettings,
    SamplingParams,
    Settings,
    all_fields,
    json_schema,
    make_settings,
)
from milr.testing import FakeModel

ALL = pytest.mark.parametrize("method", METHOD_SETTINGS)
SHARED = (SamplingParams, RunSettings)
VALUES: Mapping[str, Any] = {
    "steps": 3,
    "strategy": "alt",
    "text_ratio": 0.25,
    "image_ratio": 0.125,
    "learning_rate": 0.5,
    "l2": 0.75,
    "gradient": "negated",
    "noise": "fixed",
    "drawings_per_step": 2,
    "guidance": 1.5,
    "temperature": 0.5,
    "top_k": 7,
    "sampler": "race",
    "seed": 9,
    "stop_at": 0.5,
    "batch_size": 3,
    "max_drawings": 1.5,
    "max_seconds": 2.5,
    "max_reward_calls": 4,
    "max_cost": 0.01,
    "total_drawings": 5.5,
    "total_seconds": 6.5,
    "total_reward_calls": 7,
    "total_cost": 0.02,
}
"""An allowed value of every setting, none of them the built-in default."""


def readers(setting: str) -> list[str]:
    """Return the methods that read a setting."""
    return [name for name, own in METHOD_SETTINGS.items() if any(setting in k.model_fields for k in (own, *SHARED))]


def read_by(method: str) -> dict[str, Any]:
    """Return the values of all settings that a method reads."""
    return {name: value for name, value in VALUES.items() if method in readers(name)}


# --- tables


def test_every_method_has_settings_and_every_setting_a_method() -> None:
    assert list(METHOD_SETTINGS) == list(METHODS)
    assert list(all_fields()) == list(VALUES)
    for method in METHOD_SETTINGS:
        assert load_method(method).settings is METHOD_SETTINGS[method]


@pytest.mark.parametrize("table", [STRATEGIES, GRADIENTS, NOISES, SAMPLERS, METHODS])
def test_every_name_of_a_table_has_a_summary_of_one_line(table: Mapping[str, Any]) -> None:
    assert table
    summaries = [entry.summary for entry in table.values()]
    assert all(one and "\n" not in one and one == one.strip() and not one.endswith(".") for one in summaries)
    assert len(set(summaries)) == len(summaries)


def test_every_setting_has_help_and_every_model_a_docstring() -> None:
    for name, field in all_fields().items():
        assert field.description and field.description.endswith("."), name
    for kind in (*METHOD_SETTINGS.values(), *SHARED):
        assert kind.__doc__


@pytest.mark.parametrize(
    ("field", "table"), [("strategy", STRATEGIES), ("gradient", GRADIENTS), ("noise", NOISES), ("sampler", SAMPLERS)]
)
def test_names_and_their_help_are_written_once_in_a_table(field: str, table: Mapping[str, Any]) -> None:
    (one_of,) = (one for one in all_fields()[field].metadata if isinstance(one, OneOf))
    assert one_of.table is table and one_of.kind == field
    assert one_of.help == "; ".join(f"{name}: {entry.summary}" for name, entry in table.items())
    for name in table:
        assert make_settings("milr", {field: name}).get(field) == name
    assert json_schema("milr")["properties"][field]["enum"] == list(table)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_implemented(name: str) -> None:
    certain = torch.tensor([[-1e9, 0.0, -1e9]])
    assert sample(certain, [torch.Generator().manual_seed(0)], 1.0, name).tolist() == [1]


def test_strategies_name_only_existing_latents_and_settings() -> None:
    for strategy in STRATEGIES.values():
        assert set(strategy.latents) <= {"text", "image"}
        for total in (1, 2, 5):
            assert all(set(strategy.moves(k, total)) <= set(strategy.latents) for k in range(1, total + 1))
        assert MilrSettings.model_validate(dict(strategy.defaults))


# --- which value wins


@ALL
def test_every_setting_that_a_method_reads_can_be_given(method: str) -> None:
    given = read_by(method)
    settings = make_settings(method, given)
    assert settings.flat == given, "and it has no others"
    assert all(value != given[name] for name, value in make_settings(method).flat.items())
    assert all(settings.get(name) == value for name, value in given.items())
    assert settings.get("no such", 5) == 5
    assert [*type(settings.own).model_fields, *SamplingParams.model_fields, *RunSettings.model_fields] == [*given]


def test_given_settings_override_defaults_of_strategy_model_and_milr_in_this_order() -> None:
    def rate(given: Mapping[str, object], defaults: Mapping[str, object]) -> float:
        return make_settings("milr", given, defaults).get("learning_rate")

    steer = STRATEGIES["steer"].defaults
    assert rate({}, {}) == MilrSettings().learning_rate == 0.03
    assert rate({}, {"learning_rate": 0.3}) == 0.3
    assert rate({"strategy": "joint"}, {"learning_rate": 0.3}) == 0.3
    assert rate({"strategy": "steer"}, {}) == rate({"strategy": "steer"}, {"learning_rate": 0.3}) == 0.015
    assert rate({"strategy": "steer", "learning_rate": 0.7}, {"learning_rate": 0.3}) == 0.7
    settings = make_settings("milr", {"strategy": "steer"}, {"learning_rate": 0.3, "steps": 7, "guidance": 2.0})
    assert {name: settings.get(name) for name in steer} == dict(steer)
    assert (settings.get("steps"), settings.get("guidance"), settings.get("seed")) == (7, 2.0, 0)


@ALL
def test_a_models_defaults_that_a_method_does_not_read_are_left_out(method: str) -> None:
    settings = make_settings(method, {}, {"learning_rate": 0.3, "guidance": 2.5, "steps": 4})
    assert settings.sampling.guidance == 2.5
    assert settings.get("learning_rate") == (0.3 if method == "milr" else None)
    assert settings.get("steps") == (4 if "steps" in METHOD_SETTINGS[method].model_fields else None)


@ALL
def test_a_model_merges_its_defaults_with_changes(method: str) -> None:
    settings = FakeModel().settings(method, guidance=3.5)
    assert settings.method == method and settings.sampling.guidance == 3.5
    assert settings.get("learning_rate") == (FakeModel.defaults["learning_rate"] if method == "milr" else None)


# --- what is refused


@pytest.mark.parametrize(
    ("method", "setting"),
    [(method, setting) for setting in VALUES for method in METHOD_SETTINGS if method not in readers(setting)],
)
def test_a_setting_that_the_method_does_not_read_is_refused_and_names_those_that_do(method: str, setting: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_settings(method, {setting: VALUES[setting]})
    message = str(caught.value)
    assert message.startswith(f"the method {method!r} does not read the setting {setting!r}; ")
    named = message.split("; ")[1].split(" do")[0].split(", ")
    assert named == readers(setting)
    assert (" does: " if len(named) == 1 else " do: ") in message
    with pytest.raises(UsageError, match="does not read"):
        make_settings(method).change(**{setting: VALUES[setting]})


def test_most_settings_of_the_search_are_its_own() -> None:
    """The test above has cases; without cases it would pass."""
    assert readers("strategy") == ["milr"] and len(readers("steps")) == 9 and len(readers("seed")) == 11


@pytest.mark.parametrize(
    ("method", "wrong", "right"),
    [
        ("milr", "learning_rat", "learning_rate"),
        ("one-shot", "guidence", "guidance"),
        ("parm", "batchsize", "batch_size"),
    ],
)
def test_an_unknown_setting_names_the_nearest(method: str, wrong: str, right: str) -> None:
    with pytest.raises(UsageError, match=f"unknown setting '{wrong}': did you mean '{right}'"):
        make_settings(method, {wrong: 1})


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown method 'mlir': did you mean 'milr'"):
        make_settings("mlir")
    for field, wrong, right in (
        ("strategy", "stear", "steer"),
        ("gradient", "negatd", "negated"),
        ("noise", "fixd", "fixed"),
        ("sampler", "raec", "race"),
    ):
        with pytest.raises(UsageError, match=f"^unknown {field} '{wrong}': did you mean '{right}'"):
            make_settings("milr", {field: wrong})


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("steps", -1, "steps -1: must be at least 0"),
        ("text_ratio", 1.5, r"text_ratio 1.5: must be in \[0.*1"),
        ("image_ratio", -0.1, r"image_ratio -0.1: must be in \[0"),
        ("learning_rate", -1.0, "learning_rate -1.0: must be at least 0"),
        ("l2", -1.0, "l2 -1.0: must be at least 0"),
        ("drawings_per_step", 0, "drawings_per_step 0: must be at least 1"),
        ("guidance", -2.0, "guidance -2.0: must be at least 0"),
        ("temperature", 0, "temperature 0: must be above 0"),
        ("stop_at", 1.01, r"stop_at 1.01: must be in \[0"),
        ("batch_size", 0, "batch_size 0: must be at least 1"),
        ("max_drawings", 0, "max_drawings 0: must be above 0"),
        ("max_seconds", -5, "max_seconds -5: must be above 0"),
        ("max_reward_calls", 0, "max_reward_calls 0: must be at least 1"),
        ("max_cost", 0.0, "max_cost 0.0: must be above 0"),
        ("total_drawings", 0, "total_drawings 0: must be above 0"),
        ("total_seconds", 0, "total_seconds 0: must be above 0"),
        ("total_reward_calls", 0, "total_reward_calls 0: must be at least 1"),
        ("total_cost", -0.5, "total_cost -0.5: must be above 0"),
        ("guidance", math.nan, "guidance nan: must be at least 0"),
        ("max_seconds", math.inf, "max_seconds inf: "),
        ("steps", "many", "steps many: .*integer"),
        ("steps", 2.5, "steps 2.5: .*integer"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_in_plain_words(setting: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_settings("milr", {setting: value})
    with pytest.raises(UsageError, match=words):
        make_settings("milr").change(**{setting: value})


def test_every_number_has_a_bound() -> None:
    free = {"seed"}
    for name, field in all_fields().items():
        if name not in free and not any(isinstance(one, OneOf) for one in field.metadata):
            assert any(hasattr(one, end) for one in field.metadata for end in ("ge", "gt")), name


@pytest.mark.parametrize("limit", [name for name in VALUES if name.startswith(("max_", "total_"))])
def test_a_limit_is_none_unless_it_is_given(limit: str) -> None:
    assert make_settings("milr").get(limit) is None
    assert make_settings("milr", {limit: 3}).change(**{limit: None}).get(limit) is None


@pytest.mark.parametrize("ratio", [0.02, 1])
def test_a_ratio_of_latents_that_a_strategy_does_not_have_is_refused(ratio: float) -> None:
    words = "the strategy 'steer' has no image latents, so it does not read image_ratio: leave it out, or choose joint"
    with pytest.raises(UsageError, match=words):
        make_settings("milr", {"strategy": "steer", "image_ratio": ratio})
    with pytest.raises(UsageError, match=words):
        make_settings("milr", {"strategy": "steer"}).change(image_ratio=ratio)
    with pytest.raises(UsageError, match=words):
        make_settings("milr", {"image_ratio": 0.5}).change(strategy="steer", image_ratio=ratio)
    assert make_settings("milr", {"strategy": "steer", "image_ratio": 0}).get("image_ratio") == 0
    assert make_settings("milr", {"strategy": "steer"}, {"image_ratio": ratio}), "a default is not asked for"


# --- changes, frozen, JSON


@ALL
def test_a_change_keeps_other_settings(method: str) -> None:
    given = read_by(method)
    settings = make_settings(method, given)
    changed = settings.change(seed=11, guidance=4.0)
    assert changed.flat == {**given, "seed": 11, "guidance": 4.0}
    assert type(changed) is Settings and type(changed.own) is METHOD_SETTINGS[method]
    assert settings.flat == given, "the first is as it was"
    assert settings.change() == settings


def test_a_new_strategy_sets_its_recommended_values() -> None:
    settings = make_settings("milr", {"learning_rate": 0.7, "steps": 4})
    steer = settings.change(strategy="steer")
    assert (steer.get("learning_rate"), steer.get("text_ratio"), steer.get("steps")) == (0.015, 1.0, 4)
    assert settings.change(strategy="steer", learning_rate=0.2).get("learning_rate") == 0.2
    assert steer.change(learning_rate=0.5).get("learning_rate") == 0.5
    assert steer.change(learning_rate=0.5).change(seed=2).get("learning_rate") == 0.5, "it recommends only once"


@ALL
def test_settings_are_frozen_and_unknown_keys_refused(method: str) -> None:
    settings = make_settings(method)
    for part in (settings, settings.own, settings.sampling, settings.run):
        name = next(iter(type(part).model_fields), "method")
        with pytest.raises(ValidationError):
            setattr(part, name, 3)
        with pytest.raises(ValidationError, match="no_such"):
            type(part).model_validate({"no_such": 1})


@ALL
def test_settings_survive_json(method: str) -> None:
    settings = make_settings(method, read_by(method))
    text = settings.model_dump_json()
    again = Settings.model_validate_json(text)
    assert again == settings and type(again.own) is METHOD_SETTINGS[method]
    assert Settings.model_validate(json.loads(text)) == settings
    stored = json.loads(text)
    assert set(stored) == {"method", "own", "sampling", "run"}
    assert stored["own"] | stored["sampling"] | stored["run"] == settings.flat, "nothing of `own` is lost"


def test_stored_settings_that_are_not_allowed_are_refused() -> None:
    stored = json.loads(make_settings("milr").model_dump_json())
    stored["own"]["strategy"] = "stear"
    with pytest.raises(ValidationError, match="did you mean 'steer'"):
        Settings.model_validate(stored)
    stored = json.loads(make_settings("best-of-n").model_dump_json())
    stored["own"]["strategy"] = "steer"
    with pytest.raises(ValidationError, match="strategy"):
        Settings.model_validate(stored)


def test_settings_without_a_method_are_those_of_the_search() -> None:
    assert Settings() == make_settings() == make_settings("milr")
    assert Settings.model_validate({}) == Settings()


@ALL
def test_a_json_schema_has_the_settings_that_make_settings_accepts(method: str) -> None:
    schema = json_schema(method)
    assert schema["title"] == method and schema["additionalProperties"] is False
    assert list(schema["properties"]) == list(read_by(method))
    for name, stated in schema["properties"].items():
        assert stated["description"] == all_fields()[name].description
        default = make_settings(method).get(name)
        assert stated["default"] == default or (stated["default"] is None and default is None)
    json.dumps(schema)


def test_most_drawings_is_the_largest_number_that_a_method_draws() -> None:
    assert [make_settings(name).own.most_drawings for name in ("one-shot", "text-reasoning")] == [1, 1]
    assert make_settings("parm", {"steps": 4}).own.most_drawings == 5
    assert make_settings("milr", {"steps": 4, "drawings_per_step": 3}).own.most_drawings == 15


# --- settings of other packages


class Fruit(BaseModel):
    """A value of a table."""

    summary: str


FRUITS = {"apple": Fruit(summary="round"), "pear": Fruit(summary="not so round")}


class Mine(MethodSettings):
    """Settings of a method of another package."""

    fruit: Annotated[str, OneOf("fruit", FRUITS)] = "apple"
    """Name of the food."""
    tries: int = Field(default=2, ge=1)
    """Number of meals."""


def test_a_method_of_another_package_declares_its_own() -> None:
    settings = make_settings("mine", {"fruit": "pear", "seed": 4}, {"tries": 3, "steps": 9}, declared=Mine)
    assert settings.own == Mine(fruit="pear", tries=3) and settings.run.seed == 4
    assert settings.change(tries=5).own == Mine(fruit="pear", tries=5)
    with pytest.raises(UsageError, match="unknown fruit 'paer': did you mean 'pear'"):
        make_settings("mine", {"fruit": "paer"}, declared=Mine)
    with pytest.raises(UsageError, match="tries 0: must be at least 1"):
        settings.change(tries=0)
    with pytest.raises(UsageError, match="unknown setting 'tris': did you mean 'tries'"):
        settings.change(tris=1)
    with pytest.raises(UsageError, match="'mine' does not read the setting 'l2'; milr does"):
        settings.change(l2=1.0)
    with pytest.raises(UsageError, match="unknown method 'mine'"):
        make_settings("mine")


def test_stored_settings_of_an_unknown_method_are_kept() -> None:
    settings = make_settings("mine", {"fruit": "pear", "tries": 3}, declared=Mine)
    read = Settings.model_validate_json(settings.model_dump_json())
    assert (read.method, read.get("fruit"), read.get("tries")) == ("mine", "pear", 3)
    assert read.flat == settings.flat
    changed = read.change(seed=5)
    assert changed.flat == {**settings.flat, "seed": 5}, "a change keeps them too"
    assert Settings.model_validate_json(changed.model_dump_json()) == changed
    with pytest.raises(UsageError, match="unknown setting 'tries'"):
        read.change(tries=4)  # without its settings model nothing can be checked


def test_a_table_of_names_may_be_any_mapping() -> None:
    class Basket(BaseModel):
        model_config = ConfigDict(extra="forbid")
        fruit: Annotated[str, OneOf("fruit", FRUITS)] = "apple"

    assert Basket.model_json_schema()["properties"]["fruit"]["enum"] == ["apple", "pear"]
    assert OneOf("fruit", FRUITS).help == "apple: round; pear: not so round"
    with pytest.raises(ValidationError, match="did you mean 'pear'"):
        Basket(fruit="pea")


def test_settings_are_read_without_torch() -> None:
    program = (
        "import sys, milr.settings; milr.settings.make_settings('milr', {'steps': 3}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
