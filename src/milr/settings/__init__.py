"""Settings: what each method reads, sampling parameters, run settings. Torch is not needed to read or check them."""

from milr.settings.choices import OneOf
from milr.settings.models import (
    LIMITS,
    METHOD_SETTINGS,
    OLD_NAMES,
    SAMPLERS,
    MethodSettings,
    MilrSettings,
    OneShotSettings,
    RunSettings,
    SamplingParams,
    StepSettings,
)
from milr.settings.resolve import Settings, all_fields, find_settings, json_schema, make_settings, read_declared
from milr.settings.strategies import GRADIENTS, NOISES, STRATEGIES, Strategy

__all__ = [
    "GRADIENTS",
    "LIMITS",
    "METHOD_SETTINGS",
    "NOISES",
    "OLD_NAMES",
    "SAMPLERS",
    "STRATEGIES",
    "MethodSettings",
    "MilrSettings",
    "OneOf",
    "OneShotSettings",
    "RunSettings",
    "SamplingParams",
    "Settings",
    "StepSettings",
    "Strategy",
    "all_fields",
    "find_settings",
    "json_schema",
    "make_settings",
    "read_declared",
]
