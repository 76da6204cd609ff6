"""Settings: what each method reads, sampling parameters, run settings. Torch is not needed to read or check them."""

from milr.settings.choices import OneOf
from milr.settings.models import (
    METHOD_SETTINGS,
    SAMPLERS,
    MethodSettings,
    MilrSettings,
    OneShotSettings,
    RunSettings,
    SamplingParams,
    StepSettings,
)
from milr.settings.resolve import Settings, all_fields, json_schema, make_settings
from milr.settings.strategies import GRADIENTS, NOISES, STRATEGIES, Strategy

__all__ = [
    "GRADIENTS",
    "METHOD_SETTINGS",
    "NOISES",
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
    "json_schema",
    "make_settings",
]
