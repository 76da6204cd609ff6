"""Test-time search over the latents of a frozen unified model, guided by a reward.

The names in `__all__` are public. Everything is imported when first used, so `import milr` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from milr._version import __version__

if TYPE_CHECKING:
    from milr.api import generate
    from milr.benchmarks import load_benchmark
    from milr.errors import MilrError, UsageError
    from milr.methods import load_method
    from milr.methods.runner import Runner, search
    from milr.models import load_model
    from milr.results import Result, Results
    from milr.rewards import Reward, load_reward
    from milr.runs import RunWriter, read_run
    from milr.settings import MilrSettings, RunSettings, SamplingParams, Settings, make_settings
    from milr.tasks import read_tasks, tasks_from_prompts
    from milr.types import ImageSample, Reasoning, Region, Requirement, Score, StepRecord, Task, Unscored


__all__ = [
    "ImageSample",
    "MilrError",
    "MilrSettings",
    "Reasoning",
    "Region",
    "Requirement",
    "Result",
    "Results",
    "Reward",
    "RunSettings",
    "RunWriter",
    "Runner",
    "SamplingParams",
    "Score",
    "Settings",
    "StepRecord",
    "Task",
    "Unscored",
    "UsageError",
    "__version__",
    "generate",
    "load_benchmark",
    "load_method",
    "load_model",
    "load_reward",
    "make_settings",
    "read_run",
    "read_tasks",
    "search",
    "tasks_from_prompts",
]

_HOMES = {
    "ImageSample": "milr.types",
    "MilrError": "milr.errors",
    "MilrSettings": "milr.settings",
    "Reasoning": "milr.types",
    "Region": "milr.types",
    "Requirement": "milr.types",
    "Result": "milr.results",
    "Results": "milr.results",
    "Reward": "milr.rewards",
    "RunSettings": "milr.settings",
    "RunWriter": "milr.runs",
    "Runner": "milr.methods.runner",
    "SamplingParams": "milr.settings",
    "Score": "milr.types",
    "Settings": "milr.settings",
    "StepRecord": "milr.types",
    "Task": "milr.types",
    "Unscored": "milr.types",
    "UsageError": "milr.errors",
    "generate": "milr.api",
    "load_benchmark": "milr.benchmarks",
    "load_method": "milr.methods",
    "load_model": "milr.models",
    "load_reward": "milr.rewards",
    "make_settings": "milr.settings",
    "read_run": "milr.runs",
    "read_tasks": "milr.tasks",
    "search": "milr.methods.runner",
    "tasks_from_prompts": "milr.tasks",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'milr' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    if isinstance(value, type):
        from milr.field_docs import document_fields

        document_fields(value)
    globals()[name] = value  # later look-ups find it in the module itself
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
