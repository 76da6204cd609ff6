"""Stage 2, the VQ model: JanusVQVAE's decoder and encoder around a codebook that is not learned (`training.codebook`).

Trained end to end, JanusVQVAE makes every token depend on every object: its GroupNorm has as many groups as channels
here, that is, it normalises over the whole image. So the codes are given, the decoder learns to paint images from
them, and the encoder learns to name each patch's code. A shape of several icons is told apart by its neighbours.
Four traps: code vectors are L2-normalised in training, because transformers' decode path normalises them; the
attention blocks are switched off in the weights (their output projection is zero), and so are some residual blocks
of the decoder (`Autoencoder`); and GroupNorm is switched off as far as weights can do it (`EPSILON`).
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

from training.codebook import code_vectors
from training.grounds import GRID, TOKEN, ground_codes, ground_pixels, sample_ground
from training.icons import NATURAL, compose
from training.optimiser import Optimisers
from training.scenes import SIZES, Bank, Library, paste
from training.stage import Checkpoint, Settings, log, rate, start_from_shipped

SHIPPED = "model.vqmodel."
"""The VQ model's place in the whole one."""
EPSILON = 1000.0
"""Training adds this to the variance in every GroupNorm, which then hardly divides by anything.

JanusVQVAE has 32 groups whatever its width. With one channel in each, GroupNorm divides every channel by how full the
image is and takes the ground's own level away, so that colours hung on what else was drawn and the grounds looked
alike. Its epsilon is 1e-6 in transformers: `scale_residuals` makes all that a GroupNorm sees so small that this
is as much beside it as 1000 is in training, and the same function comes out."""
SHIPPED_SCALE = math.sqrt(1e-6 / EPSILON)
_SPARSE = 0.08  # share of random scenes with few objects
_NATURAL = 0.3  # share of objects without a tint: their colours are the hardest


def vq_config(settings: Settings) -> JanusVQVAEConfig:
    """Return the VQ part of the embedded model's configuration."""
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


def build(settings: Settings) -> Autoencoder:
    """Return the VQ model before training."""
    return Autoencoder(vq_config(settings), settings["vq"]["decoder_blocks"])


class Autoencoder(nn.Module):
    """JanusVQVAE with unit code vectors. ``model`` has transformers' names; its scale is training's."""

    def __init__(self, config: JanusVQVAEConfig, blocks: Sequence[int] = ()) -> None:
        """Make a model that is not trained.

        Args:
            config: Its configuration.
            blocks: Residual blocks of each level of the decoder that stay on, from the smallest level to the largest;
                all stay on at levels beyond. The others have zero weights: milr leaves them out.
        """
        super().__init__()
        self.model = JanusVQVAE(config)
        for module in self.model.modules():
            if isinstance(module, nn.GroupNorm):
                module.eps = EPSILON
                nn.init.constant_(module.weight, math.sqrt(EPSILON))
            elif isinstance(module, JanusVQVAEResnetBlock):  # without a norm, residuals begin with nothing
                nn.init.kaiming_normal_(module.conv1.weight)
                nn.init.zeros_(module.conv2.weight)
                nn.init.zeros_(module.conv2.bias)
            elif isinstance(module, JanusVQVAEConvUpsample | JanusVQVAEConvDownsample):
                nn.init.dirac_(module.conv.weight)
                nn.init.zeros_(module.conv.bias)
        self._idle = [module for module in self.model.modules() if isinstance(module, JanusVQVAEAttnBlock)]
        for level, kept in zip(self.model.decoder.up, blocks, strict=False):
            self._idle += level.block[kept:]
        for module in self._idle:
            if hasattr(module, "nin_shortcut"):
                raise ValueError("a residual block that changes the number of channels cannot be switched off")
            module.requires_grad_(False)
            module.forward = lambda x: x  # what zero weights compute, at no cost
        self.switch_off()

    @torch.no_grad()
    def switch_off(self) -> None:
        """Set the weights of blocks that are switched off to zero."""
        for module in self._idle:
            last = module.proj_out if isinstance(module, JanusVQVAEAttnBlock) else module.conv2
            for parameter in last.parameters():
                parameter.zero_()

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels (B, 3, H, W) in [-1, 1] as unit vectors (B, H/16, W/16, embed_dim)."""
        hidden = self.model.quant_conv(self.model.encoder(pixels))
        return F.normalize(hidden.permute(0, 2, 3, 1).float(), dim=-1)

    def codes(self) -> torch.Tensor:
        """Return the code vectors (codebook, embed_dim), unit length."""
        return F.normalize(self.model.quantize.embedding.weight, dim=-1)

    def assign(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the code nearest to each unit vector: (..., embed_dim) -> int64 (...)."""
        with torch.autocast("cpu", enabled=False):  # bf16 would blur neighbouring codes
            return (vectors.float() @ self.codes().T).argmax(-1)

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Decode tokens (B, h, w) to pixels (B, 3, 16h, 16w) in about [-1, 1]."""
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
    """Convert pixels: (B, H, W, 3) in [0, 255] -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(canvases / 127.5 - 1.0).permute(0, 3, 1, 2).contiguous().float()


def reconstruction_loss(decoded: torch.Tensor, pixels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return absolute + squared error + edges' error; foreground, ``weight`` (B, H, W), counts more."""
    emphasis = 0.3 + weight[:, None]
    difference = decoded.float() - pixels
    plain = ((difference.abs() + 2 * difference.square()) * emphasis).mean()
    vertical = ((difference[:, :, 1:] - difference[:, :, :-1]).abs() * emphasis[:, :, 1:]).mean()
    horizontal = ((difference[..., 1:] - difference[..., :-1]).abs() * emphasis[..., 1:]).mean()
    return plain + 0.5 * (vertical + horizontal)


def random_scenes(
    library: Library, bank: Bank, random: np.random.Generator, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scenes of icons anywhere on the token grid, most of them as full as there is room.

    Plain ground is most of an image and soon known; a full scene teaches three times as many icons at the same cost.

    Args:
        library: Every icon.
        bank: Their tokens.
        random: The source of chance.
        number: Number of scenes.

    Returns:
        Pixels (B, 160, 160, 3) float32 in [0, 255], tokens (B, 10, 10) int64, foreground (B, 160, 160) float32.
    """
    keys = {(size, plain): list[tuple[str, int, str, str]]() for size in SIZES for plain in (True, False)}
    for key in bank:
        keys[key[3], key[2] == NATURAL].append(key)
    canvases = np.empty((number, GRID * TOKEN, GRID * TOKEN, 3), np.float32)
    drawn = np.empty((number, GRID, GRID), np.int64)
    foreground = np.empty((number, GRID * TOKEN, GRID * TOKEN), np.float32)
    for canvas, cells, front in zip(canvases, drawn, foreground, strict=True):
        cells[:] = ground_codes(*sample_ground(random))
        ground_only = ground_pixels(cells)
        canvas[:] = ground_only
        few = random.random() < _SPARSE
        for size, top, left in place_objects(random, int(random.integers(1, 5)) if few else GRID * GRID):
            choices = keys[size, bool(random.random() < _NATURAL)]
            key = choices[random.integers(len(choices))]
            paste(cells[top : top + SIZES[size], left : left + SIZES[size]], bank[key])
            compose(canvas, library[key], top * TOKEN, left * TOKEN)
        front[:] = np.abs(canvas - ground_only).max(-1) > 6
    return canvases, drawn, foreground


def place_objects(random: np.random.Generator, most: int) -> list[tuple[str, int, int]]:
    """Return size, top and left of objects that share no token, until there is no room.

    In every other scene each object touches the ones before it as much as it can: more find room.

    Args:
        random: The source of chance.
        most: Most objects.
    """
    taken = np.zeros((GRID, GRID), bool)
    places: list[tuple[str, int, int]] = []
    larges, packed = int(random.integers(0, 5)), random.random() < 0.5
    while len(places) < most:
        size = "large" if len(places) < larges else "small"
        side = SIZES[size]
        windows = np.lib.stride_tricks.sliding_window_view(taken, (side, side))
        free = np.argwhere(~windows.any((2, 3)))
        if not len(free):
            if size == "small":
                break
            larges = 0
            continue
        if packed:
            walls = np.pad(taken, 1, constant_values=True)
            around = np.lib.stride_tricks.sliding_window_view(walls, (side + 2, side + 2)).sum((2, 3))
            touching = around[free[:, 0], free[:, 1]]
            free = free[touching == touching.max()]
        top, left = free[random.integers(len(free))].tolist()
        taken[top : top + side, left : left + side] = True
        places.append((size, top, left))
    return places


class ConvolutionOptimiser(Optimisers):
    """Muon for the convolutions, seen as matrices, AdamW for all else."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        self.convolutions = [p for p in parameters if p.ndim == 4 and min(p.shape[:2]) >= 16]
        self.matrices = [nn.Parameter(p.detach().view(len(p), -1)) for p in self.convolutions]  # the same storage
        chosen = {id(p) for p in self.convolutions}
        others = [p for p in parameters if id(p) not in chosen]
        super().__init__(
            rate,
            muon=torch.optim.Muon(self.matrices, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            adamw=torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=1e-4),
        )

    def step(self, factor: float) -> None:
        """Take one step at ``factor`` times the learning rate."""
        for matrix, convolution in zip(self.matrices, self.convolutions, strict=True):
            matrix.grad = None if convolution.grad is None else convolution.grad.view(matrix.shape)
        super().step(factor)


def train(settings: Settings, library: Library, shapes: torch.Tensor, bank: Bank, folder: Path) -> Autoencoder:
    """Train decoder and code vectors, then the encoder, on whole scenes, from the last checkpoints."""
    torch.manual_seed(settings["vq"]["seed"])
    network = build(settings).train()
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
    optimiser = ConvolutionOptimiser(parameters, own["learning_rate"])
    checkpoint = Checkpoint(checkpoint_file)
    step, total = checkpoint.load(network=network, optimiser=optimiser), own[f"{half}_steps"]
    random = np.random.default_rng([own["seed"], encoding, step])
    started, figures = time.time(), list[float]()
    while step < total:
        canvases, cells, foreground = random_scenes(library, bank, random, own["batch"])
        pixels, target, front = to_pixels(canvases), torch.from_numpy(cells), torch.from_numpy(foreground)
        network.zero_grad()
        if encoding:
            # Plain ground is much of an image and soon known: icons' cells teach the encoder.
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
    """Return True if a parameter is the encoder's."""
    return name.startswith(("model.encoder.", "model.quant_conv."))


def to_decibels(error: float) -> float:
    """Return the PSNR of a mean squared error of pixels in [-1, 1]."""
    return 10 * math.log10(4 / error)


def load_shipped(network: Autoencoder, folder: Path) -> None:
    """Fill it from the shipped weights if there are any of its shapes."""
    if start_from_shipped(network.model, folder, SHIPPED):
        scale_residuals(network.model, 1 / SHIPPED_SCALE)
        network.switch_off()


def load(settings: Settings, folder: Path) -> tuple[Autoencoder, int]:
    """Return the VQ model of the last checkpoints with its decoder's step, or the shipped one with 0."""
    network = build(settings)
    step = Checkpoint(folder / "vq.pt").load(network=network)
    if step == 0:
        load_shipped(network, Path(settings["export"]["folder"]))
    Checkpoint(folder / "vq_encoder.pt").load(network=network)
    return network.eval(), step


def is_finished(settings: Settings, folder: Path, *, encoder: bool = True) -> bool:
    """Return True if the last checkpoints have made all steps: the decoder's and, if ``encoder``, the encoder's."""
    own = settings["vq"]
    drawn = Checkpoint(folder / "vq.pt").step() >= own["decoder_steps"]
    return drawn and (not encoder or Checkpoint(folder / "vq_encoder.pt").step() >= own["encoder_steps"])
