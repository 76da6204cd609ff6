"""LlamaGen's text-to-image model: a T5 encoder reads the prompt, a decoder samples image tokens. No text, no answers.

Source: FoundationVision/LlamaGen (autoregressive/models, language/t5.py). The caption stands right before the image, so
a prompt of n tokens takes the last n of the caption's positions; its padding is never attended to and is left out. The
unconditional caption has learnt features at the same positions, so it depends on n alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch

from milr.decode.buffers import find_recorder
from milr.decode.engine import Engine
from milr.decode.kv_cache import CachedPrefix
from milr.decode.llamagen import LlamaGen as Architecture
from milr.decode.side_stream import find_side
from milr.models.absent import DrawsOnly
from milr.models.base import ImagePrompt, ImageRequest
from milr.models.captions import clean_caption
from milr.models.devices import choose_dtype, find_device, refuse_int8
from milr.models.drawing import TokenDrawing, to_levels
from milr.models.heads import ImageHead
from milr.models.llamagen_folder import DEFAULTS, open_folder
from milr.models.vq_decoder import simplify_decoder

_KEPT = 8  # most unconditional captions kept, by length


class LlamaGen(DrawsOnly, TokenDrawing):
    """A frozen LlamaGen. Implements `milr.models.base.Model`."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        profile: str | None = None,
        random: bool = False,
        deterministic: bool = False,
        graphs: bool = True,
    ) -> None:
        """Load a folder that `milr convert llamagen` made.

        Args:
            folder: See `milr.models.llamagen_folder`.
            device: In torch's notation.
            dtype: "float32", "bfloat16" or "float16" for the decoder and the text encoder; None lets
                `milr.models.devices` choose. The image decoder is float32, as in the authors' code.
            profile: Must be None.
            random: Random weights of the same shape: no safetensors are needed, and the images are noise.
            deterministic: Decode in batches of fixed shape: see `milr.decode.engine.Engine`.
            graphs: On a CUDA device, record decode steps as CUDA graphs and replay them.

        Raises:
            UsageError: The folder is not such a checkpoint, or device or dtype is unknown.
        """
        opened = open_folder(folder, profile=profile, weights=not random)
        self.device = find_device(device)
        refuse_int8(dtype, "LlamaGen")
        numbers = choose_dtype(dtype, self.device)
        self.folder = folder
        self.name = f"llamagen:{folder.name}@{opened.version}"
        self.capabilities = opened.capabilities
        self.defaults = DEFAULTS
        self.text_temperature = 0.0
        self.deterministic = deterministic
        self.reads_free_prompts = True
        self.tokenizer = opened.load_tokenizer()
        self.gpt, self.vq, self.text_encoder = opened.load_parts(numbers, self.device, random=random)
        for network in (self.gpt, self.vq, self.text_encoder):
            network.eval().requires_grad_(False)  # frozen: no weight ever has a gradient
        simplify_decoder(self.vq.decoder)
        config = opened.config
        self._caption = config.caption
        architecture = Architecture(
            self.gpt,
            heads=config.heads,
            caption=config.caption,
            grid=config.grid,
            base=config.rope_base,
            epsilon=config.norm_epsilon,
        )
        self.side = find_side(self.device)
        recorder = find_recorder(self.device) if graphs else None
        self.engine = Engine(architecture, deterministic=deterministic, recorder=recorder)
        self.gpt.pack_head()
        self._unconditional: OrderedDict[int, CachedPrefix] = OrderedDict()  # length of a caption -> prefix

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """Map (n, 2, d) float32 to (n, V) float32 guided logits; differentiable."""
        return self._image_head(guidance).logits(latents.flatten(0, 1))

    def read_tokens(self, prompt: str) -> tuple[int, ...]:
        """Return the T5 tokens of a prompt, cleaned: at most as many as the caption has positions."""
        return tuple(self.tokenizer.encode(clean_caption(prompt)).ids)

    def encode(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the T5 states (n, width) of a prompt's tokens. It is encoded alone, so they depend on no other."""
        return self.text_encoder(input_ids=torch.tensor([list(ids)]).to(self.device)).last_hidden_state[0]

    def _read_image_prompts(self, requests: Sequence[ImageRequest]) -> list[ImagePrompt]:
        prompts = [self.read_tokens(_join(one)) for one in requests]
        known = {one.state.image_prompt.ids: one.state.image_prompt for one in requests if one.state.image_prompt}
        new = list(dict.fromkeys(ids for ids in prompts if ids not in known))
        conditional = self._prefill([self.encode(ids) for ids in new])
        unconditional = self._read_unconditional([len(ids) for ids in new])
        known |= zip(new, map(ImagePrompt, new, conditional, unconditional), strict=True)
        for request, ids in zip(requests, prompts, strict=True):
            request.state.image_prompt = known[ids]
        return [known[ids] for ids in prompts]

    def _read_unconditional(self, lengths: Sequence[int]) -> list[CachedPrefix]:
        """Return the unconditional caption of each length."""
        new = [length for length in dict.fromkeys(lengths) if length not in self._unconditional]
        features = self.gpt.cls_embedding.uncond_embedding
        self._unconditional |= zip(new, self._prefill([features[len(features) - n :] for n in new]), strict=True)
        found = [self._unconditional[length] for length in lengths]
        while len(self._unconditional) > _KEPT:
            self._unconditional.popitem(last=False)
        return found

    def _prefill(self, captions: Sequence[torch.Tensor]) -> list[CachedPrefix]:
        """Prefill captions of text features (n, width), each at the last n positions before the image."""
        dtype = self.gpt.norm.weight.dtype
        rows = [self.gpt.cls_embedding(features.to(dtype)) for features in captions]  # (n, d) each
        nothing = torch.zeros(self.capabilities.width, device=self.device)
        return self.engine.prefill_all(rows, [CachedPrefix((), nothing, self._caption - len(row)) for row in rows])

    def _image_head(self, guidance: torch.Tensor | float, *, rows: int = 2) -> ImageHead:
        return ImageHead(self.gpt, guidance, rows=rows)

    def _decode_pixels(self, tokens: torch.Tensor) -> torch.Tensor:
        return to_levels(self.vq.decode(tokens).permute(0, 2, 3, 1), rounded=True)  # (B, H, W, 3)


def _join(request: ImageRequest) -> str:
    """Return the prompt, and after it the text that a method brought from elsewhere."""
    text = request.reasoning.text if request.reasoning else ""
    return f"{request.state.task.prompt} {text}".strip()
