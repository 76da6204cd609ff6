"""What makes the embedded model: `python -m training STAGE` runs one stage, or `all` what is left to do.

`sheets` draws what is to be labelled by eye; `card` writes the figures that `milr doctor embedded` measures again;
`report`, `icons-detector-report` and `icons-judge-report` measure what was made.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from milr import load_model
from milr.files import write_text
from milr.selftest.embedded import CARD, measure_card
from training import detector, export, icons, labels, report, scenes, stage, tokens, unified, vq


def icon_library(settings: stage.Settings, library: str = "generator") -> vq.Library:
    """Every icon of a library that settings.toml names, rendered (cached)."""
    own = settings["icons"]
    chosen_sets = own["libraries"][library]
    cache = Path(own["cache"]) / f"icons-{library}.npz"
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


def measure_model(settings: stage.Settings, folder: Path, benchmark: Path | None, scale: float) -> dict[str, Any]:
    """The card's figures."""
    made = prepare(settings)
    return report.measure(settings, made.library, made.bank, folder, benchmark, scale)


def write_card(settings: stage.Settings) -> None:
    """The figures that `milr doctor` holds the shipped model to."""
    shipped = Path(settings["export"]["folder"])
    card = measure_card(load_model(str(shipped), dtype="bfloat16"), settings["card"])
    write_text(shipped / CARD, card.model_dump_json(indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage named on the command line."""
    critics = list(stage.read_settings()["critics"])
    stages: dict[str, Callable[[stage.Settings, Path], object]] = {
        "vq": train_vq,
        "unified": train_unified,
        "export": write_checkpoint,
        **{critic: partial(train_critic, critic) for critic in critics},
    }
    reports = [f"{critic}-report" for critic in critics]
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    known = ["all", *stages, "sheets", "card", "report", *reports]
    parser.add_argument("stage", nargs="?", default="all", choices=known)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=["small"], help="the sibling; by default the shipped model")
    parser.add_argument("--into", type=Path, help="a folder for all that is made, from nothing")
    parser.add_argument("--geneval", type=Path, help="evaluation_metadata.jsonl: the report draws its prompts too")
    parser.add_argument("--scale", type=float, default=1.0, help="of the report: more drawings, narrower intervals")
    asked = parser.parse_args(argv)
    torch.set_num_threads(asked.threads)
    settings = stage.read_settings(size=asked.size, into=asked.into)
    folder = Path(settings["paths"]["build"])
    if asked.stage == "sheets":
        labels.draw_sheets(settings, folder / "sheets")
    elif asked.stage == "card":
        write_card(settings)
    elif asked.stage == "report":
        print(json.dumps(measure_model(settings, folder, asked.geneval, asked.scale), indent=2))
    elif asked.stage in reports:
        critic = asked.stage.removesuffix("-report")
        print(json.dumps(detector.report(settings, critic, icon_library(settings), folder), indent=2))
    elif asked.stage == "all":
        for name, run in stages.items():
            if asked.size is None or name not in critics:  # critics watch both sizes
                run(settings, folder)
    else:
        stages[asked.stage](settings, folder)


if __name__ == "__main__":
    main()
