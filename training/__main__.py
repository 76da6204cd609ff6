"""Make the embedded model: `python -m training STAGE` runs one stage, `all` everything that is left to do.

`sheets` draws images to be labelled by eye, and `labelled` stores the labels in the package; `golden` renders the
golden images; `card` writes the figures that `milr doctor embedded` measures again; `report`, `icons-detector-report`
and `icons-judge-report` measure the results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from milr import load_model
from milr.files import write_text
from milr.selftest.embedded import CARD, measure_card
from milr.selftest.icons import LABELLED
from training import (
    codebook,
    detector,
    detector_report,
    export,
    golden,
    icons,
    labels,
    report,
    stage,
    tokens,
    unified,
    vq,
)
from training.feeder import Decode, Feeder
from training.scenes import Bank, Library
from training.side_by_side import Planned, run_all
from training.world import open_world

_POLL = 5.0  # seconds between looks for the VQ model


def icon_library(settings: stage.Settings, library: str = "generator") -> Library:
    """Return every icon of a library that settings.toml names, rendered (cached)."""
    own = settings["icons"]
    chosen_sets = own["libraries"][library]
    cache = Path(own["cache"]) / f"icons-{library}.npz"
    found = icons.read_icons(Path(own["csv"]), Path(own["packages"]), chosen_sets["sets"])
    chosen = {name: icons.choose_variants(items, chosen_sets["variants"]) for name, items in found.items()}
    return icons.load_icons(chosen, own["sizes"], cache)


@dataclass(frozen=True)
class Materials:
    """Icons, shapes and image tokens, which every later stage needs."""

    library: Library
    shapes: torch.Tensor
    bank: Bank


def prepare(settings: stage.Settings) -> Materials:
    """Return icons (cached), shapes and token bank."""
    library = icon_library(settings)
    shapes = codebook.learn_shapes(settings, library)
    return Materials(library, shapes, codebook.build_bank(shapes, library))


def train_vq(settings: stage.Settings, folder: Path) -> vq.Autoencoder:
    """Train the VQ model."""
    made = prepare(settings)
    return vq.train(settings, made.library, made.shapes, made.bank, folder)


def open_decoder(settings: stage.Settings, folder: Path) -> Decode:
    """Return a decoder of image tokens; its first call waits until the VQ model's decoder is finished."""
    loaded: list[vq.Autoencoder] = []

    @torch.inference_mode()
    def decode(grids: torch.Tensor) -> torch.Tensor:
        if not loaded:
            while not vq.is_finished(settings, folder, encoder=False):
                time.sleep(_POLL)
            loaded.append(vq.load(settings, folder)[0])
        with torch.autocast("cpu", torch.bfloat16):
            return loaded[0].decode(grids).float().clamp(-1, 1)

    return decode


def train_unified(settings: stage.Settings, folder: Path) -> None:
    """Train tokenizer and unified model."""
    made = prepare(settings)
    tokenizer = load_tokenizer(settings, folder)
    decode = open_decoder(settings, folder)

    def open_feeder(world: dict[str, Any], seed: int) -> Feeder:
        return Feeder(open_world(seed, **world), tokenizer, made.bank, made.library, decode)

    start = codebook.code_vectors(made.shapes, settings["vq"]["embed_dim"])
    unified.train(settings, tokenizer, open_feeder, start, folder)


def load_tokenizer(settings: stage.Settings, folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer that checkpoints were trained with, else a new one."""
    target = folder / "tokenizer"
    if not target.exists():
        own = settings["tokenizer"]
        world = open_world(own["seed"], riddled=own["riddled"])
        tokens.train_tokenizer(world, own["vocabulary"], own["sentences"]).save_pretrained(target)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(target)
    return tokenizer


def write_checkpoint(settings: stage.Settings, folder: Path) -> None:
    """Export the latest checkpoints, finished or not, as the embedded model."""
    network, _ = vq.load(settings, folder)
    tokenizer = load_tokenizer(settings, folder)
    model = unified.load(settings, tokenizer, folder)
    export.export(model, network, tokenizer, settings, Path(settings["export"]["folder"]))


def train_critic(name: str, settings: stage.Settings, folder: Path) -> None:
    """Train an icon detector and write it to its folder."""
    own = settings["critics"][name]
    detector.train(settings, name, icon_library(settings, own["library"]), icon_library(settings), folder)
    shutil.copytree(folder / name, own["folder"], dirs_exist_ok=True)


def measure_model(settings: stage.Settings, folder: Path, benchmark: Path | None, scale: float) -> dict[str, Any]:
    """Return the property table's figures."""
    made = prepare(settings)
    return report.measure(settings, made.library, made.bank, folder, benchmark, scale)


def write_card(settings: stage.Settings) -> None:
    """Write the figures that `milr doctor` expects of the shipped model."""
    shipped = Path(settings["export"]["folder"])
    card = measure_card(load_model(str(shipped), dtype="bfloat16"), settings["card"])
    write_text(shipped / CARD, card.model_dump_json(indent=2) + "\n")


def run_everything(asked: argparse.Namespace, critics: Sequence[str]) -> None:
    """Run all stages in processes of their own: the unified model beside the VQ model, then the detectors."""
    common = ["--threads", str(asked.threads)]
    common += ["--size", asked.size] if asked.size else []
    common += ["--into", str(asked.into)] if asked.into else []

    def plan(name: str, *after: str) -> Planned:
        return Planned([sys.executable, "-m", "training", name, *common], after)

    stages = {"vq": plan("vq"), "unified": plan("unified")} | {
        critic: plan(critic, "vq")
        for critic in critics
        if asked.size is None  # detectors serve both sizes
    }
    run_all(stages | {"export": plan("export", "vq", "unified")}, asked.jobs)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage that the command line names."""
    critics = list(stage.read_settings()["critics"])
    stages: dict[str, Callable[[stage.Settings, Path], object]] = {
        "vq": train_vq,
        "unified": train_unified,
        "export": write_checkpoint,
        **{critic: partial(train_critic, critic) for critic in critics},
    }
    reports = [f"{critic}-report" for critic in critics]
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    known = ["all", *stages, "sheets", "labelled", "golden", "card", "report", *reports]
    parser.add_argument("stage", nargs="?", default="all", choices=known)
    parser.add_argument("--threads", type=int, default=1, help="of each stage")
    parser.add_argument("--jobs", type=int, default=2, help="stages at the same time")
    parser.add_argument("--size", choices=["small"], help="the sibling; by default the shipped model")
    parser.add_argument("--into", type=Path, help="a folder for everything that is made, from nothing")
    parser.add_argument("--geneval", type=Path, help="evaluation_metadata.jsonl: the report draws its prompts too")
    parser.add_argument("--scale", type=float, default=1.0, help="of the report: more drawings, narrower intervals")
    asked = parser.parse_args(argv)
    if asked.stage == "all":
        run_everything(asked, critics)
        return
    torch.set_num_threads(asked.threads)
    settings = stage.read_settings(size=asked.size, into=asked.into)
    folder = Path(settings["paths"]["build"])
    if asked.stage == "sheets":
        labels.draw_sheets(settings, folder / "sheets")
    elif asked.stage == "labelled":
        print(labels.store_labels(settings, folder / "sheets", LABELLED), "labelled drawings are stored")
    elif asked.stage == "golden":
        golden.draw_golden(icon_library(settings), golden.FOLDER)
    elif asked.stage == "card":
        write_card(settings)
    elif asked.stage == "report":
        print(json.dumps(measure_model(settings, folder, asked.geneval, asked.scale), indent=2))
    elif asked.stage in reports:
        critic = asked.stage.removesuffix("-report")
        print(json.dumps(detector_report.report(settings, critic, icon_library(settings), folder), indent=2))
    else:
        stages[asked.stage](settings, folder)


if __name__ == "__main__":
    main()
