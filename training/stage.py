"""Parts that every training stage uses: settings, checkpoints that survive a kill, log lines."""

from __future__ import annotations

import math
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import nn

Settings = dict[str, Any]
SETTINGS_FILE = Path(__file__).with_name("settings.toml")


def read_settings(path: Path = SETTINGS_FILE, size: str | None = None, into: Path | None = None) -> Settings:
    """Return the settings of all stages.

    Args:
        path: The file.
        size: A sibling in the file's table ``sizes``, whose own settings replace the shipped model's.
        into: A folder for everything that is made, checkpoints and results. Nothing that ships is read or written then,
            so with an empty folder everything is made from nothing.
    """
    settings = tomllib.loads(path.read_text())
    sizes: dict[str, Settings] = settings.pop("sizes")
    for room, own in sizes[size].items() if size else ():
        settings[room] = settings[room] | own
    if into is not None:
        model = Path(settings["export"]["folder"]).name
        settings["paths"] |= {"build": str(into / f"{model}-build"), "shapes": str(into / "shapes.npy")}
        settings["export"]["folder"] = str(into / model)
        for name, critic in settings["critics"].items():
            critic["folder"] = str(into / name)
    return settings


class Checkpoint:
    """Modules and optimisers by name in one file, replaced whole at every save."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, **parts: Any) -> int:
        """Fill ``parts`` from the file and return its step; 0 if there is no file yet."""
        if not self.path.exists():
            return 0
        stored = torch.load(self.path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(stored[name])
        return int(stored["step"])

    def step(self) -> int:
        """Return the file's step without reading the rest; 0 if there is no file yet."""
        return int(torch.load(self.path, weights_only=True, mmap=True)["step"]) if self.path.exists() else 0

    def save(self, step: int, **parts: Any) -> None:
        """Write to a temporary name, then rename: a kill leaves the last whole checkpoint."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, partial)
        partial.rename(self.path)


def start_from_shipped(module: nn.Module, folder: Path, prefix: str = "") -> bool:
    """Fill a module from the shipped weights if their shapes agree: a lost machine costs no training.

    Args:
        module: Filled in place, in its own dtype.
        folder: The shipped folder.
        prefix: Prefix of the module's weights in the whole model.

    Returns:
        True if there were weights to start from.
    """
    file = folder / "model.safetensors"
    if not file.exists():
        return False
    stored = {k.removeprefix(prefix): v for k, v in load_file(file).items() if k.startswith(prefix)}
    own = module.state_dict()
    if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in own.items()}:
        log("start", shipped_weights_of_other_shapes=1)
        return False
    module.load_state_dict(stored)
    return True


def rate(step: int, steps: int, *, warm: int, floor: float) -> float:
    """Return a share of the learning rate: up for ``warm`` steps, down a cosine to ``floor`` at ``steps``."""
    return min(1.0, (step + 1) / warm) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def log(stage: str, **figures: float) -> None:
    """Write one line to standard error: time, stage, figures."""
    text = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items())
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {stage} {text}\n")
    sys.stderr.flush()
