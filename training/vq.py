"""Stage 2, the VQ model: a codebook of picture patches, then JanusVQVAE's decoder and encoder around it.

The codebook is k-means over the 8 x 8 pixel patches of all icons, so a token says what its own patch shows and nothing
of its neighbours: an icon has the same tokens wherever it stands and whatever stands beside it, and the language model
has far less to learn. (Trained end to end, JanusVQVAE does the opposite: its GroupNorm has as many groups as channels
here, that is, it normalises over the whole picture, and every token depends on every object.) The decoder then learns
to draw smooth pictures from code vectors, and the encoder to name each patch's code. Two traps: code vectors are
L2-normalised in training, because transformers' decode path normalises them; and the attention blocks are switched
off in the weights (their output projection is zero).
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEAttnBlock

from training.icons import GROUNDS, compose
from training.stage import Checkpoint, Settings, log, start_from_shipped

Library = dict[tuple[str, int, str, str], np.ndarray]
TOKEN = 8  # pixels a token's side
CODES_FILE = Path(__file__).with_name("codes.npy")


def cut_patches(pixels: np.ndarray) -> np.ndarray:
    """(..., H, W, 3) -> (..., H/8, W/8, 192) float32 in [-1, 1]."""
    *batch, height, width, _ = pixels.shape
    grid = pixels.reshape(*batch, height // TOKEN, TOKEN, width // TOKEN, TOKEN, 3)
    return (np.moveaxis(grid, -4, -3).reshape(*batch, height // TOKEN, width // TOKEN, -1) / 127.5 - 1).astype(
        np.float32
    )


def on_ground(rgba: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    """An icon laid on a plain ground: (s, s, 3) float32 in [0, 255]."""
    canvas = np.empty((*rgba.shape[:2], 3), np.float32)
    canvas[:] = ground
    compose(canvas, rgba, 0, 0)
    return canvas


def learn_codes(settings: Settings, library: Library) -> torch.Tensor:
    """K-means centres of the icons' patches, (codebook, 192) in [-1, 1]; the first ones are the plain grounds.

    Kept in git: the shipped weights' tokens are indices into this very list.
    """
    if CODES_FILE.exists():
        return torch.from_numpy(np.load(CODES_FILE)).float()
    own = settings["vq"]
    random = torch.Generator().manual_seed(own["seed"])
    patches = np.concatenate(
        [
            cut_patches(on_ground(rgba, ground)).reshape(-1, 192)
            for ground in GROUNDS.values()
            for rgba in library.values()
        ]
    )
    patches = np.unique(patches, axis=0)
    sample = torch.from_numpy(patches)[torch.randperm(len(patches), generator=random)[: own["patches"]]]
    grounds = torch.from_numpy(np.array(list(GROUNDS.values()), np.float32) / 127.5 - 1).repeat(1, TOKEN * TOKEN)
    centres = torch.cat([grounds, sample[: own["codebook"] - len(grounds)]])
    for round_ in range(own["rounds"]):
        index = nearest(sample, centres)
        counts = torch.bincount(index, minlength=len(centres)).float()
        sums = torch.zeros_like(centres).index_add_(0, index, sample)
        fresh = sample[torch.randint(len(sample), (len(centres),), generator=random)]  # for centres without patches
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], fresh)
        centres[: len(grounds)] = grounds
        if round_ % 5 == 4:
            log("codes", round=round_ + 1, psnr=10 * math.log10(4 / (sample - centres[index]).square().mean().item()))
    np.save(CODES_FILE, centres.half().numpy())
    return centres.half().float()


def nearest(patches: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Index of the nearest centre of each patch: (N, 192), (K, 192) -> (N,) int64."""
    norms = centres.square().sum(1)
    return torch.cat([(norms - 2 * part @ centres.T).argmin(1) for part in patches.split(4096)])


def code_vectors(centres: torch.Tensor, width: int) -> torch.Tensor:
    """Where the code vectors begin: the centres' principal components, unit length, (codebook, width)."""
    centred = centres - centres.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    return F.normalize(centred @ directions[:width].T, dim=-1)


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
    """JanusVQVAE with unit code vectors. ``model`` keeps transformers' names: its state dict is the checkpoint's."""

    def __init__(self, config: JanusVQVAEConfig) -> None:
        super().__init__()
        self.model = JanusVQVAE(config)
        for module in self.model.modules():
            if isinstance(module, JanusVQVAEAttnBlock):
                nn.init.zeros_(module.proj_out.weight)
                nn.init.zeros_(module.proj_out.bias)
                module.requires_grad_(False)
                module.forward = lambda x: x  # type: ignore[method-assign]  # what zero weights compute, at no cost

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> unit vectors (B, H/8, W/8, embed_dim)."""
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
        """Tokens (B, h, w) -> pixels (B, 3, 8h, 8w) in about [-1, 1]."""
        return self.model.decoder(self.model.post_quant_conv(self.codes()[tokens].permute(0, 3, 1, 2)))


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
    library: Library,
    tokens: dict[tuple[str, int, str, str, str], np.ndarray],
    grounds: dict[str, int],
    random: np.random.Generator,
    number: int,
    side: int,
    favoured: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scenes of one to six icons anywhere on the token grid.

    Args:
        library: Every icon.
        tokens: Theirs, on every ground.
        grounds: The grounds' tokens.
        random: The source of chance.
        number: Of scenes.
        side: Of a scene, in pixels.
        favoured: Share of icons that are of the kind that the unified model draws: the first of a class, small.

    Returns:
        Pixels (B, side, side, 3) float32 in [0, 255], tokens (B, h, w) int64, foreground (B, side, side) float32.
    """
    keys, grid = list(library), side // TOKEN
    first = [key for key in keys if key[1] == 0 and key[3] == "small"]
    canvases = np.empty((number, side, side, 3), np.float32)
    drawn = np.empty((number, grid, grid), np.int64)
    foreground = np.empty((number, side, side), np.float32)
    for canvas, cells, front in zip(canvases, drawn, foreground, strict=True):
        ground = list(GROUNDS)[random.integers(len(GROUNDS))]
        canvas[:], cells[:] = GROUNDS[ground], grounds[ground]
        taken = np.zeros((grid, grid), bool)
        for _ in range(int(random.integers(1, 7))):
            among = first if random.random() < favoured else keys
            key = among[random.integers(len(among))]
            icon = tokens[*key, ground]
            size = len(icon)
            top, left = (int(random.integers(0, grid - size + 1)) for _ in range(2))
            if not taken[top : top + size, left : left + size].any():
                taken[top : top + size, left : left + size] = True
                cells[top : top + size, left : left + size] = icon
                compose(canvas, library[key], top * TOKEN, left * TOKEN)
        front[:] = np.abs(canvas - np.array(GROUNDS[ground], np.float32)).max(-1) > 6
    return canvases, drawn, foreground


def train(
    settings: Settings,
    library: Library,
    centres: torch.Tensor,
    tokens: dict[tuple[str, int, str, str, str], np.ndarray],
    grounds: dict[str, int],
    folder: Path,
) -> Autoencoder:
    """Train decoder, code vectors and encoder on whole scenes, from the last checkpoint where there is one."""
    own: dict[str, Any] = settings["vq"]
    torch.manual_seed(own["seed"])
    network = Autoencoder(vq_config(settings)).train()
    network.model.quantize.embedding.weight.data.copy_(code_vectors(centres, own["embed_dim"]))
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=own["learning_rate"], betas=(0.9, 0.98), weight_decay=1e-4)
    checkpoint = Checkpoint(folder / "vq.pt")
    step = checkpoint.load(network=network, optimiser=optimiser)
    if step == 0:
        start_from_shipped(network.model, settings, "model.vqmodel.")
    random = np.random.default_rng([own["seed"], step])
    started, errors, agreements = time.time(), list[float](), list[float]()
    while step < own["steps"]:
        canvases, cells, foreground = random_scenes(
            library, tokens, grounds, random, own["batch"], own["image_size"], own["favoured"]
        )
        pixels, target, front = to_pixels(canvases), torch.from_numpy(cells), torch.from_numpy(foreground)
        done = step / own["steps"]
        for group in optimiser.param_groups:
            group["lr"] = (
                own["learning_rate"] * min(1.0, (step + 1) / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
            )
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = network.decode(target)
            loss = reconstruction_loss(decoded, pixels, front)
        loss.backward()
        if step % own["encoder_every"] == 0:
            # Plain ground is most of a picture and soon known: icons' cells teach the encoder.
            some = (F.max_pool2d(front, TOKEN) > 0) | (torch.from_numpy(random.random(cells.shape)) < 0.05)
            with torch.autocast("cpu", torch.bfloat16):
                vectors = network.encode(pixels)[some]
            logits = own["sharpness"] * vectors @ network.codes().detach().T
            F.cross_entropy(logits, target[some]).mul(0.2).backward()
            agreements.append((logits.argmax(-1) == target[some]).float().mean().item())
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        errors.append((decoded.detach().float().clamp(-1, 1) - pixels).square().mean().item())
        if step % 50 == 0:
            log(
                "vq",
                step=step,
                psnr=10 * math.log10(4 * len(errors) / sum(errors)),
                encoder_agrees=sum(agreements) / max(1, len(agreements)),
                seconds=(time.time() - started) / len(errors),
            )
            started, errors, agreements = time.time(), [], []
        if step % 100 == 0 or step == own["steps"]:
            checkpoint.save(step, network=network, optimiser=optimiser)
    return network.eval()


def load(settings: Settings, folder: Path) -> Autoencoder:
    """The VQ model of the last checkpoint, or the shipped one."""
    network = Autoencoder(vq_config(settings))
    if Checkpoint(folder / "vq.pt").load(network=network) == 0:
        start_from_shipped(network.model, settings, "model.vqmodel.")
    return network.eval()
