"""Janus-Pro, and every checkpoint in its format; the embedded model is one.

transformers' modules hold the weights; `milr.decode` runs their forward passes. Source of the architecture and the
format: `transformers.models.janus` (JanusForConditionalGeneration, JanusProcessor).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from milr.decode.buffers import find_recorder
from milr.decode.engine import Engine
from milr.decode.int8 import quantise, require_torchao
from milr.decode.kv_cache import CachedPrefix
from milr.decode.llama import Llama
from milr.decode.loop import DecodeLoop, LoopRequest
from milr.decode.packed_linear import pack
from milr.decode.side_stream import find_side
from milr.decode.tensors import split_rows, to_numbers
from milr.models.base import ImagePrompt, ImageRequest, TaskState, TextOutput, TextPrompt, TextRequest
from milr.models.checkpoint import open_checkpoint
from milr.models.devices import choose_dtype, find_device
from milr.models.drawing import TokenDrawing, to_levels
from milr.models.heads import ImageHead, JanusImageParts, TextHead
from milr.models.prompts import Prompts
from milr.models.vq_decoder import simplify_decoder
from milr.models.vqa import VisualQA
from milr.types import Reasoning

_UNCONDITIONAL_STEP = 64  # tokens by which the shared beginning of the unconditional prompts grows


class Janus(TokenDrawing):
    """A frozen Janus checkpoint. Implements `milr.models.base.Model`."""

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
        """Load a folder in transformers' layout or in DeepSeek's own.

        Args:
            folder: Holds config.json, tokenizer.json, preprocessor_config.json and *.safetensors.
            device: In torch's notation.
            dtype: "float32", "bfloat16" or "float16" for the weights, or "int8" for those of the language model's
                linear layers (needs torchao); None lets `milr.models.devices` choose. Latents, guidance and softmax are
                always float32.
            profile: One of `milr.models.prompts.PROFILES`; None takes the checkpoint's own.
            random: Random weights of the same shape: no safetensors are needed, and the images are noise.
            deterministic: Decode in batches of fixed shape: see `milr.decode.engine.Engine`.
            graphs: On a CUDA device, record decode steps as CUDA graphs and replay them.

        Raises:
            UsageError: The folder is not a Janus checkpoint in safetensors, or device, dtype or profile is unknown.
        """
        checkpoint = open_checkpoint(folder, profile=profile, weights=not random)
        self.device = find_device(device)
        numbers = choose_dtype(dtype, self.device)
        if dtype == "int8":
            require_torchao()  # before weights are read
        self.folder = folder
        self.name = f"janus:{folder.name}@{checkpoint.version}"
        self.profile = checkpoint.profile
        self.capabilities = checkpoint.capabilities
        self.defaults = checkpoint.settings.search
        self.text_temperature = self.profile.text_temperature
        self.deterministic = deterministic
        self.reads_free_prompts = checkpoint.settings.grammar == "free"
        self.tokenizer: Any = checkpoint.load_tokenizer()
        make = checkpoint.make_network if random else checkpoint.load_network
        self.network: Any = make(numbers, self.device)
        self.network.eval().requires_grad_(False)  # frozen: no weight ever has a gradient
        simplify_decoder(self.network.model.vqmodel.decoder)
        decoder = Llama(self.network.model.language_model)
        if dtype == "int8":
            quantise(self.network.model.language_model)
        self.side = find_side(self.device)
        recorder = find_recorder(self.device) if graphs else None
        self.engine = Engine(decoder, deterministic=deterministic, recorder=recorder)
        pack(self.network.model.generation_head, differentiable=True)
        self.text_head = TextHead(self.network)
        self._image_parts = JanusImageParts(self.network)
        self.prompts = Prompts(self.profile, self.tokenizer)
        self.vqa = VisualQA(
            self.network,
            self.engine,
            self.prompts,
            self.tokenizer,
            checkpoint.load_image_processor(),
            self.text_head,
            self._embed_text,
            self._images_at_once,
        )
        self._unconditional: dict[int, CachedPrefix] = {}  # first token -> beginning of the unconditional prompts

    @torch.inference_mode()
    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Write each requested reasoning text after its prefix: the greedy ones together, then the sampled ones.

        A cached prompt is not prefilled again. Greedy text is deterministic, so if the state's last text begins with
        the prefix, it is returned without decoding.
        """
        found: dict[int, TextOutput] = {}
        for sampled in (False, True):
            places = [place for place, request in enumerate(requests) if (request.stream is not None) == sampled]
            found |= zip(places, self._reason([requests[place] for place in places]), strict=True)
        return [found[place] for place in range(len(requests))]

    def _reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Serve requests that are all greedy or all sampled."""
        prompts = [tuple(self.prompts.reasoning(one.state.task.prompt, one.critique)) for one in requests]
        requests = [
            replace(
                one,
                prefix=tuple(self.prompts.up_to_end(list(one.prefix))),
                offsets=one.offsets if moved else None,
            )
            for one, moved in zip(requests, _are_moved(requests), strict=True)
        ]
        found = [_find_text(request, prompt) for request, prompt in zip(requests, prompts, strict=True)]
        new = [place for place, text in enumerate(found) if text is None]
        prefixes = self._read_text_prompts([requests[place].state for place in new], [prompts[place] for place in new])
        limit = self.profile.max_reasoning_tokens
        written = self.engine.in_batches(
            [(requests[place], prefix) for place, prefix in zip(new, prefixes, strict=True)],
            self._write,
            loops=True,
            tokens=lambda item: len(item[1]) + limit,
            shape=lambda item: (len(item[1]), len(item[0].prefix)),
        )
        for place, text in zip(new, written, strict=True):
            request, state = requests[place], requests[place].state
            state.text = text if request.stream is None and request.offsets is None else None
            state.given = len(request.prefix)
            found[place] = text
        return [text for text in found if text]

    def _read_text_prompts(self, states: Sequence[TaskState], prompts: Sequence[tuple[int, ...]]) -> list[CachedPrefix]:
        """Return each prompt's cached prefix; prefill prompts that are not cached."""
        known = {state.text_prompt.ids: state.text_prompt for state in states if state.text_prompt}
        new = list(dict.fromkeys(ids for ids in prompts if ids not in known))
        prefixes = self.engine.prefill_all(self._embed_text(new))
        known |= zip(new, map(TextPrompt, new, prefixes), strict=True)
        for state, ids in zip(states, prompts, strict=True):
            state.text_prompt = known[ids]
        return [known[ids].prefix for ids in prompts]

    def _write(self, batch: Sequence[tuple[TextRequest, CachedPrefix]]) -> list[TextOutput]:
        limit = self.profile.max_reasoning_tokens
        requests = [request for request, _ in batch]
        lengths = [len(one.prefix) for one in requests]
        leads = split_rows(self._to_device([token for one in requests for token in one.prefix]), lengths)
        steps = max(1, limit - min(lengths))
        rows = self.engine.open([prefix for _, prefix in batch], max(lengths), steps)
        before = [state[None] for state in rows.newest.clone()]  # (n, d) each, which produced the leads
        if any(lengths):
            states = rows.prefill(split_rows(self.text_head.embed(torch.cat(leads)), lengths)).float()  # (B, T, d)
            before = [
                torch.cat([first, own[own.shape[0] - length : -1]])
                for first, own, length in zip(before, states, lengths, strict=True)
            ]
        loop = DecodeLoop(
            rows,
            self.text_head,
            LoopRequest(
                steps,
                leads,
                streams=[one.stream.clone_state() for one in requests if one.stream],
                temperature=self.text_temperature or 1.0,
                offsets=[None if one.offsets is None else one.offsets[:, None] for one in requests],  # (n, 1, d)
                keep=steps,
                ends=self.prompts.ends,
                ended=[
                    len(one.prefix) >= limit or bool(self.prompts.ends.intersection(one.prefix[-1:]))
                    for one in requests
                ],
            ),
        )
        loop.run()
        hidden = loop.read_hidden()  # (B, K, 1, d)
        assert hidden is not None
        written = [tuple(tokens[:limit]) for tokens in loop.read_tokens()]
        return [
            TextOutput(
                self._reasoning(self.prompts.without_end(list(tokens))),
                tokens,
                torch.cat([first[:length], rest[:, 0]])[: len(tokens)],
            )
            for tokens, first, rest, length in zip(written, before, hidden, lengths, strict=True)
        ]

    def count_tokens(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, without those that the model puts around it."""
        return len(self.tokenizer(prompt, add_special_tokens=False).input_ids)

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """Return the characters of each token; a character of several tokens is a replacement mark in each."""
        return [self.tokenizer.decode([token], skip_special_tokens=True) for token in tokens]

    def _read_image_prompts(self, requests: Sequence[ImageRequest]) -> list[ImagePrompt]:
        """Return each request's prompt with its cached prefixes; prefill prompts that are not cached.

        The unconditional prompt has the first and the last token of the prompt and padding between them. Its beginning
        is the same for all prompts, so it is prefilled once, up to the length of the longest prompt.
        """
        prompts = [tuple(self.prompts.image(one.state.task.prompt, one.reasoning)) for one in requests]
        known = {one.state.image_prompt.ids: one.state.image_prompt for one in requests if one.state.image_prompt}
        new = list(dict.fromkeys(ids for ids in prompts if ids not in known))
        if new:
            padding = self._read_padding(new[0][0], max(map(len, new)) - 1)
            prefixes = [CachedPrefix(padding.cut(len(ids) - 1), padding.last) for ids in new]
            embedded = self._embed_text(new)
            unconditional = self.engine.prefill_all([row[-1:] for row in embedded], prefixes)
            conditional = self.engine.prefill_all(embedded)
            known |= zip(new, map(ImagePrompt, new, conditional, unconditional), strict=True)
        for request, ids in zip(requests, prompts, strict=True):
            request.state.image_prompt = known[ids]
        return [known[ids] for ids in prompts]

    def _read_padding(self, first: int, length: int) -> CachedPrefix:
        """Prefill at least this many tokens of the unconditional prompt: ``first``, then padding."""
        prefix = self._unconditional.get(first)
        while prefix is None or len(prefix) < length:
            ids = [self.prompts.padding] * _UNCONDITIONAL_STEP
            rows = self._embed_text([ids if prefix else [first, *ids[1:]]])
            (prefix,) = self.engine.prefill_all(rows, [prefix] if prefix else None)
            self._unconditional[first] = prefix
        return prefix

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """Map (n, d) float32 to (n, V) float32 logits; differentiable."""
        return self.text_head.logits(latents)

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """Map (n, 2, d) float32 to (n, V) float32 guided logits; differentiable."""
        return self._image_head(guidance).logits(latents.flatten(0, 1))

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Return p(yes) / (p(yes) + p(no)) of a yes/no question about each image."""
        return self.vqa.answer(images, questions)

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Return a free answer about each image, decoded greedily, of at most that many tokens."""
        return self.vqa.reply(images, questions, limit)

    def _to_device(self, ids: Sequence[int]) -> torch.Tensor:
        """Copy token ids to the model's device: (T,) int64."""
        return torch.tensor(ids, dtype=torch.long).to(self.device)

    def _embed_text(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Embed rows of token ids, (T_i, d) each; one copy to the device for all rows."""
        if not rows:
            return []
        ids = self._to_device([token for row in rows for token in row])
        return split_rows(self.text_head.embed(ids), [len(row) for row in rows])

    def _image_head(self, guidance: torch.Tensor | float, *, rows: int = 2) -> ImageHead:
        return ImageHead(self._image_parts, guidance, rows=rows)

    def _decode_pixels(self, tokens: torch.Tensor) -> torch.Tensor:
        return to_levels(self.network.decode_image_tokens(tokens))

    def _reasoning(self, tokens: list[int]) -> Reasoning:
        return Reasoning(self.tokenizer.decode(tokens, skip_special_tokens=True).strip(), tuple(tokens))


def _are_moved(requests: Sequence[TextRequest]) -> list[bool]:
    """Return for each request whether it has offsets that are not all zero, with one read for all."""
    places = [place for place, request in enumerate(requests) if request.offsets is not None]
    sizes = [offsets.abs().sum() for request in requests if (offsets := request.offsets) is not None]
    moved = {place for place, size in zip(places, to_numbers(torch.stack(sizes)), strict=True) if size} if sizes else ()
    return [place in moved for place in range(len(requests))]


def _find_text(request: TextRequest, prompt: tuple[int, ...]) -> TextOutput | None:
    """Return the state's last text if greedy decoding after this prompt and prefix would repeat it."""
    state, prefix = request.state, request.prefix
    if request.stream is not None or request.offsets is not None or state.text is None:
        return None
    if state.text_prompt is None or state.text_prompt.ids != prompt or len(prefix) < state.given:
        return None
    return state.text if state.text.tokens[: len(prefix)] == prefix else None
