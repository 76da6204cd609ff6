"""Names of benchmarks and rewards in older manifests, which mean something else now.

Until version 2 of the names, `wise` was WISE's set and protocol of 2025, and `wise-verified` that of 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

_RENAMED = {"wise": "wise-legacy", "wise-verified": "wise"}
_FIELDS = ("benchmark", "reward_asked", "evaluator_asked", "panel_asked")
_PART = re.compile(r"(?<![\w./-])wise(-verified)?(?![\w./-])")
"""One of them in a reward's name, also as a part of a mix; not in a path or a module's name."""


def rename(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with today's names of its benchmark and of the rewards that resuming loads.

    Names with a version (`wise@2/MODEL`) stay as they are: the version tells them apart.
    """
    return {name: _rename(value) if name in _FIELDS else value for name, value in manifest.items()}


def _rename(given: object) -> object:
    """Return a name, or a list of names, with every part renamed."""
    if isinstance(given, str):
        return _PART.sub(lambda found: _RENAMED[found[0]], given)
    return list(map(_rename, cast("list[object]", given))) if isinstance(given, list | tuple) else given
