"""WISE: 1,000 prompts that need knowledge. Source: PKU-YuanGroup/WISE, commit eb51174.

Two benchmarks that cannot be compared with each other: `wise`, the official default since 2026 (`data_verified`: other
prompts, another judge, right or wrong), and `wise-legacy`, the protocol of 2025 (`WISE_legacy`), by which MILR's paper
and the other published rows were measured. A prompt's group is decided by its id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from milr.benchmarks.base import Benchmark
from milr.benchmarks.layouts.wise import LEGACY, VERIFIED
from milr.errors import UsageError
from milr.sources import SOURCES
from milr.types import Task

LEGACY_COLUMNS, VERIFIED_COLUMNS = (
    {group: len(numbers) for group, numbers in edition.groups.items()} for edition in (LEGACY, VERIFIED)
)


def _read(name: str, columns: Mapping[str, int], folder: Path | None) -> list[Task]:
    source = SOURCES[name]
    where = source.find(folder)
    listed: dict[int, Mapping[str, Any]] = {}
    for file in source.files:
        for prompt in json.loads((where / file.name).read_text(encoding="utf-8")):
            listed[int(prompt["prompt_id"])] = prompt
    if sorted(listed) != list(range(1, sum(columns.values()) + 1)):
        raise UsageError(f"{where} does not hold the prompts 1 to {sum(columns.values())}: type milr data get {name}")
    groups = [group for group, many in columns.items() for _ in range(many)]  # ids from 1
    return [
        Task(prompt=listed[place + 1]["Prompt"], tag=group, explanation=listed[place + 1]["Explanation"])
        for place, group in enumerate(groups)
    ]


WISE = Benchmark(
    name="wise",
    title="WISE (verified, 2026)",
    columns=VERIFIED_COLUMNS,
    weights=VERIFIED.weights,
    read=partial(_read, "wise", VERIFIED_COLUMNS),
    reward="wise",
    other_editions=("wise-legacy",),
    layout="wise",
    whole_only=True,
    notes=("Numbers of wise (2026) compare with nothing of WISE's protocol of 2025, which is wise-legacy here.",),
)
WISE_LEGACY = Benchmark(
    name="wise-legacy",
    title="WISE (legacy, 2025)",
    columns=LEGACY_COLUMNS,
    weights=LEGACY.weights,
    read=partial(_read, "wise-legacy", LEGACY_COLUMNS),
    reward="wise-legacy",
    other_editions=("wise",),
    layout="wise-legacy",
    whole_only=True,
)
