"""A Mask2Former with a Swin backbone as mmdet 2.x computes it and names it, in plain PyTorch.

Written from the papers and mmdet's configuration, without transformers, so that the converter can be compared with it.

Shapes: B images, C channels, (h, w) a map, Q queries, E width of the decoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; the defaults are GenEval's detector."""

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 18, 2)
    swin_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    embed: int = 256
    heads: int = 8
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    decoder_layers: int = 9
    decoder_hidden: int = 2048
    queries: int = 100
    classes: int = 80


class Names(nn.Module):
    """A container of modules by name, because mmdet nests some deeper than necessary."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class FeedForward(nn.Module):
    """A feed-forward block, x + W2 act(W1 x); keys layers.0.0 and layers.1."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(width, hidden), activation), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class WindowAttention(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        place = torch.arange(window)
        y, x = (grid.flatten() for grid in torch.meshgrid(place, place, indexing="ij"))
        offset_y, offset_x = y[:, None] - y[None], x[:, None] - x[None]
        index = (offset_y + window - 1) * (2 * window - 1) + offset_x + window - 1
        self.register_buffer("relative_position_index", index)

    def forward(self, x: Tensor, apart: Tensor | None) -> Tensor:
        """Attend in windows (windows, n, C); `apart` (windows of an image, n, n) is true where attention is masked."""
        count, n, width = x.shape
        q, k, v = self.qkv(x).view(count, n, 3, self.heads, -1).permute(2, 3, 0, 1, 4)  # (heads, windows, n, d)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        scores = scores + self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[:, None]
        if apart is not None:
            scores = scores - 100.0 * apart.repeat(count // len(apart), 1, 1)
        return self.proj((scores.softmax(-1) @ v).permute(1, 2, 0, 3).reshape(count, n, width))


class SwinBlock(nn.Module):
    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Names(w_msa=WindowAttention(width, heads, window))
        self.ffn = FeedForward(width, 4 * width, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape."""
        height, width = x.shape[1:3]
        size = self.window
        inner = F.pad(self.norm1(x), (0, 0, 0, -width % size, 0, -height % size))
        apart = None
        if self.shift:
            inner = inner.roll((-self.shift, -self.shift), (1, 2))
            apart = self._apart(*inner.shape[1:3])
        windows = self._split(inner)
        seen = self.attn.w_msa(windows, apart)
        inner = self._join(seen, inner.shape)
        if self.shift:
            inner = inner.roll((self.shift, self.shift), (1, 2))
        return self.ffn_after(x + inner[:, :height, :width])

    def ffn_after(self, x: Tensor) -> Tensor:
        return x + self.ffn.layers(self.norm2(x))

    def _split(self, x: Tensor) -> Tensor:
        b, height, width, c = x.shape
        size = self.window
        x = x.view(b, height // size, size, width // size, size, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, size * size, c)

    def _join(self, windows: Tensor, shape: torch.Size) -> Tensor:
        b, height, width, c = shape
        size = self.window
        x = windows.view(b, height // size, width // size, size, size, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(b, height, width, c)

    def _apart(self, height: int, width: int) -> Tensor:
        """Return which positions of a window are not neighbours in the image after the roll."""

        def strip(length: int) -> Tensor:
            place = torch.arange(length)
            return (place >= length - self.window).long() + (place >= length - self.shift).long()

        region = (3 * strip(height)[:, None] + strip(width)[None])[None, :, :, None]
        region = self._split(region)[..., 0]
        return (region[:, :, None] != region[:, None, :]).float()


class PatchMerging(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to (B, h / 2, w / 2, 2C); unfolding orders neighbours by channel first."""
        b, height, width, _ = x.shape
        unfolded = F.unfold(x.permute(0, 3, 1, 2), kernel_size=2, stride=2).transpose(1, 2)
        return self.reduction(self.norm(unfolded)).view(b, height // 2, width // 2, -1)


class Swin(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.patch_embed = Names(projection=nn.Conv2d(3, shape.width, 4, 4), norm=nn.LayerNorm(shape.width))
        self.stages = nn.ModuleList()
        for stage, (depth, heads) in enumerate(zip(shape.depths, shape.swin_heads, strict=True)):
            width = shape.width * 2**stage
            half = shape.window // 2
            blocks = [SwinBlock(width, heads, shape.window, half * (block % 2)) for block in range(depth)]
            parts: dict[str, nn.Module] = {"blocks": nn.ModuleList(blocks)}
            if stage < len(shape.depths) - 1:
                parts["downsample"] = PatchMerging(width)
            self.stages.append(Names(**parts))
            self.add_module(f"norm{stage}", nn.LayerNorm(width))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to feature maps (B, C 2^s, H / 4 / 2^s, W / 4 / 2^s)."""
        x = self.patch_embed.norm(self.patch_embed.projection(pixels).permute(0, 2, 3, 1))
        maps = []
        for stage, parts in enumerate(self.stages):
            for block in parts.blocks:
                x = block(x)
            maps.append(getattr(self, f"norm{stage}")(x).permute(0, 3, 1, 2))
            if hasattr(parts, "downsample"):
                x = parts.downsample(x)
        return maps


def sine_positions(height: int, width: int, embed: int) -> Tensor:
    """Return (E, h, w): sines and cosines of the row, then of the column, counted from 1 and scaled to 2 pi."""
    half = embed // 2
    wavelength = 10000 ** (2 * (torch.arange(half) // 2) / half)

    def waves(length: int) -> Tensor:
        place = torch.arange(1, length + 1) / (length + 1e-6) * 2 * math.pi
        angle = place[:, None] / wavelength
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)  # (length, half)

    rows, columns = waves(height), waves(width)
    return torch.cat(
        [rows[:, None].expand(height, width, half), columns[None].expand(height, width, half)], dim=-1
    ).permute(2, 0, 1)


class DeformableAttention(nn.Module):
    levels, points = 3, 4

    def __init__(self, embed: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sampling_offsets = nn.Linear(embed, heads * self.levels * self.points * 2)
        self.attention_weights = nn.Linear(embed, heads * self.levels * self.points)
        self.value_proj = nn.Linear(embed, embed)
        self.output_proj = nn.Linear(embed, embed)

    def forward(self, x: Tensor, positions: Tensor, centres: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """Attend over the positions of all levels, (B, n, E); `centres` (n, 2) in [0, 1], x first."""
        b, n, embed = x.shape
        query = x + positions
        offsets = self.sampling_offsets(query).view(b, n, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).view(b, n, self.heads, -1).softmax(-1)
        weights = weights.view(b, n, self.heads, self.levels, self.points)
        value = self.value_proj(x).view(b, n, self.heads, -1)
        gathered = torch.zeros(b, self.heads, embed // self.heads, n)
        start = 0
        for level, (height, width) in enumerate(sizes):
            grid = value[:, start : start + height * width].permute(0, 2, 3, 1)  # (B, heads, d, h w)
            grid = grid.reshape(b * self.heads, -1, height, width)
            start += height * width
            places = centres[None, :, None, None] + offsets[:, :, :, level] / torch.tensor([width, height])
            places = (2 * places - 1).permute(0, 2, 1, 3, 4).flatten(0, 1)  # (B heads, n, points, 2)
            sampled = F.grid_sample(grid, places, mode="bilinear", padding_mode="zeros", align_corners=False)
            sampled = sampled.view(b, self.heads, -1, n, self.points)
            gathered = gathered + (sampled * weights[:, :, :, level].permute(0, 2, 1, 3)[:, :, None]).sum(-1)
        return x + self.output_proj(gathered.permute(0, 3, 1, 2).reshape(b, n, embed))


class EncoderLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([DeformableAttention(shape.embed, shape.heads)])
        self.ffns = nn.ModuleList([FeedForward(shape.embed, shape.encoder_hidden, nn.ReLU())])
        self.norms = nn.ModuleList([nn.LayerNorm(shape.embed) for _ in range(2)])

    def forward(self, x: Tensor, positions: Tensor, centres: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        x = self.norms[0](self.attentions[0](x, positions, centres, sizes))
        return self.norms[1](self.ffns[0](x))


class PixelDecoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        embed = shape.embed

        def convolution(inputs: int, size: int, bias: bool) -> Names:
            conv = nn.Conv2d(inputs, embed, size, padding=size // 2, bias=bias)
            return Names(conv=conv, gn=nn.GroupNorm(32, embed))

        # starting with the coarsest map
        self.input_convs = nn.ModuleList([convolution(shape.width * 2**stage, 1, bias=True) for stage in (3, 2, 1)])
        self.encoder = Names(layers=nn.ModuleList([EncoderLayer(shape) for _ in range(shape.encoder_layers)]))
        self.level_encoding = nn.Embedding(3, embed)
        self.lateral_convs = nn.ModuleList([convolution(shape.width, 1, bias=False)])
        self.output_convs = nn.ModuleList([convolution(embed, 3, bias=False)])
        self.mask_feature = nn.Conv2d(embed, embed, 1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Map Swin's four maps to mask features (B, E, H / 4, W / 4) and three maps, the coarsest first."""
        inputs, positions, centres, sizes = [], [], [], []
        for level, convolution in enumerate(self.input_convs):
            x = convolution.gn(convolution.conv(maps[3 - level]))
            b, embed, height, width = x.shape
            sizes.append((height, width))
            inputs.append(x.flatten(2).transpose(1, 2))
            place = sine_positions(height, width, embed) + self.level_encoding.weight[level][:, None, None]
            positions.append(place.flatten(1).T)
            y, x = torch.meshgrid(
                (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
            )
            centres.append(torch.stack([x.flatten(), y.flatten()], dim=-1))
        tokens = torch.cat(inputs, dim=1)
        for layer in self.encoder.layers:
            tokens = layer(tokens, torch.cat(positions), torch.cat(centres), sizes)
        outputs = [
            part.transpose(1, 2).reshape(len(tokens), -1, height, width)
            for part, (height, width) in zip(
                tokens.split([height * width for height, width in sizes], dim=1), sizes, strict=True
            )
        ]
        lateral = self.lateral_convs[0].gn(self.lateral_convs[0].conv(maps[0]))
        fine = lateral + F.interpolate(outputs[-1], lateral.shape[-2:], mode="bilinear", align_corners=False)
        fine = F.relu(self.output_convs[0].gn(self.output_convs[0].conv(fine)))
        return self.mask_feature(fine), outputs


class DecoderLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            [Names(attn=nn.MultiheadAttention(shape.embed, shape.heads, batch_first=True)) for _ in range(2)]
        )
        self.ffns = nn.ModuleList([FeedForward(shape.embed, shape.decoder_hidden, nn.ReLU())])
        self.norms = nn.ModuleList([nn.LayerNorm(shape.embed) for _ in range(3)])

    def forward(self, x: Tensor, places: Tensor, memory: Tensor, memory_places: Tensor, hidden: Tensor) -> Tensor:
        """A layer of cross-attention, self-attention and feed-forward, each with a norm after it."""
        cross, own = (attention.attn for attention in self.attentions)
        x = self.norms[0](x + cross(x + places, memory + memory_places, memory, attn_mask=hidden)[0])
        x = self.norms[1](x + own(x + places, x + places, x)[0])
        return self.norms[2](self.ffns[0](x))


class Head(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.pixel_decoder = PixelDecoder(shape)
        self.transformer_decoder = Names(
            layers=nn.ModuleList([DecoderLayer(shape) for _ in range(shape.decoder_layers)]),
            post_norm=nn.LayerNorm(shape.embed),
        )
        self.query_embed = nn.Embedding(shape.queries, shape.embed)
        self.query_feat = nn.Embedding(shape.queries, shape.embed)
        self.level_embed = nn.Embedding(3, shape.embed)
        self.cls_embed = nn.Linear(shape.embed, shape.classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(shape.embed, shape.embed),
            nn.ReLU(),
            nn.Linear(shape.embed, shape.embed),
            nn.ReLU(),
            nn.Linear(shape.embed, shape.embed),
        )

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        features, levels = self.pixel_decoder(maps)
        b = len(features)
        memories = [level.flatten(2).transpose(1, 2) + self.level_embed.weight[i] for i, level in enumerate(levels)]
        places = [sine_positions(*level.shape[-2:], level.shape[1]).flatten(1).T for level in levels]
        x = self.query_feat.weight.expand(b, -1, -1)
        classes, masks = self._read(x, features)
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % 3
            hidden = F.interpolate(masks, levels[level].shape[-2:], mode="bilinear", align_corners=False)
            hidden = hidden.flatten(2).sigmoid() < 0.5  # (B, Q, h w)
            hidden = hidden & ~hidden.all(-1, keepdim=True)  # a query whose mask is empty attends to everything
            hidden = hidden.repeat_interleave(self.heads, dim=0)
            x = layer(x, self.query_embed.weight, memories[level], places[level], hidden)
            classes, masks = self._read(x, features)
        return classes, masks

    def _read(self, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        x = self.transformer_decoder.post_norm(x)
        return self.cls_embed(x), torch.einsum("bqe,behw->bqhw", self.mask_embed(x), features)


class MmdetMask2Former(nn.Module):
    """Map pixels to class logits (B, Q, 81) and mask logits (B, Q, H / 4, W / 4)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.backbone = Swin(shape)
        self.panoptic_head = Head(shape)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.panoptic_head(self.backbone(pixels))

    def randomise(self, seed: int) -> None:
        """Make all parameters random, norms and biases too, so that a missing key changes the result."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                noise = torch.randn(weight.shape, generator=generator)
                if weight.ndim > 1:
                    embedding = "query_" in name or "level_" in name
                    weight.copy_(noise * (1.0 if embedding else 1.2 * weight[0].numel() ** -0.5))
                else:
                    weight.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
