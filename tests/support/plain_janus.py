"""Janus in plain PyTorch with the key names of DeepSeek's checkpoints, independent of transformers.

Written from the papers (arXiv 2410.13848 and 2501.17811; Llama, SigLIP's ViT, LlamaGen's VQ model), for tests alone:
the models that milr loads are compared with it. Shapes: B rows, T tokens, P patches, d width, h and w of a feature map.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


def module(**parts: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(parts)


def attend(query, key, value, heads: int, causal: bool = False):
    """(B, T, d) -> (B, T, d)."""
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    query, key, value = split(query), split(key), split(value)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if causal:
        after = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(after, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


class Scale(nn.Module):
    """Root mean square norm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.eps = eps

    def forward(self, x):
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()


class PlainLlama(nn.Module):
    """`language_model`: pre-norm, rotary positions in two halves, gated feed-forward with SiLU."""

    def __init__(self, sizes: SimpleNamespace) -> None:
        super().__init__()
        self.sizes = sizes
        d, inner = sizes.width, sizes.inner
        line = lambda a, b: nn.Linear(a, b, bias=False)  # noqa: E731
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(sizes.words, d)
        self.model.layers = nn.ModuleList(
            module(
                input_layernorm=Scale(d, 1e-6),
                self_attn=module(q_proj=line(d, d), k_proj=line(d, d), v_proj=line(d, d), o_proj=line(d, d)),
                post_attention_layernorm=Scale(d, 1e-6),
                mlp=module(gate_proj=line(d, inner), up_proj=line(d, inner), down_proj=line(inner, d)),
            )
            for _ in range(sizes.layers)
        )
        self.model.norm = Scale(d, 1e-6)
        self.lm_head = line(d, sizes.words)

    def rotate(self, x):
        """Rotate pairs (i, i + w / 2) of each head by position / 10000^(2 i / w); (B, T, d)."""
        head = x.unflatten(-1, (self.sizes.heads, -1))  # (B, T, H, w)
        half = head.shape[-1] // 2
        speeds = 10000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(x.shape[1])[:, None, None] * speeds  # (T, 1, w / 2)
        first, second = head[..., :half], head[..., half:]
        turned = [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()]
        return torch.cat(turned, -1).flatten(2)

    def read(self, states):
        """Map embeddings (B, T, d) to last hidden states (B, T, d)."""
        for layer in self.model.layers:
            attention, x = layer["self_attn"], layer["input_layernorm"](states)
            query, key = self.rotate(attention["q_proj"](x)), self.rotate(attention["k_proj"](x))
            seen = attend(query, key, attention["v_proj"](x), self.sizes.heads, causal=True)
            states = states + attention["o_proj"](seen)
            x, feed = layer["post_attention_layernorm"](states), layer["mlp"]
            states = states + feed["down_proj"](F.silu(feed["gate_proj"](x)) * feed["up_proj"](x))
        return self.model.norm(states)


class PlainTower(nn.Module):
    """`vision_model`: SigLIP's ViT with all layers, exact GELU and no class token; returns patches."""

    def __init__(self, sizes: SimpleNamespace) -> None:
        super().__init__()
        self.heads = sizes.tower_heads
        d, inner = sizes.tower_width, 4 * sizes.tower_width
        norm = lambda: nn.LayerNorm(d, eps=1e-6)  # noqa: E731
        tower = nn.Module()
        tower.pos_embed = nn.Parameter(torch.randn(1, (sizes.side // 16) ** 2, d))
        tower.patch_embed = module(proj=nn.Conv2d(3, d, 16, 16))
        tower.blocks = nn.ModuleList(
            module(
                norm1=norm(),
                attn=module(qkv=nn.Linear(d, 3 * d), proj=nn.Linear(d, d)),
                norm2=norm(),
                mlp=module(fc1=nn.Linear(d, inner), fc2=nn.Linear(inner, d)),
            )
            for _ in range(sizes.tower_layers)
        )
        tower.norm = norm()
        # SigLIP's pooling is in the files but unused.
        tower.attn_pool = module(q=nn.Linear(d, d), kv=nn.Linear(d, 2 * d), proj=nn.Linear(d, d), norm=norm())
        tower.attn_pool.register_parameter("latent", nn.Parameter(torch.randn(1, 1, d)))
        self.vision_tower = tower

    def forward(self, pixels):
        """(B, 3, side, side) -> (B, P, d)."""
        tower = self.vision_tower
        states = tower.patch_embed["proj"](pixels).flatten(2).transpose(1, 2) + tower.pos_embed
        for block in tower.blocks:
            parts = block["attn"]["qkv"](block["norm1"](states)).chunk(3, -1)
            states = states + block["attn"]["proj"](attend(*parts, self.heads))
            states = states + block["mlp"]["fc2"](F.gelu(block["mlp"]["fc1"](block["norm2"](states))))
        return tower.norm(states)


class PlainAligner(nn.Module):
    """Linear layers with GELU between them."""

    def __init__(self, given: int, width: int, depth: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Linear(given, width)]
        for _ in range(1, depth):
            parts += [nn.GELU(), nn.Linear(width, width)]
        self.layers = nn.Sequential(*parts)

    def forward(self, x):
        return self.layers(x)


class Residual(nn.Module):
    """(B, c, h, w) -> (B, c', h, w)."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, given, 1e-6), nn.Conv2d(given, made, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(32, made, 1e-6), nn.Conv2d(made, made, 3, padding=1)
        if given != made:
            self.nin_shortcut = nn.Conv2d(given, made, 1)

    def forward(self, x):
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class FeatureMapAttention(nn.Module):
    """Attention over all positions of a feature map, one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        y = self.norm(x)
        query, key, value = (part(y).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        seen = attend(query, key, value, 1).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.proj_out(seen)


class PlainImageTokenizer(nn.Module):
    """`gen_vision_model`: LlamaGen's VQ model, with codes on the unit sphere."""

    def __init__(self, sizes: SimpleNamespace) -> None:
        super().__init__()
        self.steps, base, blocks, latent = sizes.steps, sizes.base, sizes.blocks, sizes.latent
        widths = [base * step for step in self.steps]
        last = len(widths) - 1
        encoder, decoder = nn.Module(), nn.Module()
        encoder.conv_in = nn.Conv2d(3, base, 3, padding=1)
        encoder.conv_blocks, given = nn.ModuleList(), base
        for level, width in enumerate(widths):
            block = self._level(given, width, blocks, level == last)
            if level != last:
                block.downsample = module(conv=nn.Conv2d(width, width, 3, stride=2))
            encoder.conv_blocks.append(block)
            given = width
        encoder.mid = self._middle(widths[-1])
        encoder.norm_out = nn.GroupNorm(32, widths[-1], 1e-6)
        encoder.conv_out = nn.Conv2d(widths[-1], latent, 3, padding=1)
        decoder.conv_in = nn.Conv2d(latent, widths[-1], 3, padding=1)
        decoder.mid = self._middle(widths[-1])
        decoder.conv_blocks, given = nn.ModuleList(), widths[-1]
        for level in reversed(range(len(widths))):
            block = self._level(given, widths[level], blocks + 1, level == last)
            if level:
                block.upsample = module(conv=nn.Conv2d(widths[level], widths[level], 3, padding=1))
            decoder.conv_blocks.append(block)
            given = widths[level]
        decoder.norm_out = nn.GroupNorm(32, widths[0], 1e-6)
        decoder.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.encoder, self.decoder = encoder, decoder
        self.quantize = module(embedding=nn.Embedding(sizes.codes, sizes.code_width))
        self.quantize.register_buffer("codebook_used", torch.zeros(64))
        self.quant_conv = nn.Conv2d(latent, sizes.code_width, 1)
        self.post_quant_conv = nn.Conv2d(sizes.code_width, latent, 1)

    def _middle(self, width: int) -> nn.ModuleList:
        return nn.ModuleList([Residual(width, width), FeatureMapAttention(width), Residual(width, width)])

    def _level(self, given: int, width: int, blocks: int, attends: bool) -> nn.Module:
        level = nn.Module()
        level.res = nn.ModuleList(Residual(given if i == 0 else width, width) for i in range(blocks))
        level.attn = nn.ModuleList(FeatureMapAttention(width) for _ in range(blocks if attends else 0))
        return level

    def _through(self, level, x):
        for place, block in enumerate(level.res):
            x = block(x)
            x = level.attn[place](x) if len(level.attn) else x
        return x

    def read(self, pixels):
        """Map (B, 3, side, side) in [-1, 1] to features that are compared with the codes, (B, c, h, w)."""
        x = self.encoder.conv_in(pixels)
        for level in self.encoder.conv_blocks:
            x = self._through(level, x)
            if hasattr(level, "downsample"):
                x = level.downsample["conv"](F.pad(x, (0, 1, 0, 1)))
        for part in self.encoder.mid:
            x = part(x)
        return self.quant_conv(self.encoder.conv_out(F.silu(self.encoder.norm_out(x))))

    def decode(self, tokens, side: int):
        """Map (B, P) to pixels (B, 3, side, side)."""
        codes = F.normalize(self.quantize["embedding"].weight, dim=-1)[tokens]  # (B, P, c)
        x = self.post_quant_conv(codes.transpose(1, 2).unflatten(2, (side // 16, side // 16)))
        x = self.decoder.conv_in(x)
        for part in self.decoder.mid:
            x = part(x)
        for level in self.decoder.conv_blocks:
            x = self._through(level, x)
            if hasattr(level, "upsample"):
                x = level.upsample["conv"](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.decoder.conv_out(F.silu(self.decoder.norm_out(x)))


class PlainJanus(nn.Module):
    """The whole model. Janus-Pro-1B: width 2048, inner 5632, 24 layers, 16 heads, 16,384 codes of width 8."""

    def __init__(self, sizes: SimpleNamespace) -> None:
        super().__init__()
        d = sizes.width
        self.sizes = sizes
        self.vision_model = PlainTower(sizes)
        self.aligner = PlainAligner(sizes.tower_width, d, sizes.depth)
        self.gen_vision_model = PlainImageTokenizer(sizes)
        self.gen_aligner = PlainAligner(sizes.code_width, d, sizes.depth)
        self.gen_head = module(output_mlp_projector=nn.Linear(d, d), vision_head=nn.Linear(d, sizes.codes))
        self.gen_embed = nn.Embedding(sizes.codes, sizes.code_width)
        self.language_model = PlainLlama(sizes)

    def embed_text(self, ids):
        """(B, T) -> (B, T, d)."""
        return self.language_model.model.embed_tokens(ids)

    def embed_image(self, tokens):
        """(B, T) -> (B, T, d)."""
        return self.gen_aligner(self.gen_embed(tokens))

    def encode(self, pixels):
        """(B, 3, side, side) -> (B, P, d)."""
        return self.aligner(self.vision_model(pixels))

    def image_logits(self, states):
        """(..., d) -> (..., codes)."""
        return self.gen_head["vision_head"](F.gelu(self.gen_head["output_mlp_projector"](states)))


TINY = SimpleNamespace(
    width=64, inner=112, layers=2, heads=4, words=320, tower_width=48, tower_layers=2, tower_heads=4, side=64,
    depth=2, base=32, steps=(1, 1, 1, 2, 2), blocks=1, latent=32, codes=96, code_width=8,
)  # fmt: skip
