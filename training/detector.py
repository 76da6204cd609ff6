"""Stage 5, the icon detectors: small convnets on pictures made on the fly, with and without the VQ model.

Two of them, `icons-detector` (the reward) and `icons-judge` (only watched): settings.toml gives each its architecture,
seed, augmentation and icons.

Half of the pictures of a batch are drawn anew, some of them with cells exchanged; the other half, once the names are
known, come from a store of pictures that went through the VQ model, half of those with damage as a half-trained
generator makes it. What an icon is worth after damage:

* up to 18 % of its cells replaced: still there; 40 % and more, or half of one and half of another: not there; between:
  left out of the loss. Codes that are near the right ones do not count as damage.
* cells of the same icon in another colour change its colour only: up to 18 % not at all, about half to "no single
  colour", between: left out of the loss.

They know all combinations of colour, count and class; nothing is held out from them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from milr.rewards.geneval.rules import apply_rules
from milr.rewards.icons.detector import BOX_UNIT, CELL, DetectorConfig, DetectorNetwork, IconDetector
from milr.tasks import COLORS, OBJECT_NAMES
from training import icons, vq
from training.icons import GROUNDS, NATURAL, compose
from training.scenes import GRID, GROUND_TOKENS, PLACES, SIZES, TOKEN, HeldOut, Item, Scene, World, paste
from training.stage import Checkpoint, Settings, log, rate, start_from_shipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milr.rewards.geneval.rules import Detection
    from milr.types import Task

SIDE = GRID * TOKEN
MAP = SIDE // CELL  # cells a side of the detectors' maps
MOST = 6  # label rows a picture
IGNORE, EMPTY = -1, -2  # classes of label rows: left out of the loss; no row
MIXED, UNKNOWN = len(COLORS), -1  # colours of label rows: no single one; left out of the loss
PRESENT, GONE = 0.18, 0.40  # shares of replaced cells
_PLACES = [(r, c) for r, c in PLACES.values()]


@dataclass(frozen=True)
class Placed:
    """One icon on a picture: its library key and its corner in tokens."""

    key: tuple[str, int, str, str]
    top: int
    left: int

    @property
    def side(self) -> int:
        """Tokens a side."""
        return SIZES[self.key[3]]


@dataclass(frozen=True)
class Layout:
    """Icons on a ground, sampled without a prompt."""

    placed: tuple[Placed, ...]
    ground: str


@dataclass(frozen=True)
class Facts:
    """What is true of one library icon."""

    box: tuple[int, int, int, int]
    """Tight box of its opaque pixels: x0, y0, x1, y1."""
    color: int
    cells: np.ndarray
    """Bool (side, side): cells that the icon touches."""


def icon_facts(library: vq.Library) -> dict[tuple[str, int, str, str], Facts]:
    """Box, colour and cells of every icon."""
    facts: dict[tuple[str, int, str, str], Facts] = {}
    for key, rgba in library.items():
        opaque = rgba[..., 3] >= 128
        rows, columns = np.flatnonzero(opaque.any(1)), np.flatnonzero(opaque.any(0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        side = len(rgba) // TOKEN
        cells = rgba[..., 3].reshape(side, TOKEN, side, TOKEN).mean((1, 3)) > 0.1 * 255
        color = main_color(rgba) if key[2] == NATURAL else COLORS.index(key[2])
        facts[key] = Facts(box, color, cells)
    return facts


def main_color(rgba: np.ndarray) -> int:
    """The colour name of most opaque pixels, `MIXED` where there is none, `UNKNOWN` where one could argue.

    A pixel's colour is the nearest of the ten ramps from shade to light that `icons.tint` paints with, and none where
    all are too far.
    """
    pixels = rgba[rgba[..., 3] > 128][:, :3].astype(np.float32)
    distances: list[np.ndarray] = []
    for name in COLORS:
        base = np.array(icons.COLORS[name], np.float32)
        dark, light = base * 0.5, base + (255 - base) * 0.30
        if name == "white":
            dark, light = np.full(3, 235.0), np.full(3, 255.0)
        if name == "black":
            dark, light = np.full(3, 0.0), np.full(3, 60.0)
        ramp = np.concatenate([np.linspace(dark, base, 6), np.linspace(base, light, 6)]).astype(np.float32)
        distances.append(np.linalg.norm(pixels[:, None] - ramp[None], axis=-1).min(1))
    nearest = np.stack(distances)  # (10, pixels)
    strict, loose = (
        np.bincount(nearest.argmin(0)[nearest.min(0) < reach], minlength=len(COLORS)) / len(pixels)
        for reach in (45, 65)
    )
    if strict.max() >= 0.6:
        return int(strict.argmax())
    return MIXED if loose.max() < 0.5 else UNKNOWN


class Sampler:
    """Layouts, their pixels and their labels."""

    def __init__(self, library: vq.Library) -> None:
        self.library = library
        self.facts = icon_facts(library)
        self.variants = {name: 1 + max(k[1] for k in library if k[0] == name) for name in OBJECT_NAMES}

    def layout(self, random: np.random.Generator) -> Layout:
        """Up to five icons that may touch but do not overlap, often of one class, in one or several colours."""
        number = int(random.choice(6, p=[0.03, 0.25, 0.28, 0.19, 0.15, 0.10]))
        large = (0.0, 0.6, 0.5, 0.3, 0.2, 0.1)[number]
        named = random.random() < 0.5  # the nine places of the plan, or anywhere on the token grid
        placed: list[Placed] = []
        for _ in range(number):
            size = "large" if random.random() < large else "small"
            side = SIZES[size]
            corner = self._room(random, placed, side, named)
            if corner is None:
                continue
            name = str(random.choice(OBJECT_NAMES))
            variant = int(random.integers(self.variants[name]))
            color = NATURAL if random.random() < 0.4 else COLORS[random.integers(len(COLORS))]
            if placed and random.random() < 0.3:
                name, variant, last, _ = placed[-1].key
                color = last if random.random() < 0.5 else color
            placed.append(Placed((name, variant, color, size), *corner))
        return Layout(tuple(placed), list(GROUNDS)[random.integers(len(GROUNDS))])

    @staticmethod
    def _room(random: np.random.Generator, placed: Sequence[Placed], side: int, named: bool) -> tuple[int, int] | None:
        for _ in range(30):
            if named:
                starts = (0, (GRID - side) // 2, GRID - side)
                row, column = _PLACES[random.integers(9)]
                top, left = starts[row], starts[column]
            else:
                top, left = (int(v) for v in random.integers(0, GRID - side + 1, 2))
            if all(
                top + side <= p.top or p.top + p.side <= top or left + side <= p.left or p.left + p.side <= left
                for p in placed
            ):
                return top, left
        return None

    def draw(self, layout: Layout) -> np.ndarray:
        """Pixels, uint8 (144, 144, 3)."""
        canvas = np.empty((SIDE, SIDE, 3), np.float32)
        canvas[:] = GROUNDS[layout.ground]
        for p in layout.placed:
            compose(canvas, self.library[p.key], p.top * TOKEN, p.left * TOKEN)
        return canvas.round().astype(np.uint8)

    def labels(self, layout: Layout) -> np.ndarray:
        """(MOST, 6) float32: class, x0, y0, x1, y1, colour."""
        rows = np.full((MOST, 6), EMPTY, np.float32)
        for row, p in zip(rows, layout.placed, strict=False):
            facts = self.facts[p.key]
            x, y = p.left * TOKEN, p.top * TOKEN
            x0, y0, x1, y1 = facts.box
            row[:] = (OBJECT_NAMES.index(p.key[0]), x0 + x, y0 + y, x1 + x, y1 + y, facts.color)
        return rows

    def twin(self, layout: Layout, random: np.random.Generator) -> tuple[Layout, list[str]]:
        """The same places with something else in each: another class, another colour, or nothing."""
        others: list[Placed] = []
        kinds: list[str] = []
        for p in layout.placed:
            name, variant, color, size = p.key
            kind = str(random.choice(["class", "color", "ground"], p=[0.45, 0.35, 0.2]))
            kinds.append(kind)
            if kind == "ground":
                continue
            fresh = [c for c in COLORS if c != color]
            if kind == "class":
                name = str(random.choice([n for n in OBJECT_NAMES if n != name]))
                variant = int(random.integers(self.variants[name]))
                color = color if random.random() < 0.5 else str(random.choice([NATURAL, *COLORS]))
            else:
                color = str(random.choice(fresh))
            others.append(Placed((name, variant, color, size), p.top, p.left))
        return Layout(tuple(others), layout.ground), kinds


class Coder(Protocol):
    """Layouts to a grid of cells and back to pixels, so that cells can be exchanged in between."""

    number: int
    """How many different cells there are."""
    near: np.ndarray | None
    """(number, k): cells that look much the same."""

    def tokens(self, layouts: Sequence[Layout]) -> np.ndarray:
        """Int64 (B, 9, 9)."""
        ...

    def pictures(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens (B, 9, 9) -> uint8 (B, 144, 144, 3)."""
        ...


class PixelCoder:
    """Cells of clean pixels: the VQ model's damage without the VQ model, at almost no cost."""

    near = None

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.number = 0
        self.cells = np.empty((0, TOKEN, TOKEN, 3), np.uint8)

    def tokens(self, layouts: Sequence[Layout]) -> np.ndarray:
        """A number for each different cell of these pictures; earlier numbers are forgotten."""
        drawn = np.stack([self.sampler.draw(x) for x in layouts])
        cut = drawn.reshape(-1, GRID, TOKEN, GRID, TOKEN, 3).swapaxes(2, 3).reshape(-1, TOKEN, TOKEN, 3)
        numbers: dict[bytes, int] = {}
        tokens = np.array([numbers.setdefault(cell.tobytes(), len(numbers)) for cell in cut])
        self.number = len(numbers)
        self.cells = np.frombuffer(b"".join(numbers), np.uint8).reshape(-1, TOKEN, TOKEN, 3)
        return tokens.reshape(-1, GRID, GRID)

    def pictures(self, tokens: np.ndarray) -> np.ndarray:
        """Cells put together."""
        return self.cells[tokens].swapaxes(2, 3).reshape(-1, SIDE, SIDE, 3)


class VqCoder:
    """The codebook and the VQ model's decoder: what the generator's tokens look like."""

    def __init__(self, settings: Settings, library: vq.Library, folder: Path) -> None:
        shapes = vq.learn_shapes(settings, library)
        self.bank = vq.build_bank(shapes, library)
        self.number = settings["vq"]["codebook"]
        self.near: np.ndarray | None = self._near(shapes)
        self.network, self.step = vq.load(settings, folder)

    def _near(self, shapes: torch.Tensor) -> np.ndarray:
        """(codebook, 8): the most similar shapes in the same tint; a ground is near to itself."""
        similar = torch.cdist(shapes, shapes).topk(9, largest=False).indices[:, 1:]  # (shapes, 8)
        tints, grounds = torch.arange(len(vq.TINTS)), torch.arange(len(GROUNDS))
        codes = len(GROUNDS) + similar[:, None] * len(vq.TINTS) + tints[:, None]  # (shapes, tints, 8)
        return torch.cat([grounds[:, None].expand(-1, 8), codes.flatten(0, 1)]).numpy()

    def tokens(self, layouts: Sequence[Layout]) -> np.ndarray:
        """Pasted from each icon's own tokens."""
        grids = np.empty((len(layouts), GRID, GRID), np.int64)
        for grid, layout in zip(grids, layouts, strict=True):
            grid[:] = GROUND_TOKENS[layout.ground]
            for p in layout.placed:
                paste(grid[p.top : p.top + p.side, p.left : p.left + p.side], self.bank[p.key])
        return grids

    @torch.inference_mode()
    def pictures(self, tokens: np.ndarray) -> np.ndarray:
        """What the decoder makes of them."""
        with torch.autocast("cpu", torch.bfloat16):
            pixels = self.network.decode(torch.from_numpy(tokens))
        return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


class Encoded:
    """The whole VQ model: pictures are encoded, not put together from known codes."""

    def __init__(self, coder: VqCoder, sampler: Sampler) -> None:
        self.coder, self.sampler = coder, sampler
        self.number, self.near = coder.number, coder.near

    @torch.inference_mode()
    def tokens(self, layouts: Sequence[Layout]) -> np.ndarray:
        """What the encoder makes of the pixels."""
        pixels = vq.to_pixels(np.stack([self.sampler.draw(layout) for layout in layouts]).astype(np.float32))
        with torch.autocast("cpu", torch.bfloat16):
            return self.coder.network.assign(self.coder.network.encode(pixels)).numpy()

    def pictures(self, tokens: np.ndarray) -> np.ndarray:
        """What the decoder makes of them."""
        return self.coder.pictures(tokens)


def psnr(coder: Coder, sampler: Sampler, number: int = 16) -> float:
    """How well whole scenes come back, in decibels."""
    random = np.random.default_rng(0)
    layouts = [sampler.layout(random) for _ in range(number)]
    drawn = np.stack([sampler.draw(x) for x in layouts]).astype(np.float32)
    return 10 * math.log10(255**2 / float(np.square(coder.pictures(coder.tokens(layouts)) - drawn).mean()))


def coded_pictures(
    sampler: Sampler, coder: Coder, random: np.random.Generator, number: int, damaged: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as the coder makes them, a share of them damaged: uint8 (n, 144, 144, 3), and labels (n, MOST, 6)."""
    layouts = [sampler.layout(random) for _ in range(number)]
    labels = np.stack([sampler.labels(layout) for layout in layouts])
    hurt = [i for i in range(number) if random.random() < damaged]
    twins = [sampler.twin(layouts[i], random) for i in hurt]
    tokens = coder.tokens([*layouts, *(t for t, _ in twins)])
    for i, (_, kinds), other in zip(hurt, twins, tokens[number:], strict=True):
        _damage(tokens[i], other, kinds, layouts[i], labels[i], sampler, coder, random)
    return coder.pictures(tokens[:number]), labels


def _damage(
    tokens: np.ndarray,
    twin: np.ndarray,
    kinds: Sequence[str],
    layout: Layout,
    labels: np.ndarray,
    sampler: Sampler,
    coder: Coder,
    random: np.random.Generator,
) -> None:
    """Replace cells of some icons and set their labels to what is left of them, in place. Tokens are (9, 9)."""
    if random.random() < 0.3:  # scraps on the ground, before the icons' own cells are restored below
        clean = tokens.copy()
        spots = random.integers(0, GRID, (int(random.integers(2, 9)), 2))
        tokens[tuple(spots.T)] = random.integers(0, coder.number, len(spots))
        for p in layout.placed:
            area = np.s_[p.top : p.top + p.side, p.left : p.left + p.side]
            tokens[area] = clean[area]
    for row, (p, twin_kind) in enumerate(zip(layout.placed, kinds, strict=True)):
        if random.random() < 0.3:
            continue
        area = np.s_[p.top : p.top + p.side, p.left : p.left + p.side]
        mine, cells = tokens[area], sampler.facts[p.key].cells
        kind = str(random.choice(["random", "twin", "shuffle", "near"], p=[0.2, 0.5, 0.1, 0.2]))
        kind = "twin" if kind == "near" and coder.near is None else kind
        if kind == "twin":
            kind, source = twin_kind, twin[area]
        elif kind == "random":
            source = random.integers(0, coder.number, mine.shape)
        elif kind == "near" and coder.near is not None:
            source = coder.near[mine, random.integers(0, coder.near.shape[1], mine.shape)]
        else:
            source = mine.copy()
            source[cells] = random.permutation(source[cells])
        low, high = [(0.03, PRESENT), (PRESENT, GONE), (GONE, {"class": 0.6, "near": 0.6}.get(kind, 1.0))][
            int(random.choice(3, p=[0.45, 0.15, 0.40]))
        ]
        changing = np.argwhere(source != mine) if kind == "class" else np.argwhere((source != mine) & cells)
        count = min(len(changing), round(float(random.uniform(low, high)) * int(cells.sum())))
        if random.random() < 0.5:  # scattered, or from one side
            order = random.permutation(len(changing))
        else:
            angle = random.uniform(0, 2 * math.pi)
            order = np.argsort(changing @ np.array([math.sin(angle), math.cos(angle)]))
        chosen = tuple(changing[order[:count]].T)
        mine[chosen] = source[chosen]
        share = count / int(cells.sum())
        if kind == "near":
            labels[row, 0] = labels[row, 0] if share <= GONE else IGNORE
        elif kind == "color":
            whole = count == len(changing)
            labels[row, 5] = labels[row, 5] if share <= PRESENT else MIXED if 0.35 < share < 0.65 else UNKNOWN
            labels[row, 5] = UNKNOWN if whole and share > PRESENT else labels[row, 5]
        elif share >= GONE:
            labels[row] = EMPTY
        elif share > PRESENT:
            labels[row, 0] = IGNORE


class Store:
    """Pictures of the generator's icons that went through the VQ model, made chunk by chunk and kept on disk."""

    def __init__(self, coders: Sequence[Coder], sampler: Sampler, settings: dict[str, Any], folder: Path) -> None:
        """An empty store.

        Args:
            coders: Draw its chunks in turn.
            sampler: Of the generator's icons.
            settings: Of the detector: ``coded_pictures``, ``chunk`` and ``seed``.
            folder: Holds the chunks' files.
        """
        self.coders, self.sampler, self.folder = coders, sampler, folder
        self.chunk, self.most, self.seed = settings["chunk"], settings["coded_pictures"], settings["seed"]
        self.pictures = np.empty((self.most, SIDE, SIDE, 3), np.uint8)
        self.labels = np.empty((self.most, MOST, 6), np.float32)
        self.filled = 0

    def grow(self) -> bool:
        """One chunk more, from its file where there is one; False where all are made."""
        if self.filled + self.chunk > self.most:
            return False
        file = self.folder / f"{self.filled:05d}.npz"
        if file.exists():
            with np.load(file) as stored:
                pictures, labels = stored["pictures"], stored["labels"]
        else:
            random = np.random.default_rng([self.seed, 1, self.filled])
            coder = self.coders[self.filled // self.chunk % len(self.coders)]
            pictures, labels = coded_pictures(self.sampler, coder, random, self.chunk)
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial.npz")
            np.savez(partial, pictures=pictures, labels=labels)
            partial.rename(file)
        fresh = slice(self.filled, self.filled + self.chunk)
        self.pictures[fresh], self.labels[fresh] = pictures, labels
        self.filled += self.chunk
        return True

    def pick(self, random: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Pictures and labels, with replacement."""
        index = random.integers(0, self.filled, number)
        return self.pictures[index], self.labels[index]


def open_store(settings: Settings, name: str, sampler: Sampler, folder: Path) -> Store:
    """A detector's store of what the newest VQ model draws, with its first pictures.

    Half of them are put together from known codes, as the generator draws; half went through the encoder.
    """
    own, coder = settings["critics"][name], VqCoder(settings, sampler.library, folder)
    encoded = Encoded(coder, sampler)
    log(name, vq_step=coder.step, vq_psnr=psnr(coder, sampler), encoded_psnr=psnr(encoded, sampler))
    store = Store([coder, encoded], sampler, own, folder / f"{name}-pictures-{coder.step}")
    while store.filled < own["first_pictures"] and store.grow():
        pass
    return store


def augment(
    pictures: np.ndarray, labels: np.ndarray, random: np.random.Generator, strength: dict[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts, light, noise, blur and blots, none of which changes a colour's name; now and then nothing but a ground.

    Args:
        pictures: uint8 (B, 144, 144, 3).
        labels: (B, MOST, 6).
        random: Its generator.
        strength: Chances of shift, resize, blur, noise and blot, and of a picture of one colour or of noise, which
            shows no object; the most that gain and light change.

    Returns:
        Pictures float32 (B, 144, 144, 3) in [0, 255], and labels whose boxes moved along.
    """
    out, moved = pictures.astype(np.float32), labels.copy()
    for picture, rows in zip(out, moved, strict=True):
        if random.random() < strength["empty"]:
            picture[:] = random.uniform(0, 255, 3 if random.random() < 0.5 else picture.shape)
            rows[:, 0] = EMPTY
            continue
        if random.random() < strength["shift"]:
            right, down = (int(v) for v in random.integers(-4, 5, 2))
            padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="edge")
            picture[:] = padded[4 - down : 4 - down + SIDE, 4 - right : 4 - right + SIDE]
            real = rows[:, 0] > EMPTY
            rows[real, 1:5] = np.clip(rows[real, 1:5] + (right, down, right, down), 0, SIDE)
        if random.random() < strength["blot"]:  # too small to hide an object
            top, left = (int(v) for v in random.integers(0, SIDE - 8, 2))
            picture[top : top + 8, left : left + 8] = random.uniform(0, 255, 3)
        if random.random() < strength["resize"]:
            small = [int(v) for v in random.integers(56, 112, 2)]
            soft = Image.fromarray(picture.astype(np.uint8)).resize(small, Image.Resampling.BILINEAR)
            picture[:] = np.asarray(soft.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        elif random.random() < strength["blur"]:
            around = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
            cross = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
            picture[:] = 0.5 * picture + 0.125 * cross
    gain, light = strength["gain"], strength["light"]
    gains = random.uniform(1 - gain, 1 + gain, (len(out), 1, 1, 3)) * random.uniform(
        1 - gain, 1 + gain, (len(out), 1, 1, 1)
    )
    out = out * gains.astype(np.float32) + random.uniform(-light, light, (len(out), 1, 1, 1)).astype(np.float32)
    noisy = np.flatnonzero(random.random(len(out)) < strength["noise"])
    deviation = random.uniform(1, 8, (len(noisy), 1, 1, 1)).astype(np.float32)
    out[noisy] += random.standard_normal((len(noisy), SIDE, SIDE, 3), dtype=np.float32) * deviation
    return out.clip(0, 255), moved


@dataclass(frozen=True)
class Targets:
    """What the heads should say. N is the number of objects in the batch."""

    centre: torch.Tensor
    """(B, 18, 18): 1 where an object's centre lies."""
    weight: torch.Tensor
    """(B, 18, 18): less near a centre, 0 where a label says to ignore."""
    cells: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """Batch, row and column of each object, int64 (N)."""
    names: torch.Tensor
    """int64 (N)."""
    boxes: torch.Tensor
    """(N, 4), as `DetectorNetwork` gives them."""
    colors: torch.Tensor
    """int64 (N); `UNKNOWN` is left out."""


def make_targets(labels: np.ndarray) -> Targets:
    """Labels (B, MOST, 6) -> targets."""
    centre = np.zeros((len(labels), MAP, MAP), np.float32)
    weight = np.ones_like(centre)
    middles = np.arange(MAP) + 0.5
    real = np.argwhere(labels[..., 0] > EMPTY)
    objects: list[tuple[float, ...]] = []
    for picture, row in real:
        name, x0, y0, x1, y1, color = labels[picture, row]
        x, y = (x0 + x1) / 2 / CELL, (y0 + y1) / 2 / CELL
        squared = (middles[None, :] - x) ** 2 + (middles[:, None] - y) ** 2
        if name == IGNORE:
            weight[picture][squared < 6] = 0
            continue
        weight[picture] *= (1 - np.exp(-squared / (2 * 0.8**2))) ** 2
        r, c = min(int(y), MAP - 1), min(int(x), MAP - 1)
        width, height = max(x1 - x0, 1), max(y1 - y0, 1)
        box = (x - c - 0.5, y - r - 0.5, math.log(width / BOX_UNIT), math.log(height / BOX_UNIT))
        objects.append((picture, r, c, name, *box, color))
    table = torch.tensor(objects, dtype=torch.float32).reshape(-1, 9)
    cells = (table[:, 0].long(), table[:, 1].long(), table[:, 2].long())
    maps = torch.from_numpy(centre), torch.from_numpy(weight)
    for filled in maps:
        filled[cells] = 1
    return Targets(*maps, cells, table[:, 3].long(), table[:, 4:8], table[:, 8].long())


def detector_loss(
    maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], targets: Targets
) -> tuple[torch.Tensor, dict[str, float]]:
    """The sum of four losses, each a mean over objects, and figures for the log."""
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
    figures["right"] = (names[at].argmax(-1) == targets.names).float().mean().item()
    return losses["centre"] + losses["names"] + losses["boxes"] + 0.5 * losses["colors"], figures


def train(settings: Settings, name: str, library: vq.Library, drawn: vq.Library, folder: Path) -> IconDetector:
    """Train, calibrate and write a detector to ``folder``; resumes from its checkpoint, or from the shipped weights.

    Args:
        settings: Of all stages.
        name: Of the detector in ``settings["critics"]``.
        library: The icons that it learns.
        drawn: Those that the generator draws.
        folder: Holds the checkpoint, and the detector's own folder at the end.
    """
    own: dict[str, Any] = settings["critics"][name]
    config = DetectorConfig(architecture=own["architecture"], widths=tuple(own["widths"]), blocks=own["blocks"])
    torch.manual_seed(own["seed"])
    network = DetectorNetwork(config).to(memory_format=torch.channels_last).train()
    torch.nn.init.constant_(network.heads.bias[0], -4.0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=own["learning_rate"], weight_decay=own["weight_decay"])
    checkpoint = Checkpoint(folder / f"{name}.pt")
    step = checkpoint.load(network=network, optimiser=optimiser)
    if step == 0:
        start_from_shipped(network, Path(own["folder"]))
    sampler, drawn_sampler = Sampler(library), Sampler(drawn)
    pixel_coder = PixelCoder(sampler)
    store: Store | None = None
    half, total = own["batch"] // 2, own["steps"] * own["rounds"]
    started, sums = time.time(), dict[str, float]()
    while step < total:
        random = np.random.default_rng([own["seed"], 0, step])
        pictures, labels = coded_pictures(sampler, pixel_coder, random, half, own["damaged"])
        if step >= own["coded_from"]:
            store = store or open_store(settings, name, drawn_sampler, folder)
            if step % own["grow_every"] == 0:
                store.grow()
            other, other_labels = store.pick(random, half)
        else:
            other, other_labels = coded_pictures(sampler, pixel_coder, random, half, own["damaged"])
        pictures, labels = augment(
            np.concatenate([pictures, other]), np.concatenate([labels, other_labels]), random, own["augment"]
        )
        pixels = vq.to_pixels(pictures).contiguous(memory_format=torch.channels_last)
        for group in optimiser.param_groups:
            group["lr"] = own["learning_rate"] * rate(step % own["steps"], own["steps"], warm=200, floor=0.01)
        with torch.autocast("cpu", torch.bfloat16):
            maps = network(pixels)
        loss, figures = detector_loss(maps, make_targets(labels))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        sums = {name: sums.get(name, 0.0) + value for name, value in figures.items()}
        if step % 50 == 0:
            log(
                name,
                step=step,
                **{k: v / 50 for k, v in sums.items()},
                coded=store.filled if store else 0,
                pictures_per_second=50 * own["batch"] / (time.time() - started),
            )
            started, sums = time.time(), {}
        if step % 200 == 0 or step == total:
            checkpoint.save(step, network=network, optimiser=optimiser)
    trained = IconDetector(network.to(memory_format=torch.contiguous_format), config)
    detector = calibrate(trained, own, drawn_sampler, VqCoder(settings, drawn, folder))
    detector.save(folder / name)
    return detector


Scored = list[tuple[float, bool]]


def match(
    seen: dict[str, list[Detection]], labels: np.ndarray
) -> tuple[list[tuple[Detection, bool, int]], list[float]]:
    """Compare one picture's detections with its labels.

    Returns:
        (detection, whether class and place are right, label row or -1) of all but those on ignored places, and the
        score at which each labelled object was found, 0 for a missed one.
    """
    rows = [row for row in labels if row[0] >= 0]
    ignored = [row for row in labels if row[0] == IGNORE]
    best = [0.0] * len(rows)
    results: list[tuple[Detection, bool, int]] = []
    flat = sorted(((d, name) for name, found in seen.items() for d in found), key=lambda item: -item[0][4])
    for detection, name in flat:
        if any(_overlap(detection, row) > 0.3 for row in ignored):
            continue
        index = next(
            (
                i
                for i, row in enumerate(rows)
                if OBJECT_NAMES[int(row[0])] == name and not best[i] and _overlap(detection, row) > 0.5
            ),
            -1,
        )
        if index >= 0:
            best[index] = detection[4]
        results.append((detection, index >= 0, index))
    return results, best


def _overlap(detection: Detection, row: np.ndarray) -> float:
    x0, y0, x1, y1 = detection[:4]
    a0, b0, a1, b1 = row[1:5]
    shared = max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
    return float(shared / max((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - shared, 1e-6))


def calibrate(detector: IconDetector, own: dict[str, Any], sampler: Sampler, coder: Coder) -> IconDetector:
    """Platt scaling on fresh pictures, then stretched so that GenEval's two thresholds mean something.

    A score of 0.3 stands for even chances that a detection is right, one of 0.9 (counting) for the probability
    ``own["sure"]``.
    """
    raw = IconDetector(detector.network, replace_config(detector.config, slope=1.0, offset=0.0, least=0.01))
    points: Scored = []
    for pictures, labels in test_pictures(sampler, coder, own["seed"] + 1, own["calibration_pictures"]):
        for seen, rows in zip(raw.detect([Image.fromarray(p) for p in pictures]), labels, strict=True):
            points += [(d[4], right) for d, right, _ in match(seen, rows)[0]]
    x = np.array([math.log(p / (1 - p)) for p, _ in points if p < 1 - 1e-12])
    y = np.array([float(right) for p, right in points if p < 1 - 1e-12])
    parameters = np.array([1.0, 0.0])
    for _ in range(50):  # Newton's method on the log likelihood
        p = 1 / (1 + np.exp(-(parameters[0] * x + parameters[1])))
        design = np.stack([x, np.ones_like(x)], 1)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        parameters -= np.linalg.solve(hessian, design.T @ (p - y))
    slope, offset = float(parameters[0]), float(parameters[1])
    log("detector-calibration", points=len(y), slope=slope, offset=offset)
    even = math.log(0.3 / 0.7)  # of a score; the probability's is 0 there
    stretch = (math.log(0.9 / 0.1) - even) / math.log(own["sure"] / (1 - own["sure"]))
    config = replace_config(detector.config, slope=stretch * slope, offset=stretch * offset + even, least=0.05)
    return IconDetector(detector.network, config)


def replace_config(config: DetectorConfig, slope: float, offset: float, least: float) -> DetectorConfig:
    """The config with other score settings."""
    return config.model_copy(update={"score_slope": slope, "score_offset": offset, "least_score": least})


KINDS = ("clean", "coded", "damaged", "encoded")
"""Of pictures: rendered, through codes and decoder, the same with codes exchanged, through the VQ encoder as well."""


def test_pictures(sampler: Sampler, coder: Coder, seed: int, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fresh pictures and labels, ``number`` of each kind of `KINDS`."""
    random = np.random.default_rng([seed, 2])
    layouts = [sampler.layout(random) for _ in range(number)]
    clean = np.stack([sampler.draw(x) for x in layouts])
    sets = [(clean, np.stack([sampler.labels(x) for x in layouts]))]
    for drawn, damaged in ((coder, 0.0), (coder, 1.0), (Encoded(coder, sampler), 0.0)):
        chunk = min(32, number)
        chunks = [coded_pictures(sampler, drawn, random, chunk, damaged) for _ in range(math.ceil(number / chunk))]
        sets.append((np.concatenate([c[0] for c in chunks])[:number], np.concatenate([c[1] for c in chunks])[:number]))
    return sets


def wrong_scene(world: World, task: Task, scene: Scene) -> tuple[str, Scene] | None:
    """A scene in which exactly one thing is wrong: (what, scene); None where this task has no such fault."""
    random = world.random
    kinds = ["object", "count"]
    kinds += ["color"] * any(r.color for r in task.include) + ["relation"] * any(r.position for r in task.include)
    kind = str(random.choice(kinds))
    asked = {r.name: r for r in task.include}
    items = list(scene.items)
    index = int(random.integers(len(items)))
    if kind == "object":
        absent = [n for n in OBJECT_NAMES if n not in asked]
        items[index] = replace(items[index], name=str(random.choice(absent)))
    elif kind == "color":
        index = int(random.choice([i for i, item in enumerate(items) if item.color]))
        items[index] = replace(items[index], color=str(random.choice([c for c in COLORS if c != items[index].color])))
    elif kind == "count":
        grown = task.tag == "counting" and len(items) < 4 and random.random() < 0.5
        if not grown:
            del items[index]
            return kind, replace(scene, items=tuple(items))
        need = task.include[0].model_copy(update={"count": len(items) + 1})
        return kind, world.scene(task.model_copy(update={"include": (need,)}))
    else:
        opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
        turned = tuple(
            r.model_copy(update={"position": (opposite[r.position[0]], r.position[1])}) if r.position else r
            for r in task.include
        )
        return kind, world.scene(task.model_copy(update={"include": turned}))
    return kind, replace(scene, items=tuple(items))


def to_layout(scene: Scene) -> Layout:
    """A scene as placed icons."""

    def place(item: Item) -> Placed:
        top, left, _, _ = item.box
        return Placed((item.name, item.variant, item.color or NATURAL, item.size), top, left)

    return Layout(tuple(place(item) for item in scene.items), scene.ground)


def truth(sampler: Sampler, layout: Layout) -> dict[str, list[Detection]]:
    """What a faultless detector would see."""
    seen: dict[str, list[Detection]] = {}
    for name, x0, y0, x1, y1, color in sampler.labels(layout)[: len(layout.placed)].tolist():
        label = COLORS[int(color)] if 0 <= color < MIXED else None
        seen.setdefault(OBJECT_NAMES[int(name)], []).append((x0, y0, x1, y1, 1.0, label))
    return seen


def report(settings: Settings, name: str, library: vq.Library, folder: Path) -> dict[str, Any]:
    """Figures on pictures of the generator's icons that neither training nor calibration saw."""
    own = settings["critics"][name]
    sampler = Sampler(library)
    coder = VqCoder(settings, library, folder)
    detector = IconDetector.from_folder(folder / name)
    figures: dict[str, Any] = {}
    sets = test_pictures(sampler, coder, own["seed"] + 2, own["report_pictures"])
    for title, (pictures, labels) in zip(KINDS, sets, strict=True):
        figures[title] = _detection_figures(detector, pictures, labels)
    random = np.random.default_rng([own["seed"], 3])
    world = World(random, HeldOut(frozenset(), frozenset()), frozenset())
    rows: list[tuple[Task, Layout, bool, str]] = []
    skipped = {True: 0, False: 0}
    for wanted in (True, False):
        while sum(r[2] is wanted for r in rows) < own["report_pairs"]:
            task = world.request()
            scene, kind = world.scene(task), task.tag or "other"
            if not wanted:
                changed = wrong_scene(world, task, scene)
                if changed is None:
                    continue
                kind, scene = changed
            variants = {r.name: int(random.integers(sampler.variants[r.name])) for r in task.include}
            scene = replace(scene, items=tuple(replace(i, variant=variants.get(i.name, 0)) for i in scene.items))
            layout = to_layout(scene)
            if apply_rules(truth(sampler, layout), task).correct is not wanted:
                skipped[wanted] += 1
                continue
            rows.append((task, layout, wanted, kind))
    figures["pairs"] = {"left out, as the truth itself is judged otherwise": {str(k): v for k, v in skipped.items()}}
    layouts = [layout for _, layout, _, _ in rows]
    parts = [layouts[i : i + 32] for i in range(0, len(layouts), 32)]
    for title, shown in (("clean", PixelCoder(sampler)), ("coded", coder), ("encoded", Encoded(coder, sampler))):
        pictures = [picture for part in parts for picture in shown.pictures(shown.tokens(part))]
        said = [
            apply_rules(seen, task).correct
            for seen, (task, _, _, _) in zip(detector.detect([Image.fromarray(p) for p in pictures]), rows, strict=True)
        ]
        by_kind: dict[str, list[bool]] = {}
        for verdict, (_, _, wanted, kind) in zip(said, rows, strict=True):
            by_kind.setdefault(("right: " if wanted else "wrong: ") + kind, []).append(verdict)
        right = [v for v, r in zip(said, rows, strict=True) if r[2]]
        wrong = [v for v, r in zip(said, rows, strict=True) if not r[2]]
        figures["pairs"][title] = {
            "called correct, of matching pairs": float(np.mean(right)),
            "called correct, of pairs with one fault": float(np.mean(wrong)),
            "by kind": {k: f"{sum(v)}/{len(v)}" for k, v in sorted(by_kind.items())},
        }
    return figures


def _detection_figures(detector: IconDetector, pictures: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    found: list[float] = []
    scored: Scored = []
    colors: list[bool] = []
    overlaps: list[float] = []
    missed: dict[str, int] = {}
    for seen, rows in zip(detector.detect([Image.fromarray(p) for p in pictures]), labels, strict=True):
        results, best = match(seen, rows)
        real = [row for row in rows if row[0] >= 0]
        found += best
        for score, row in zip(best, real, strict=True):
            if score <= 0.3:
                missed[OBJECT_NAMES[int(row[0])]] = missed.get(OBJECT_NAMES[int(row[0])], 0) + 1
        for detection, right, index in results:
            scored.append((detection[4], right))
            if right and real[index][5] != UNKNOWN and detection[4] > 0.3:
                wanted = int(real[index][5])
                colors.append(detection[5] == (COLORS[wanted] if wanted < MIXED else None))
                overlaps.append(_overlap(detection, real[index]))
    figures: dict[str, Any] = {"objects": len(found)}
    for limit in (0.3, 0.9):
        kept = [right for score, right in scored if score > limit]
        figures[f"recall at {limit}"] = float(np.mean(np.array(found) > limit))
        figures[f"precision at {limit}"] = float(np.mean(kept or [math.nan]))
        figures[f"false ones a picture at {limit}"] = kept.count(False) / len(pictures)
    figures["right just above 0.3 (to 0.5)"] = float(np.mean([r for s, r in scored if 0.3 < s <= 0.5] or [math.nan]))
    figures["color accuracy"] = float(np.mean(colors or [math.nan]))
    figures["mean IoU"] = float(np.mean(overlaps or [math.nan]))
    figures["missed most"] = dict(sorted(missed.items(), key=lambda item: -item[1])[:8])
    return figures
