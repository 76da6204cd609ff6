"""Test-time search over the latents of a frozen unified model, guided by a reward.

What is listed in `__all__` is public. Everything is imported when first used, so `import milr` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from milr._version import __version__

if TYPE_CHECKING:
    from milr.config import SearchConfig
    from milr.errors import MilrError, UsageError
    from milr.models import load_model
    from milr.rewards import load_reward
    from milr.runs import RunWriter, read_run
    from milr.search import search
    from milr.tasks import read_tasks, tasks_from_prompts
    from milr.types import ImageSample, Reasoning, Requirement, Score, StepRecord, Task, Unscored


__all__ = [
    "ImageSample",
    "MilrError",
    "Reasoning",
    "Requirement",
    "RunWriter",
    "Score",
    "SearchConfig",
    "StepRecord",
    "Task",
    "Unscored",
    "UsageError",
    "__version__",
    "load_model",
    "load_reward",
    "read_run",
    "read_tasks",
    "search",
    "tasks_from_prompts",
]

_HOMES = {
    "ImageSample": "milr.types",
    "MilrError": "milr.errors",
    "Reasoning": "milr.types",
    "Requirement": "milr.types",
    "RunWriter": "milr.runs",
    "Score": "milr.types",
    "SearchConfig": "milr.config",
    "StepRecord": "milr.types",
    "Task": "milr.types",
    "Unscored": "milr.types",
    "UsageError": "milr.errors",
    "load_model": "milr.models",
    "load_reward": "milr.rewards",
    "read_run": "milr.runs",
    "read_tasks": "milr.tasks",
    "search": "milr.search",
    "tasks_from_prompts": "milr.tasks",
}


class _Package(ModuleType):
    """Keeps `milr.search` the function, whoever imports the module `milr.search` first.

    Python binds a submodule to its package's attribute after importing it, which would hide the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "search" and isinstance(value, ModuleType):
            value = value.search
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'milr' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
