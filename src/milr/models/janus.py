"""Janus-Pro, and every checkpoint in its format: the embedded model is one.

transformers' modules hold the weights; `milr.decode` drives their forward passes. Source of the architecture and the
format: `transformers.models.janus` (JanusForConditionalGeneration, JanusProcessor).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from milr.decode import attention
from milr.decode.engine import Lockstep
from milr.decode.partial import fill_rest
from milr.decode.streams import sample
from milr.decode.tensors import to_integers, to_numbers
from milr.models.base import DrawRequest, Sketch, Thought
from milr.models.checkpoint import open_checkpoint
from milr.models.devices import choose_dtype, find_device
from milr.models.profiles import Prompts
from milr.types import Drawing, Reasoning, Task

_PICTURES_AT_ONCE = 16  # the VQ decoder needs far more memory a picture than the tokens do


class Janus:
    """A frozen Janus checkpoint. Implements `milr.models.base.Model`."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        profile: str | None = None,
        random: bool = False,
    ) -> None:
        """Load a folder in transformers' layout or in DeepSeek's own.

        Args:
            folder: Holds config.json, tokenizer.json, preprocessor_config.json and *.safetensors.
            device: As torch names it.
            dtype: "float32", "bfloat16" or "float16" for the weights; None is `milr.models.devices`' choice. Latents,
                guidance and softmax are float32 whatever it is.
            profile: One of `milr.models.profiles.PROFILES`; None takes the checkpoint's own.
            random: Random weights of the same shape: no safetensors are needed, and the drawings are noise.

        Raises:
            UsageError: The folder is no Janus checkpoint in safetensors, or device, dtype or profile is unknown.
        """
        checkpoint = open_checkpoint(folder, profile=profile, weights=not random)
        self.device = find_device(device)
        numbers = choose_dtype(dtype, self.device)
        self.folder = folder
        self.name = f"janus:{folder.name}"
        self.profile = checkpoint.profile
        self.capabilities = checkpoint.capabilities
        self.search_defaults: Mapping[str, object] = checkpoint.settings.search
        self.reads_free_prompts = checkpoint.settings.grammar == "free"
        self.tokenizer: Any = checkpoint.load_tokenizer()
        self.image_processor: Any = checkpoint.load_image_processor()
        self.network: Any = checkpoint.make_network(numbers) if random else checkpoint.load_network(numbers)
        # Frozen: no gradient is ever kept for a weight.
        self.network.to(self.device).eval().requires_grad_(False)
        attention.install(self._decoder)
        self.prompts = Prompts(self.profile, self.tokenizer)
        self.layers: int = self.network.config.text_config.num_hidden_layers

    @torch.inference_mode()
    def reason(
        self,
        tasks: Sequence[Task],
        prefixes: Sequence[Sequence[int]],
        *,
        streams: Sequence[torch.Generator] | None = None,
        temperature: float = 1.0,
        critiques: Sequence[str] | None = None,
    ) -> list[Thought]:
        """Write each task's reasoning behind its prefix of token ids, greedily or sampled; see the protocol."""
        if not tasks:
            return []
        end: int = self.tokenizer.eos_token_id
        written = [_until(list(prefix), end) for prefix in prefixes]
        prompts = [
            self.prompts.reasoning(task.prompt, critique)
            for task, critique in zip(tasks, critiques or [""] * len(tasks), strict=True)
        ]
        rows = [self._embed_text([*prompt, *tokens]) for prompt, tokens in zip(prompts, written, strict=True)]
        limit = self.profile.max_reasoning_tokens
        engine = Lockstep(self._decoder, self.layers, max(map(len, rows)) + limit)
        states = engine.prefill(rows)  # (B, T, d)
        hidden = [[*state[-1 - len(tokens) :].float()] for state, tokens in zip(states, written, strict=True)]
        done = [len(tokens) >= limit or tokens[-1:] == [end] for tokens in written]
        while True:
            newest = torch.stack([states_[-1] for states_ in hidden])  # (B, d)
            logits = self.text_logits(newest)
            following = to_integers(
                logits.argmax(-1) if streams is None else sample(logits, list(streams), temperature)
            )
            for index, token in enumerate(following):
                if not done[index]:
                    written[index].append(token)
                    done[index] = token == end or len(written[index]) >= limit
            if all(done):
                break
            # Finished rows are fed on so that the batch stays in step; what comes of it is not kept.
            state = engine.step(self._embed_text(following)).float()
            for index, row in enumerate(state):
                if not done[index]:
                    hidden[index].append(row)
        return [
            Thought(self._reasoning(_without(tokens, end)), tuple(tokens), torch.stack(states_[: len(tokens)]))
            for tokens, states_ in zip(written, hidden, strict=True)
        ]

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """What each token of a reasoning spells; a character of several tokens is a mark of replacement in each."""
        return [self.tokenizer.decode([token], skip_special_tokens=True) for token in tokens]

    @torch.inference_mode()
    def draw(self, requests: Sequence[DrawRequest], *, guidance: float, temperature: float, keep: int) -> list[Sketch]:
        """Draw each request: image tokens sampled under guidance, then decoded to a picture.

        Place i of a drawing uses the i-th numbers of its stream, whether its logits come from latents or from the
        decoder: equal logits and an equal stream give equal tokens. Given tokens before the first that is not take no
        numbers.
        """
        if not requests:
            return []
        totals = [request.until or self.capabilities.image_tokens for request in requests]
        drawn = [self._begin(request, total, temperature) for request, total in zip(requests, totals, strict=True)]
        prompts = [self.prompts.drawing(request.task.prompt, request.reasoning) for request in requests]
        blank = self.prompts.blank
        unconditional = [[prompt[0], *[blank] * (len(prompt) - 2), prompt[-1]] for prompt in prompts]
        prefixes = [self._embed_image(torch.tensor(tokens, dtype=torch.long)) for tokens in drawn]
        rows = [
            torch.cat([self._embed_text(ids), prefix])
            for half in (prompts, unconditional)
            for ids, prefix in zip(half, prefixes, strict=True)
        ]  # 2B rows: the conditional ones, then the unconditional ones
        longest = max(total - len(tokens) for total, tokens in zip(totals, drawn, strict=True))
        engine = Lockstep(self._decoder, self.layers, max(map(len, rows)) + longest)
        states = engine.prefill(rows)[:, -1].float()  # (2B, d)
        kept: list[torch.Tensor] = []
        streams = [request.stream for request in requests]
        while True:
            pairs = torch.stack(states.chunk(2), dim=1)  # (B, 2, d)
            if len(kept) < keep:
                kept.append(pairs)
            sampled = sample(self.image_logits(pairs, guidance), streams, temperature)  # (B,)
            newest = [
                token if given is None else given
                for token, given in zip(to_integers(sampled), map(_given, requests, map(len, drawn)), strict=True)
            ]
            for row, token, total in zip(drawn, newest, totals, strict=True):
                if len(row) < total:  # a row that began with a longer prefix is done a little earlier
                    row.append(token)
            if all(len(row) >= total for row, total in zip(drawn, totals, strict=True)):
                break
            tokens = torch.tensor(newest)
            states = engine.step(self._embed_image(tokens.repeat(2))).float()
        hidden = torch.stack(kept, dim=1) if kept else pairs[:, None, :, :][:, :0]  # (B, keep, 2, d)
        pictures = self._decode_pictures(
            torch.tensor([fill_rest(row, self.capabilities.image_tokens) for row in drawn])
        )
        return [
            Sketch(Drawing(tuple(row), picture), None if request.prefix is not None or request.tokens else states_)
            for row, picture, states_, request in zip(drawn, pictures, hidden, requests, strict=True)
        ]

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """(n, d) float32 -> (n, V) float32, differentiable."""
        return self.network.lm_head(latents.to(self.network.dtype)).float()

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """(n, 2, d) float32 -> (n, V) float32, guided: u + w (c - u); differentiable."""
        conditional, unconditional = (
            self.network.model.generation_head(latents.to(self.network.dtype)).float().unbind(1)
        )
        return unconditional + guidance * (conditional - unconditional)

    @torch.inference_mode()
    def answer(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """p(yes) / (p(yes) + p(no)) of a yes/no question about each picture."""
        if not pictures:
            return []
        yes, no = (self.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" yes", " no"))
        rows = self._look(pictures, questions, self.prompts.question)
        states = Lockstep(self._decoder, self.layers, max(map(len, rows))).prefill(rows)[:, -1].float()
        probabilities = torch.softmax(self.text_logits(states)[:, [yes, no]], dim=-1)
        return to_numbers(probabilities[:, 0])

    @torch.inference_mode()
    def reply(self, pictures: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """A free answer about each picture, written greedily, of at most that many tokens."""
        if not pictures:
            return []
        end: int = self.tokenizer.eos_token_id
        rows = self._look(pictures, questions, self.prompts.open_question)
        engine = Lockstep(self._decoder, self.layers, max(map(len, rows)) + limit)
        newest = engine.prefill(rows)[:, -1].float()  # (B, d)
        written: list[list[int]] = [[] for _ in rows]
        for _ in range(limit):
            following = to_integers(self.text_logits(newest).argmax(-1))
            for tokens, token in zip(written, following, strict=True):
                if tokens[-1:] != [end]:
                    tokens.append(token)
            if all(tokens[-1:] == [end] for tokens in written):
                break
            newest = engine.step(self._embed_text(following)).float()
        return [self._reasoning(_without(tokens, end)).text for tokens in written]

    def _look(
        self, pictures: Sequence[Image.Image], questions: Sequence[str], ask: Callable[[str, int], list[int]]
    ) -> list[torch.Tensor]:
        """Questions as rows of embeddings (T, d), each picture's features in its places."""
        inner, placeholder = self.network.model, self.tokenizer.image_token_id
        pixels = self.image_processor([p.convert("RGB") for p in pictures], return_tensors="pt")["pixel_values"]
        seen = inner.aligner(inner.vision_model(pixels.to(self.device, self.network.dtype)).last_hidden_state)
        rows: list[torch.Tensor] = []
        for question, features in zip(questions, seen, strict=True):
            ids = ask(question, len(features))
            holes = torch.tensor([i == placeholder for i in ids], device=self.device)
            rows.append(self._embed_text(ids).masked_scatter(holes[:, None], features))
        return rows

    @property
    def _decoder(self) -> Any:
        return self.network.model.language_model

    def _embed_text(self, ids: Sequence[int]) -> torch.Tensor:
        """Token ids -> (T, d)."""
        return self.network.get_input_embeddings()(torch.tensor(ids, device=self.device, dtype=torch.long))

    def _embed_image(self, tokens: torch.Tensor) -> torch.Tensor:
        """Image tokens (T,) -> (T, d)."""
        return self.network.prepare_embeddings_for_image_generation(tokens.to(self.device))

    def _begin(self, request: DrawRequest, total: int, temperature: float) -> list[int]:
        """The tokens that need no decoder: given ones, and behind latents those that their logits give."""
        tokens: list[int] = []
        logits = () if request.prefix is None else tuple(request.prefix)  # n of (V,)
        while len(tokens) < total:
            given = _given(request, len(tokens))
            if given is None and len(tokens) >= len(logits):
                break
            if given is None:
                given = int(sample(logits[len(tokens)][None], [request.stream], temperature))
            tokens.append(given)
        return tokens

    def _decode_pictures(self, tokens: torch.Tensor) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for part in torch.split(tokens.to(self.device), _PICTURES_AT_ONCE):
            pixels = self.network.decode_image_tokens(part).float().clamp(-1, 1)  # (b, H, W, 3)
            levels = ((pixels + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
            pictures += [Image.fromarray(picture) for picture in levels]
        return pictures

    def _reasoning(self, tokens: list[int]) -> Reasoning:
        return Reasoning(self.tokenizer.decode(tokens, skip_special_tokens=True).strip(), tuple(tokens))


def _given(request: DrawRequest, place: int) -> int | None:
    """The token that a request gives for a place."""
    return request.tokens[place] if place < len(request.tokens) else None


def _until(tokens: list[int], end: int) -> list[int]:
    """Tokens up to the first end-of-sequence, which is kept."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def _without(tokens: list[int], end: int) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] == end else tokens
