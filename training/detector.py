"""The icon detectors: small convolutional networks, trained on images made on the fly, with and without the VQ model.

There are two of them, `icons-detector` (the reward) and `icons-judge` (the evaluator): settings.toml gives each its
architecture, seed, augmentation and icons.

A part of each batch is rendered, with cells of some icons exchanged (`training.damage`). The other part, from the step
on that settings.toml names, comes from a store of images by the VQ model. The detectors see all combinations of colour,
count and class; nothing is held out from them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from milr.rewards.icons.detector import BOX_UNIT, CELL, DetectorConfig, DetectorNetwork, IconDetector
from training import vq
from training.augment import augment
from training.calibration import calibrate
from training.coders import PixelCoder, VqCoder
from training.damage import coded_images
from training.image_store import Store, open_store
from training.layouts import EMPTY, IGNORE, MAP, SIDE, UNKNOWN, Sampler
from training.scenes import Library
from training.stage import Checkpoint, Settings, log, rate, start_from_shipped

_SAVED_EVERY = 200  # steps
_LOGGED_EVERY = 50
_IGNORED_NEAR = 6  # squared distance in cells from the centre of an object that is left out of the loss
_CENTRE_WIDTH = 0.8  # cells around a centre in which a wrong centre counts less


@dataclass(frozen=True)
class Targets:
    """The heads' correct outputs. N is the number of objects in the batch."""

    centre: torch.Tensor
    """(B, 20, 20): 1 in the cell of an object's centre."""
    weight: torch.Tensor
    """(B, 20, 20): less near a centre, 0 near an object that is left out of the loss."""
    cells: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """Batch, row and column of each object, int64 (N)."""
    names: torch.Tensor
    """int64 (N)."""
    boxes: torch.Tensor
    """(N, 4), as `DetectorNetwork` gives them."""
    colors: torch.Tensor
    """int64 (N); `UNKNOWN` is left out of the loss."""


def make_targets(labels: np.ndarray) -> Targets:
    """Convert labels (B, MOST, 6) to targets."""
    centre = np.zeros((len(labels), MAP, MAP), np.float32)
    weight = np.ones_like(centre)
    middles = np.arange(MAP) + 0.5
    objects: list[tuple[float, ...]] = []
    for image, row in np.argwhere(labels[..., 0] > EMPTY):
        name, x0, y0, x1, y1, color = labels[image, row]
        x, y = (x0 + x1) / 2 / CELL, (y0 + y1) / 2 / CELL
        squared = (middles[None, :] - x) ** 2 + (middles[:, None] - y) ** 2
        if name == IGNORE:
            weight[image][squared < _IGNORED_NEAR] = 0
            continue
        weight[image] *= (1 - np.exp(-squared / (2 * _CENTRE_WIDTH**2))) ** 2
        r, c = min(int(y), MAP - 1), min(int(x), MAP - 1)
        width, height = max(x1 - x0, 1), max(y1 - y0, 1)
        box = (x - c - 0.5, y - r - 0.5, math.log(width / BOX_UNIT), math.log(height / BOX_UNIT))
        objects.append((image, r, c, name, *box, color))
    table = torch.tensor(objects, dtype=torch.float32).reshape(-1, 9)
    cells = (table[:, 0].long(), table[:, 1].long(), table[:, 2].long())
    maps = torch.from_numpy(centre), torch.from_numpy(weight)
    for filled in maps:
        filled[cells] = 1
    return Targets(*maps, cells, table[:, 3].long(), table[:, 4:8], table[:, 8].long())


def detector_loss(
    maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], targets: Targets
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the sum of four losses, each a mean over objects, and figures for the log."""
    centre, names, boxes, colors = maps
    number = max(1, len(targets.names))
    at = targets.cells
    losses = {
        "centre": F.binary_cross_entropy_with_logits(centre, targets.centre, targets.weight, reduction="sum") / number,
        "names": F.cross_entropy(names[at], targets.names, reduction="sum") / number,
        "boxes": F.smooth_l1_loss(boxes[at], targets.boxes, reduction="sum", beta=0.1) / number,
        "colors": F.cross_entropy(colors[at], targets.colors, ignore_index=UNKNOWN, reduction="sum") / number,
    }
    figures = {name: value.item() for name, value in losses.items()}
    figures["correct"] = (names[at].argmax(-1) == targets.names).float().mean().item()
    return losses["centre"] + losses["names"] + losses["boxes"] + 0.5 * losses["colors"], figures


class Batches:
    """A detector's training batches. A batch depends on its step and on the store's images only."""

    def __init__(self, own: dict[str, Any], library: Library, open_store: Callable[[], Store]) -> None:
        """Take a detector's settings.

        Args:
            own: The settings.
            library: The icons that are rendered.
            open_store: Opens the store at the first step that needs it.
        """
        self.own, self.open_store = own, open_store
        self.sampler = Sampler(library)
        self.coder = PixelCoder(self.sampler)
        self.store: Store | None = None

    def make(self, step: int) -> tuple[torch.Tensor, Targets]:
        """Return pixels (B, 3, 160, 160) in [-1, 1], channels last, and their targets."""
        own, random = self.own, np.random.default_rng([self.own["seed"], 0, step])
        coded = round(own["batch"] * own["coded_share"]) if step >= own["coded_from"] else 0
        images, labels = coded_images(self.sampler, self.coder, random, own["batch"] - coded, own["damaged"])
        if coded:
            self.store = self.store or self.open_store()
            if step % own["grow_every"] == 0:
                self.store.grow()
            others, other_labels = self.store.pick(random, coded)
            images, labels = np.concatenate([images, others]), np.concatenate([labels, other_labels])
        changed, labels = augment(images, labels, random, own["augment"])
        pixels = vq.to_pixels(changed).contiguous(memory_format=torch.channels_last)
        return pixels, make_targets(labels)


def widen_depthwise(network: DetectorNetwork) -> None:
    """Compute depthwise convolutions in float32 under autocast: on a CPU their bf16 gradients take twice the time."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.groups > 1:
            module.forward = _in_float32(module.forward)


def _in_float32(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def widened(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(x.float()).to(x.dtype)

    return widened


def train(settings: Settings, name: str, library: Library, drawn: Library, folder: Path) -> IconDetector:
    """Train, calibrate and save a detector; resume from its checkpoint, or start from the shipped weights.

    Args:
        settings: The settings of all stages.
        name: The detector's name in ``settings["critics"]``.
        library: The icons that it learns.
        drawn: The icons that the generator draws.
        folder: Holds the checkpoint, and the detector's own folder at the end.
    """
    own: dict[str, Any] = settings["critics"][name]
    config = DetectorConfig(
        image_size=SIDE, architecture=own["architecture"], widths=tuple(own["widths"]), blocks=own["blocks"]
    )
    torch.manual_seed(own["seed"])
    network = DetectorNetwork(config).to(memory_format=torch.channels_last).train()
    widen_depthwise(network)
    torch.nn.init.constant_(network.heads.bias[0], -4.0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=own["learning_rate"], weight_decay=own["weight_decay"])
    checkpoint = Checkpoint(folder / f"{name}.pt")
    step, total = checkpoint.load(network=network, optimiser=optimiser), own["steps"] * own["rounds"]
    if step == 0:
        start_from_shipped(network, Path(own["folder"]))
    drawn_sampler = Sampler(drawn)
    batches = Batches(own, library, lambda: open_store(settings, name, drawn_sampler, folder))
    started, sums = time.time(), dict[str, float]()
    while step < total:
        pixels, targets = batches.make(step)
        for group in optimiser.param_groups:
            group["lr"] = own["learning_rate"] * round_rate(step, own)
        with torch.autocast("cpu", torch.bfloat16):
            maps = network(pixels)
        loss, figures = detector_loss(maps, targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        sums = {title: sums.get(title, 0.0) + value for title, value in figures.items()}
        if step % _LOGGED_EVERY == 0:
            seconds, stored = (time.time() - started) / _LOGGED_EVERY, batches.store.filled if batches.store else 0
            means = {title: value / _LOGGED_EVERY for title, value in sums.items()}
            log(name, step=step, seconds=seconds, coded=stored, **means)
            started, sums = time.time(), {}
        if step % _SAVED_EVERY == 0 or step == total:
            checkpoint.save(step, network=network, optimiser=optimiser)
    trained = DetectorNetwork(config)
    trained.load_state_dict(network.state_dict())
    detector = calibrate(IconDetector(trained, config), own, drawn_sampler, VqCoder(settings, drawn, folder))
    detector.save(folder / name)
    return detector


def round_rate(step: int, own: dict[str, Any]) -> float:
    """Return the share of the learning rate at a step: it rises and falls once a round, and each peak is lower."""
    peak = own["round_decay"] ** (step // own["steps"])
    return peak * rate(step % own["steps"], own["steps"], warm=own["warmup_steps"], floor=0.01)
