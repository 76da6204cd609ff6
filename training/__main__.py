"""`python -m training STAGE [THREADS]`: run one stage, or `all` for every stage that is left to do.

`card` writes the figures that `milr doctor embedded` measures again;
`report [GENEVAL_METADATA [SCALE]]` and `icons-detector-report`, `icons-judge-report` measure what was made.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from milr import load_model
from milr.files import write_text
from milr.models.examination import CARD, measure_card
from training import detector, export, icons, report, scenes, stage, tokens, unified, vq


def icon_library(settings: stage.Settings, library: str = "generator") -> vq.Library:
    """Every icon of a library that settings.toml names, rendered (cached)."""
    own = settings["icons"]
    chosen_sets = own["libraries"][library]
    cache = Path(settings["paths"]["build"]) / f"icons-{library}.npz"
    found = icons.read_icons(Path(own["csv"]), Path(own["packages"]), chosen_sets["sets"])
    chosen = {name: icons.choose_variants(items, chosen_sets["variants"]) for name, items in found.items()}
    return icons.load_icons(chosen, own["sizes"], cache)


def training_world(seed: int, **settings: Any) -> scenes.World:
    """The world that the generator may see: without the held-out combinations and any benchmark's prompts."""
    return scenes.World(np.random.default_rng(seed), scenes.read_held_out(), scenes.read_forbidden(), **settings)


@dataclass(frozen=True)
class Materials:
    """What every stage after the icons stands on."""

    library: vq.Library
    shapes: torch.Tensor
    bank: vq.Bank


def prepare(settings: stage.Settings) -> Materials:
    """Icons (cached), shapes and token bank."""
    library = icon_library(settings)
    shapes = vq.learn_shapes(settings, library)
    return Materials(library, shapes, vq.build_bank(shapes, library))


def train_vq(settings: stage.Settings, folder: Path) -> vq.Autoencoder:
    """The VQ model."""
    made = prepare(settings)
    return vq.train(settings, made.library, made.shapes, made.bank, folder)


def train_unified(settings: stage.Settings, folder: Path) -> None:
    """Tokenizer and unified model."""
    made = prepare(settings)
    tokenizer = load_tokenizer(settings, folder)
    network, _ = vq.load(settings, folder)

    @torch.inference_mode()
    def decode(grids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network.decode(grids).float().clamp(-1, 1)

    def make_feeder(world: dict[str, Any], seed: int) -> unified.Feeder:
        return unified.Feeder(training_world(seed, **world), tokenizer, made.bank, made.library, decode)

    start = vq.code_vectors(made.shapes, settings["vq"]["embed_dim"])
    unified.train(settings, tokenizer, make_feeder, start, folder)


def load_tokenizer(settings: stage.Settings, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that checkpoints were trained with, else the shipped one, else a new one."""
    shipped, target = Path(settings["export"]["folder"]), folder / "tokenizer"
    if target.exists():
        return AutoTokenizer.from_pretrained(target)
    if (shipped / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(shipped)
    own = settings["tokenizer"]
    world = training_world(own["seed"], riddled=own["riddled"])
    tokens.train_tokenizer(world, own["vocabulary"], own["sentences"]).save_pretrained(target)
    return AutoTokenizer.from_pretrained(target)


def write_checkpoint(settings: stage.Settings, folder: Path) -> None:
    """Export the latest checkpoints, finished or not, as the embedded model."""
    network, _ = vq.load(settings, folder)
    tokenizer = load_tokenizer(settings, folder)
    model = unified.load(settings, tokenizer, folder)
    export.export(model, network, tokenizer, settings, Path(settings["export"]["folder"]))


def train_critic(name: str, settings: stage.Settings, folder: Path) -> None:
    """An icon detector, into the package."""
    own = settings["critics"][name]
    detector.train(settings, name, icon_library(settings, own["library"]), icon_library(settings), folder)
    shutil.copytree(folder / name, own["folder"], dirs_exist_ok=True)


def measure_model(settings: stage.Settings, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """The card's figures: `report [GENEVAL_METADATA [SCALE]]`."""
    made = prepare(settings)
    benchmark = Path(arguments[0]) if arguments else None
    scale = float(arguments[1]) if len(arguments) > 1 else 1.0
    return report.measure(settings, made.library, made.bank, folder, benchmark, scale)


def write_card(settings: stage.Settings) -> None:
    """The figures that `milr doctor embedded` holds the shipped model to."""
    card = measure_card(load_model(dtype="bfloat16"), **settings["card"])
    write_text(Path(settings["export"]["folder"]) / CARD.name, card.model_dump_json(indent=2) + "\n")


def main() -> None:
    """Run the stage named on the command line."""
    settings = stage.read_settings()
    folder = Path(settings["paths"]["build"])
    torch.set_num_threads(int(sys.argv[2]) if sys.argv[2:3] and sys.argv[2].isdigit() else 2)
    stages = {"vq": train_vq, "unified": train_unified, "export": write_checkpoint}
    stages |= {critic: partial(train_critic, critic) for critic in settings["critics"]}
    reports = [f"{critic}-report" for critic in settings["critics"]]
    name = sys.argv[1] if len(sys.argv) > 1 else "all"
    if name == "card":
        write_card(settings)
        return
    if name == "report":
        print(json.dumps(measure_model(settings, folder, sys.argv[2:]), indent=2))
        return
    if name in reports:
        critic = name.removesuffix("-report")
        print(json.dumps(detector.report(settings, critic, icon_library(settings), folder), indent=2))
        return
    if name not in (*stages, "all"):
        raise SystemExit(f"unknown stage {name!r}: known: all, card, report, {', '.join([*stages, *reports])}")
    for stage_name, run in stages.items():
        if name in (stage_name, "all"):
            run(settings, folder)


if __name__ == "__main__":
    main()
