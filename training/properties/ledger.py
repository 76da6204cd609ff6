"""A file of finished parts: a measurement that was interrupted goes on after its last part."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from milr.files import write_text
from training.stage import log

Item = TypeVar("Item")


class Ledger:
    """Results of finished parts in a JSON file, each with its seconds, the processor's seconds and the drawings."""

    def __init__(self, file: Path) -> None:
        """Open the file; it is made with the first part."""
        self.file = file
        self.parts: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        self.count_drawings: Callable[[], int] = lambda: 0
        """Returns the drawings that were made since the start."""

    def take(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a part's result: the stored one, or a new one, which is stored. It must be valid JSON."""
        if name not in self.parts:
            begun, cpu, before = time.monotonic(), time.process_time(), self.count_drawings()
            value = make()
            spent = {
                "seconds": round(time.monotonic() - begun, 2),
                "core seconds": round(time.process_time() - cpu, 2),
                "drawings": self.count_drawings() - before,
            }
            self.parts[name] = {"value": value, **spent}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.file, json.dumps(self.parts))
            log(f"report: {name},", **spent)
        return json.loads(json.dumps(self.parts[name]["value"]))  # stored or new, a result has the same types

    def take_chunks(
        self, name: str, items: Sequence[Item], size: int, make: Callable[[Sequence[Item], int], list[Any]]
    ) -> list[Any]:
        """Return one result for each item; items are given to ``make`` in chunks, with the first one's number."""
        found: list[Any] = []
        for start in range(0, len(items), size):
            chunk = items[start : start + size]
            found += self.take(f"{name} {start}", lambda chunk=chunk, start=start: make(chunk, start))
        return found

    def cost(self, *names: str) -> dict[str, float]:
        """Return seconds, core seconds and drawings of all parts whose names begin with one of these."""
        chosen = [part for key, part in self.parts.items() if key.startswith(names)]
        return {unit: round(sum(part[unit] for part in chosen), 1) for unit in ("seconds", "core seconds", "drawings")}


def open_ledger(file: Path, model: Path, scale: float) -> Ledger:
    """Open the ledger of a model at this scale, beside the file that is named.

    Args:
        file: Its name gets a hash of the weights and of the model's own settings, and the scale.
        model: The model's folder.
        scale: Scale of all numbers.
    """
    digest = hashlib.sha256()
    for name in ("model.safetensors", "milr.json"):
        digest.update((model / name).read_bytes())
    return Ledger(file.with_name(f"{file.stem}.{digest.hexdigest()[:12]}.{scale:g}.json"))
