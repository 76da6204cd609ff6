"""BLIP for questions in plain PyTorch, with the key names of Salesforce's checkpoint, independent of transformers.

Written for tests from the papers (arXiv 2201.12086, BERT, ViT): the converter and the scorer are compared with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def module(**parts: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(parts)


def attend(query, key, value, heads: int, mask=None):
    """Attend from (B, T, d) to (B, S, d); the mask (B, S) is 1 for positions that count."""
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    query, key, value = split(query), split(key), split(value)
    weights = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        weights = weights.masked_fill(mask[:, None, None] == 0, -torch.inf)
    return (weights.softmax(-1) @ value).transpose(1, 2).flatten(2)


class PlainBlip(nn.Module):
    """The whole model; the base size has width 768, 12 layers and heads, 480 pixels, 30,524 words."""

    def __init__(self, *, width: int, layers: int, heads: int, side: int, patch: int, words: int, places: int) -> None:
        super().__init__()
        self.heads = heads
        hidden = 4 * width
        patches = (side // patch) ** 2
        vision = nn.Module()
        vision.cls_token = nn.Parameter(torch.randn(1, 1, width))
        vision.pos_embed = nn.Parameter(torch.randn(1, patches + 1, width))
        vision.patch_embed = module(proj=nn.Conv2d(3, width, patch, patch))
        vision.blocks = nn.ModuleList(
            module(
                norm1=nn.LayerNorm(width, eps=1e-6),
                attn=module(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
                norm2=nn.LayerNorm(width, eps=1e-6),
                mlp=module(fc1=nn.Linear(width, hidden), fc2=nn.Linear(hidden, width)),
            )
            for _ in range(layers)
        )
        vision.norm = nn.LayerNorm(width, eps=1e-6)
        self.visual_encoder = vision
        self.text_encoder = self._bert(width, layers, words, places)
        decoder = nn.Module()
        decoder.bert = self._bert(width, layers, words, places)
        head = nn.Module()
        head.bias = nn.Parameter(torch.randn(words))
        head.transform = module(dense=nn.Linear(width, width), LayerNorm=nn.LayerNorm(width, eps=1e-12))
        head.decoder = nn.Linear(width, words)
        head.decoder.bias = head.bias
        decoder.cls = module(predictions=head)
        self.text_decoder = decoder

    def _bert(self, width: int, layers: int, words: int, places: int) -> nn.Module:
        def attention() -> nn.ModuleDict:
            looks = nn.ModuleDict()
            looks.add_module("self", module(**{name: nn.Linear(width, width) for name in ("query", "key", "value")}))
            looks.add_module("output", module(dense=nn.Linear(width, width), LayerNorm=nn.LayerNorm(width, eps=1e-12)))
            return looks

        bert = nn.Module()
        bert.embeddings = module(
            word_embeddings=nn.Embedding(words, width),
            position_embeddings=nn.Embedding(places, width),
            LayerNorm=nn.LayerNorm(width, eps=1e-12),
        )
        bert.embeddings.register_buffer("position_ids", torch.arange(places)[None])
        bert.encoder = module(
            layer=nn.ModuleList(
                module(
                    attention=attention(),
                    crossattention=attention(),
                    intermediate=module(dense=nn.Linear(width, 4 * width)),
                    output=module(dense=nn.Linear(4 * width, width), LayerNorm=nn.LayerNorm(width, eps=1e-12)),
                )
                for _ in range(layers)
            )
        )
        return bert

    def look(self, pixels):
        """(B, 3, side, side) -> (B, P, d)."""
        vision = self.visual_encoder
        states = vision.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        states = torch.cat([vision.cls_token.expand(len(pixels), -1, -1), states], 1) + vision.pos_embed
        for block in vision.blocks:
            parts = block["attn"]["qkv"](block["norm1"](states)).chunk(3, -1)
            states = states + block["attn"]["proj"](attend(*parts, self.heads))
            inner = F.gelu(block["mlp"]["fc1"](block["norm2"](states)))
            states = states + block["mlp"]["fc2"](inner)
        return vision.norm(states)

    def read(self, bert, ids, mask, others, others_mask=None):
        """Map ids and mask (B, T) and image states (B, S, d) to (B, T, d)."""
        embeddings = bert.embeddings
        states = embeddings["word_embeddings"](ids) + embeddings["position_embeddings"].weight[: ids.shape[1]]
        states = embeddings["LayerNorm"](states)
        for layer in bert.encoder["layer"]:
            states = self._attention(layer["attention"], states, states, mask)
            states = self._attention(layer["crossattention"], states, others, others_mask)
            inner = F.gelu(layer["intermediate"]["dense"](states))
            states = layer["output"]["LayerNorm"](layer["output"]["dense"](inner) + states)
        return states

    def _attention(self, looks, states, others, mask):
        inner = looks["self"]
        seen = attend(inner["query"](states), inner["key"](others), inner["value"](others), self.heads, mask)
        return looks["output"]["LayerNorm"](looks["output"]["dense"](seen) + states)

    def answer(self, pixels, ids, mask, start: int, yes: int, no: int):
        """Return p(yes) / (p(yes) + p(no)) of a padded batch of questions, as in T2I-CompBench; (B,)."""
        states = self.read(self.text_encoder, ids, mask, self.look(pixels))
        first = torch.full((len(ids), 1), start)
        seen = self.read(self.text_decoder.bert, first, torch.ones_like(first), states, mask)[:, 0]
        head = self.text_decoder.cls["predictions"]
        logits = head.decoder(head.transform["LayerNorm"](F.gelu(head.transform["dense"](seen))))
        chances = logits.softmax(-1)
        return chances[:, yes] / (chances[:, yes] + chances[:, no])
