"""Stage 2, the VQ model: a codebook of shapes in colours, then JanusVQVAE's decoder and encoder around it.

A code says what one 16 x 16 patch of an icon shows: one of some hundred shapes, which are k-means over opacity and
shade of all icons' patches, in one of ten colours or as the icon's set painted it; four more codes are the plain
grounds. So an icon has the same tokens wherever it stands, whatever ground is behind and whatever stands beside it; an
object in a colour that was never shown has codes that other objects have shown; and the language model has far less to
learn.
(Trained end to end, JanusVQVAE does the opposite: its GroupNorm has as many groups as channels here, that is, it
normalises over the whole picture, and every token depends on every object.) The decoder learns to paint pictures from
codes: what is one shape of several icons is told apart by its neighbours. The encoder learns to name each patch's code.
Three traps: code vectors are L2-normalised in training, because transformers' decode path normalises them; the
attention blocks are switched off in the weights (their output projection is zero); and GroupNorm is switched off as far
as weights can do it (`EPSILON`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import (
    JanusVQVAE,
    JanusVQVAEAttnBlock,
    JanusVQVAEConvDownsample,
    JanusVQVAEConvUpsample,
    JanusVQVAEResnetBlock,
)

from training.icons import COLORS, GROUNDS, NATURAL, compose
from training.scenes import AIR, GROUND_TOKENS, TOKEN, paste
from training.stage import Checkpoint, Settings, log, rate, start_from_shipped

Library = dict[tuple[str, int, str, str], np.ndarray]
Bank = dict[tuple[str, int, str, str], np.ndarray]
"""Of every icon the tokens (s, s) int64; `AIR` where a patch is empty."""
TINTS = (NATURAL, *COLORS)
"""What a shape may be painted in. The codebook holds the grounds, then each shape in every tint."""
SHIPPED = "model.vqmodel."
"""The VQ model's place in the whole one."""
FULL = 40  # tries to place an icon: few more find room
EPSILON = 1000.0
"""What training adds to the variance in every GroupNorm, which then hardly divides by anything.

JanusVQVAE has 32 groups whatever its width. With one channel in each, GroupNorm divides every channel by how full the
picture is and takes the ground's own level away, so that colours hung on what else was drawn and the four grounds
looked alike. Its epsilon is 1e-6 in transformers: `scale_residuals` makes all that a GroupNorm sees so small that this
is as much beside it as 1000 is in training, and the same function comes out."""
SHIPPED_SCALE = math.sqrt(1e-6 / EPSILON)
_SHADED = "green"  # the tint whose luminance tells an icon's shades


def cut_patches(pixels: np.ndarray) -> np.ndarray:
    """(H, W, c) -> (H / 16, W / 16, 16 * 16 * c)."""
    height, width, channels = pixels.shape
    grid = pixels.reshape(height // TOKEN, TOKEN, width // TOKEN, TOKEN, channels)
    return grid.swapaxes(1, 2).reshape(height // TOKEN, width // TOKEN, -1)


def shape_patches(rgba: np.ndarray) -> np.ndarray:
    """An icon, tinted -> opacity and shade of its patches (s, s, 512) float32 in [0, 1]: nothing of its colour."""
    opacity = rgba[..., 3].astype(np.float32) / 255
    shade = rgba[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 160
    return cut_patches(np.stack([opacity, opacity * shade.clip(0, 1)], -1))


def learn_shapes(settings: Settings, library: Library) -> torch.Tensor:
    """K-means centres of the icons' patches, (shapes, 512) in [0, 1].

    Kept in git, as bytes: the shipped weights' tokens are indices into this very list.
    """
    file = Path(settings["paths"]["shapes"])
    if not file.exists():
        own = settings["vq"]
        random = torch.Generator().manual_seed(own["seed"])
        shaded = [
            shape_patches(rgba).reshape(-1, 2 * TOKEN * TOKEN) for key, rgba in library.items() if key[2] == _SHADED
        ]
        patches = torch.from_numpy(np.unique(np.concatenate(shaded), axis=0))
        patches = patches[~_empty(patches)]
        number = (own["codebook"] - len(GROUNDS)) // len(TINTS)
        centres = patches[torch.randperm(len(patches), generator=random)[:number]]
        for round_ in range(own["rounds"]):
            index = nearest(patches, centres)
            counts = torch.bincount(index, minlength=number).float()
            sums = torch.zeros_like(centres).index_add_(0, index, patches)
            fresh = patches[torch.randint(len(patches), (number,), generator=random)]  # for centres without patches
            centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], fresh)
            if round_ % 5 == 4:
                error = (patches - centres[index]).square().mean().item()
                log("shapes", round=round_ + 1, patches=len(patches), psnr=-10 * math.log10(error))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, (centres * 255).round().byte().numpy())
    return torch.from_numpy(np.load(file)).float() / 255


def _empty(patches: torch.Tensor) -> torch.Tensor:
    """Which patches (N, 512) show nothing."""
    return patches[:, ::2].amax(1) < 0.05


def nearest(patches: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Index of the nearest centre of each patch: (N, c), (K, c) -> (N,) int64."""
    norms = centres.square().sum(1)
    return torch.cat([(norms - 2 * part @ centres.T).argmin(1) for part in patches.split(4096)])


def build_bank(shapes: torch.Tensor, library: Library) -> Bank:
    """Every icon's tokens."""
    bank: Bank = {}
    for name, variant, color, size in library:
        if color != _SHADED:
            continue
        patches = torch.from_numpy(shape_patches(library[name, variant, color, size]))  # (s, s, 512)
        flat = patches.flatten(0, 1)
        index = torch.where(_empty(flat), AIR, nearest(flat, shapes)).view(patches.shape[:2]).numpy()
        for number, tint in enumerate(TINTS):
            bank[name, variant, tint, size] = np.where(index == AIR, AIR, len(GROUNDS) + index * len(TINTS) + number)
    return bank


def code_vectors(shapes: torch.Tensor, width: int) -> torch.Tensor:
    """Where the code vectors begin, (codebook, width), unit length.

    One half of each is its tint or ground, the other the shape's principal components.
    """
    hues = len(TINTS) + len(GROUNDS)
    centred = shapes - shapes.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    forms = F.normalize(centred @ directions[: width - hues].T, dim=-1)  # (shapes, width - hues)
    colors = torch.eye(hues)
    grounds = torch.cat([colors[len(TINTS) :], torch.zeros(len(GROUNDS), width - hues)], 1)
    tinted = torch.cat(
        [colors[: len(TINTS)].repeat(len(forms), 1), forms.repeat_interleave(len(TINTS), 0)], 1
    )  # shape by shape, as codes are numbered
    return F.normalize(torch.cat([grounds, tinted]), dim=-1)


def vq_config(settings: Settings) -> JanusVQVAEConfig:
    """The VQ part of the embedded model's configuration."""
    vq, model = settings["vq"], settings["model"]
    return JanusVQVAEConfig(
        embed_dim=vq["embed_dim"],
        num_embeddings=vq["codebook"],
        latent_channels=vq["latent_channels"],
        base_channels=vq["base_channels"],
        channel_multiplier=vq["channel_multiplier"],
        num_res_blocks=vq["res_blocks"],
        num_patches=vq["image_size"] // TOKEN,
        projection_dim=model["width"],
        image_token_embed_dim=model["width"],
        num_hidden_layers=2,
    )


class Autoencoder(nn.Module):
    """JanusVQVAE with unit code vectors. ``model`` has transformers' names; its scale is training's."""

    def __init__(self, config: JanusVQVAEConfig) -> None:
        super().__init__()
        self.model = JanusVQVAE(config)
        for module in self.model.modules():
            if isinstance(module, JanusVQVAEAttnBlock):
                nn.init.zeros_(module.proj_out.weight)
                nn.init.zeros_(module.proj_out.bias)
                module.requires_grad_(False)
                module.forward = lambda x: x  # type: ignore[method-assign]  # what zero weights compute, at no cost
            elif isinstance(module, nn.GroupNorm):
                module.eps = EPSILON
                nn.init.constant_(module.weight, math.sqrt(EPSILON))
            elif isinstance(module, JanusVQVAEResnetBlock):  # without a norm, residuals begin with nothing
                nn.init.kaiming_normal_(module.conv1.weight)
                nn.init.zeros_(module.conv2.weight)
                nn.init.zeros_(module.conv2.bias)
            elif isinstance(module, JanusVQVAEConvUpsample | JanusVQVAEConvDownsample):
                nn.init.dirac_(module.conv.weight)
                nn.init.zeros_(module.conv.bias)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> unit vectors (B, H/16, W/16, embed_dim)."""
        hidden = self.model.quant_conv(self.model.encoder(pixels))
        return F.normalize(hidden.permute(0, 2, 3, 1).float(), dim=-1)

    def codes(self) -> torch.Tensor:
        """(codebook, embed_dim), unit length."""
        return F.normalize(self.model.quantize.embedding.weight, dim=-1)

    def assign(self, vectors: torch.Tensor) -> torch.Tensor:
        """Unit vectors (..., embed_dim) -> nearest code, int64 (...)."""
        with torch.autocast("cpu", enabled=False):  # bf16 would blur neighbouring codes
            return (vectors.float() @ self.codes().T).argmax(-1)

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, h, w) -> pixels (B, 3, 16h, 16w) in about [-1, 1]."""
        vectors = self.codes()[tokens].permute(0, 3, 1, 2).contiguous()  # channels last would be far slower on a CPU
        return self.model.decoder(self.model.post_quant_conv(vectors))


@torch.no_grad()
def scale_residuals(model: JanusVQVAE, factor: float) -> None:
    """Make all that a GroupNorm sees ``factor`` times as large, in place.

    A GroupNorm whose epsilon is that factor's square times as large then gives what it gave before.
    """
    for half in (model.encoder, model.decoder):
        scaled: list[torch.Tensor] = [half.conv_in.weight, half.conv_in.bias]
        for module in half.modules():
            if isinstance(module, JanusVQVAEResnetBlock):
                scaled += [p for conv in (module.conv1, module.conv2) for p in (conv.weight, conv.bias)]
                scaled += [module.nin_shortcut.bias] if hasattr(module, "nin_shortcut") else []
            elif isinstance(module, JanusVQVAEConvUpsample | JanusVQVAEConvDownsample):
                scaled.append(module.conv.bias)
        for parameter in scaled:
            parameter.mul_(factor)


def to_pixels(canvases: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) in [0, 255] -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(canvases / 127.5 - 1.0).permute(0, 3, 1, 2).contiguous().float()


def reconstruction_loss(decoded: torch.Tensor, pixels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L1 + squared error + edges; foreground counts more. ``weight`` is (B, H, W)."""
    emphasis = 0.3 + weight[:, None]
    difference = decoded.float() - pixels
    plain = ((difference.abs() + 2 * difference.square()) * emphasis).mean()
    vertical = ((difference[:, :, 1:] - difference[:, :, :-1]).abs() * emphasis[:, :, 1:]).mean()
    horizontal = ((difference[..., 1:] - difference[..., :-1]).abs() * emphasis[..., 1:]).mean()
    return plain + 0.5 * (vertical + horizontal)


def random_scenes(
    library: Library, bank: Bank, random: np.random.Generator, number: int, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scenes of icons anywhere on the token grid: of one to four, or, every other time, as many as there is room for.

    Plain ground is most of a picture and soon known; a full scene teaches three times as many icons at the same cost.

    Args:
        library: Every icon.
        bank: Their tokens.
        random: The source of chance.
        number: Of scenes.
        side: Of a scene, in pixels.

    Returns:
        Pixels (B, side, side, 3) float32 in [0, 255], tokens (B, h, w) int64, foreground (B, side, side) float32.
    """
    keys, grid = list(bank), side // TOKEN
    canvases = np.empty((number, side, side, 3), np.float32)
    drawn = np.empty((number, grid, grid), np.int64)
    foreground = np.empty((number, side, side), np.float32)
    for place, (canvas, cells, front) in enumerate(zip(canvases, drawn, foreground, strict=True)):
        ground = list(GROUNDS)[random.integers(len(GROUNDS))]
        canvas[:], cells[:] = GROUNDS[ground], GROUND_TOKENS[ground]
        taken = np.zeros((grid, grid), bool)
        for _ in range(int(random.integers(1, 5)) if place % 2 else FULL):
            key = keys[random.integers(len(keys))]
            icon = bank[key]
            size = len(icon)
            top, left = (int(random.integers(0, grid - size + 1)) for _ in range(2))
            if not taken[top : top + size, left : left + size].any():
                taken[top : top + size, left : left + size] = True
                paste(cells[top : top + size, left : left + size], icon)
                compose(canvas, library[key], top * TOKEN, left * TOKEN)
        front[:] = np.abs(canvas - np.array(GROUNDS[ground], np.float32)).max(-1) > 6
    return canvases, drawn, foreground


class Optimiser:
    """Muon for the convolutions, seen as matrices, AdamW for all else."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        self.rate = rate
        self.convolutions = [p for p in parameters if p.ndim == 4 and min(p.shape[:2]) >= 16]
        self.matrices = [nn.Parameter(p.detach().view(len(p), -1)) for p in self.convolutions]  # the same storage
        chosen = {id(p) for p in self.convolutions}
        others = [p for p in parameters if id(p) not in chosen]
        self.muon = torch.optim.Muon(self.matrices, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=1e-4)

    def step(self, factor: float) -> None:
        """One step at ``factor`` times the learning rate."""
        for matrix, convolution in zip(self.matrices, self.convolutions, strict=True):
            matrix.grad = None if convolution.grad is None else convolution.grad.view(matrix.shape)
        for optimiser in (self.muon, self.adamw):
            for group in optimiser.param_groups:
                group["lr"] = self.rate * factor
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Both states."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


def train(settings: Settings, library: Library, shapes: torch.Tensor, bank: Bank, folder: Path) -> Autoencoder:
    """Train decoder and code vectors, then the encoder, on whole scenes, from the last checkpoints."""
    torch.manual_seed(settings["vq"]["seed"])
    network = Autoencoder(vq_config(settings)).train()
    network.model.quantize.embedding.weight.data.copy_(code_vectors(shapes, settings["vq"]["embed_dim"]))
    load_shipped(network, Path(settings["export"]["folder"]))
    _teach(network, "decoder", settings["vq"], library, bank, folder / "vq.pt")
    _teach(network, "encoder", settings["vq"], library, bank, folder / "vq_encoder.pt")
    return network.eval()


def _teach(
    network: Autoencoder, half: str, own: dict[str, Any], library: Library, bank: Bank, checkpoint_file: Path
) -> None:
    """Train one half, ``encoder`` or ``decoder`` with the code vectors, from its checkpoint; the other one stays."""
    encoding = half == "encoder"
    parameters = [p for n, p in network.named_parameters() if p.requires_grad and _encodes(n) == encoding]
    optimiser = Optimiser(parameters, own["learning_rate"])
    checkpoint = Checkpoint(checkpoint_file)
    step, total = checkpoint.load(network=network, optimiser=optimiser), own[f"{half}_steps"]
    random = np.random.default_rng([own["seed"], encoding, step])
    started, figures = time.time(), list[float]()
    while step < total:
        canvases, cells, foreground = random_scenes(library, bank, random, own["batch"], own["image_size"])
        pixels, target, front = to_pixels(canvases), torch.from_numpy(cells), torch.from_numpy(foreground)
        network.zero_grad()
        if encoding:
            # Plain ground is most of a picture and soon known: icons' cells teach the encoder.
            some = (F.max_pool2d(front, TOKEN) > 0) | (torch.from_numpy(random.random(cells.shape)) < 0.05)
            with torch.autocast("cpu", torch.bfloat16):
                vectors = network.encode(pixels)[some]
            logits = own["sharpness"] * vectors @ network.codes().detach().T
            loss = F.cross_entropy(logits, target[some])
            figures.append((logits.argmax(-1) == target[some]).float().mean().item())
        else:
            with torch.autocast("cpu", torch.bfloat16):
                decoded = network.decode(target)
            loss = reconstruction_loss(decoded, pixels, front)
            figures.append((decoded.detach().float().clamp(-1, 1) - pixels).square().mean().item())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step(rate(step, total, warm=50, floor=0.03))
        step += 1
        if step % 50 == 0:
            mean, seconds = sum(figures) / len(figures), (time.time() - started) / len(figures)
            log(half, step=step, seconds=seconds, **({"agrees": mean} if encoding else {"psnr": to_decibels(mean)}))
            started, figures = time.time(), []
        if step % 100 == 0 or step == total:
            checkpoint.save(step, network=network, optimiser=optimiser)


def _encodes(name: str) -> bool:
    """Whether a parameter is the encoder's."""
    return name.startswith(("model.encoder.", "model.quant_conv."))


def to_decibels(error: float) -> float:
    """Of a mean squared error of pixels in [-1, 1]."""
    return 10 * math.log10(4 / error)


def load_shipped(network: Autoencoder, folder: Path) -> None:
    """Fill it from the shipped weights, where there are any of its shapes."""
    if start_from_shipped(network.model, folder, SHIPPED):
        scale_residuals(network.model, 1 / SHIPPED_SCALE)


def load(settings: Settings, folder: Path) -> tuple[Autoencoder, int]:
    """The VQ model of the last checkpoints with its decoder's step, or the shipped one with 0."""
    network = Autoencoder(vq_config(settings))
    step = Checkpoint(folder / "vq.pt").load(network=network)
    if step == 0:
        load_shipped(network, Path(settings["export"]["folder"]))
    Checkpoint(folder / "vq_encoder.pt").load(network=network)
    return network.eval(), step
