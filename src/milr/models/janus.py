"""Janus-Pro, and every checkpoint in its format: the embedded model is one.

transformers' modules hold the weights; `milr.decode` runs their forward passes. Source of the architecture and the
format: `transformers.models.janus` (JanusForConditionalGeneration, JanusProcessor).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from milr.decode.batching import work_in_batches
from milr.decode.engine import Counts, Engine
from milr.decode.kv_cache import CachedPrefix
from milr.decode.packed_linear import pack
from milr.decode.partial import fill_rest
from milr.decode.sampling import sample
from milr.decode.tensors import to_integers
from milr.models.base import ImageOutput, ImagePrompt, ImageRequest, TaskState, TextOutput, TextPrompt, TextRequest
from milr.models.checkpoint import open_checkpoint
from milr.models.devices import choose_dtype, find_device
from milr.models.prompts import Prompts
from milr.models.vqa import VisualQA
from milr.settings import SamplingParams, Settings, make_settings
from milr.types import ImageSample, Reasoning, Task

_PIXELS_AT_ONCE = 512 * 512  # the VQ decoder and the vision tower need far more memory per image than tokens do
_UNCONDITIONAL_STEP = 64  # tokens by which the shared beginning of the unconditional prompts grows


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
        deterministic: bool = False,
    ) -> None:
        """Load a folder in transformers' layout or in DeepSeek's own.

        Args:
            folder: Holds config.json, tokenizer.json, preprocessor_config.json and *.safetensors.
            device: As torch names it.
            dtype: "float32", "bfloat16" or "float16" for the weights; None lets `milr.models.devices` choose. Latents,
                guidance and softmax are always float32.
            profile: One of `milr.models.prompts.PROFILES`; None takes the checkpoint's own.
            random: Random weights of the same shape: no safetensors are needed, and the images are noise.
            deterministic: Decode in batches of fixed shape: see `milr.decode.engine.Engine`.

        Raises:
            UsageError: The folder is no Janus checkpoint in safetensors, or device, dtype or profile is unknown.
        """
        checkpoint = open_checkpoint(folder, profile=profile, weights=not random)
        self.device = find_device(device)
        numbers = choose_dtype(dtype, self.device)
        self.folder = folder
        self.name = f"janus:{folder.name}@{checkpoint.version}"
        self.profile = checkpoint.profile
        self.capabilities = checkpoint.capabilities
        self.defaults: Mapping[str, object] = checkpoint.settings.search
        self.text_temperature = self.profile.text_temperature
        self.deterministic = deterministic
        self.reads_free_prompts = checkpoint.settings.grammar == "free"
        self.tokenizer: Any = checkpoint.load_tokenizer()
        self.network: Any = checkpoint.make_network(numbers) if random else checkpoint.load_network(numbers)
        # Frozen: no weight ever has a gradient.
        self.network.to(self.device).eval().requires_grad_(False)
        self.engine = Engine(self.network.model.language_model, deterministic=deterministic)
        pack(self.network.model.generation_head, differentiable=True)
        self.prompts = Prompts(self.profile, self.tokenizer)
        # If shapes are fixed, each image goes alone through the VQ decoder and the vision tower.
        many = max(1, _PIXELS_AT_ONCE // self.capabilities.image_size**2)
        self._images_at_once = 1 if deterministic else many
        self.vqa = VisualQA(
            self.network,
            self.engine,
            self.prompts,
            self.tokenizer,
            checkpoint.load_image_processor(),
            self._embed_text,
            self.text_logits,
            self._images_at_once,
        )
        self._unconditional: dict[int, CachedPrefix] = {}  # first token -> beginning of the unconditional prompts

    @property
    def counts(self) -> Counts:
        """What has been decoded since the model was loaded."""
        return self.engine.counts

    def settings(self, method: str = "milr", **changes: object) -> Settings:
        """Return a method's settings: the model's defaults with these changes."""
        return make_settings(method, changes, self.defaults)

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """Return one state per task; prompts are read when they are first needed."""
        return [TaskState(task) for task in tasks]

    @torch.inference_mode()
    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Write each requested reasoning text after its prefix: the greedy ones together, then the sampled ones.

        A prompt that its state holds already is not read again. Greedy text is deterministic, so a prefix with which
        the state's last text began yields that text again, and nothing is decoded.
        """
        found: dict[int, TextOutput] = {}
        for sampled in (False, True):
            places = [place for place, request in enumerate(requests) if (request.stream is not None) == sampled]
            found |= zip(places, self._reason([requests[place] for place in places]), strict=True)
        return [found[place] for place in range(len(requests))]

    def _reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Do the same for requests that are all greedy or all sampled."""
        prompts = [tuple(self.prompts.reasoning(one.state.task.prompt, one.critique)) for one in requests]
        requests = [
            replace(
                one,
                prefix=tuple(self.prompts.up_to_end(list(one.prefix))),
                offsets=one.offsets if one.offsets is not None and one.offsets.any() else None,
            )
            for one in requests
        ]
        found = [_find_text(request, prompt) for request, prompt in zip(requests, prompts, strict=True)]
        new = [place for place, text in enumerate(found) if text is None]
        prefixes = self._read_text_prompts([requests[place].state for place in new], [prompts[place] for place in new])
        limit = self.profile.max_reasoning_tokens
        written = self.engine.in_batches(
            [(requests[place], prefix) for place, prefix in zip(new, prefixes, strict=True)],
            self._write,
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
        """Return each prompt's cached prefix; a prompt that its state does not hold is read now."""
        known = {state.text_prompt.ids: state.text_prompt for state in states if state.text_prompt}
        new = list(dict.fromkeys(ids for ids in prompts if ids not in known))
        prefixes = self.engine.prefill_all([self._embed_text(ids) for ids in new])
        known |= zip(new, map(TextPrompt, new, prefixes), strict=True)
        for state, ids in zip(states, prompts, strict=True):
            state.text_prompt = known[ids]
        return [known[ids].prefix for ids in prompts]

    def _write(self, batch: Sequence[tuple[TextRequest, CachedPrefix]]) -> list[TextOutput]:
        limit, temperature = self.profile.max_reasoning_tokens, self.text_temperature or 1.0
        requests = [request for request, _ in batch]
        written = [list(request.prefix) for request in requests]
        streams = [request.stream.clone_state() for request in requests if request.stream]
        rows = self.engine.open([prefix for _, prefix in batch], max(map(len, written)), limit)
        hidden = [[state] for state in rows.newest]
        if any(written):
            states = rows.prefill([self._embed_text(tokens) for tokens in written]).float()  # (B, T, d)
            for row, tokens, found in zip(states, written, hidden, strict=True):
                found += row[len(row) - len(tokens) :]
        done = [len(tokens) >= limit or bool(self.prompts.ends.intersection(tokens[-1:])) for tokens in written]
        while True:
            logits = self.text_logits(_add_offsets(rows.newest, requests, list(map(len, written))))
            following = to_integers(sample(logits, streams, temperature) if streams else logits.argmax(-1))
            for index, token in enumerate(following):
                if not done[index]:
                    written[index].append(token)
                    done[index] = token in self.prompts.ends or len(written[index]) >= limit
            if all(done):
                break
            # Finished rows are decoded on, because a batch keeps its rows; the results are dropped.
            for index, row in enumerate(rows.step(self._embed_text(following))):
                if not done[index]:
                    hidden[index].append(row)
        return [
            TextOutput(
                self._reasoning(self.prompts.without_end(tokens)), tuple(tokens), torch.stack(own[: len(tokens)])
            )
            for tokens, own in zip(written, hidden, strict=True)
        ]

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """Return what each token of a reasoning spells; a character of several tokens is a replacement mark in each."""
        return [self.tokenizer.decode([token], skip_special_tokens=True) for token in tokens]

    @torch.inference_mode()
    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        """Draw each requested image: sample image tokens under guidance, then decode them.

        Place i of an image uses the i-th numbers of its stream, whether its logits come from latents or from the
        decoder: equal logits and an equal stream give equal tokens. Given tokens before the first sampled one take no
        numbers. A prompt that its state holds already is not read again.
        """
        leading = [
            _leading_tokens(request, total, request.stream.clone_state(), sampling)
            if _count_leading(request, total) == total
            else None
            for request, total in zip(requests, map(self._total, requests), strict=True)
        ]
        waiting = [request for request, tokens in zip(requests, leading, strict=True) if tokens is None]
        decoded = iter(
            self.engine.in_batches(
                list(zip(waiting, self._read_image_prompts(waiting), strict=True)),
                lambda batch: self._draw(batch, sampling),
                rows=2,
                tokens=lambda item: len(item[1].ids) + self._total(item[0]),
                shape=lambda item: (len(item[1].ids), _count_leading(item[0], self._total(item[0]))),
            )
        )
        sampled = [next(decoded) if tokens is None else (tokens, None) for tokens in leading]
        whole = self.capabilities.image_tokens
        images = self._to_images(
            [request.state for request in requests], [fill_rest(tokens, whole) for tokens, _ in sampled]
        )
        return [
            ImageOutput(
                ImageSample(tuple(tokens), image), None if request.prefix is not None or request.tokens else hidden
            )
            for (tokens, hidden), image, request in zip(sampled, images, requests, strict=True)
        ]

    def _read_image_prompts(self, requests: Sequence[ImageRequest]) -> list[ImagePrompt]:
        """Return each request's prompt with its cached prefixes; a prompt that its state does not hold is read now.

        The unconditional prompt has the first and the last token of the prompt and padding between them. Its beginning
        is the same for all prompts, so it is read once, as far as the longest prompt needs it.
        """
        prompts = [tuple(self.prompts.image(one.state.task.prompt, one.reasoning)) for one in requests]
        known = {one.state.image_prompt.ids: one.state.image_prompt for one in requests if one.state.image_prompt}
        new = list(dict.fromkeys(ids for ids in prompts if ids not in known))
        if new:
            padding = self._read_padding(new[0][0], max(map(len, new)) - 1)
            prefixes = [CachedPrefix(padding.cut(len(ids) - 1), padding.last) for ids in new]
            unconditional = self.engine.prefill_all([self._embed_text(ids[-1:]) for ids in new], prefixes)
            conditional = self.engine.prefill_all([self._embed_text(ids) for ids in new])
            known |= zip(new, map(ImagePrompt, new, conditional, unconditional), strict=True)
        for request, ids in zip(requests, prompts, strict=True):
            request.state.image_prompt = known[ids]
        return [known[ids] for ids in prompts]

    def _read_padding(self, first: int, length: int) -> CachedPrefix:
        """Return at least so many tokens of the unconditional prompt: ``first``, then padding, grown in equal steps."""
        prefix = self._unconditional.get(first)
        while prefix is None or len(prefix) < length:
            ids = [self.prompts.padding] * _UNCONDITIONAL_STEP
            rows = [self._embed_text(ids if prefix else [first, *ids[1:]])]
            (prefix,) = self.engine.prefill_all(rows, [prefix] if prefix else None)
            self._unconditional[first] = prefix
        return prefix

    def _draw(
        self, batch: Sequence[tuple[ImageRequest, ImagePrompt]], sampling: SamplingParams
    ) -> list[tuple[list[int], torch.Tensor]]:
        """Return image tokens, and the hidden states (n, 2, d) that produced the first of them."""
        totals = [self._total(request) for request, _ in batch]
        streams = [request.stream.clone_state() for request, _ in batch]
        written = [
            _leading_tokens(request, total, stream, sampling)
            for (request, _), total, stream in zip(batch, totals, streams, strict=True)
        ]
        # 2B rows: each image's conditional row, then its unconditional one.
        prefixes = [prefix for _, prompt in batch for prefix in (prompt.conditional, prompt.unconditional)]
        steps = max(total - len(tokens) for total, tokens in zip(totals, written, strict=True))
        rows = self.engine.open(prefixes, max(map(len, written)), steps)
        if any(written):
            rows.prefill([self._embed_image(torch.tensor(row, dtype=torch.long)) for row in written for _ in range(2)])
        most = max(request.keep_hidden for request, _ in batch)
        states: list[torch.Tensor] = []
        while True:
            pairs = rows.newest.view(len(batch), 2, -1)  # (B, 2, d)
            if len(states) < most:
                states.append(pairs)
            logits = self.image_logits(pairs, sampling.guidance)
            newest = to_integers(sample(logits, streams, sampling.temperature, sampling.sampler))  # B
            for index, (request, _) in enumerate(batch):
                given = _given(request, len(written[index]))
                newest[index] = newest[index] if given is None else given
                if len(written[index]) < totals[index]:  # some rows are done a little earlier
                    written[index].append(newest[index])
            if all(len(row) >= total for row, total in zip(written, totals, strict=True)):
                break
            rows.step(self._embed_image(torch.tensor(newest).repeat_interleave(2)))
        hidden = torch.stack(states, dim=1) if states else pairs[:, None][:, :0]  # (B, n, 2, d)
        return [
            (tokens, own[: request.keep_hidden])
            for (request, _), tokens, own in zip(batch, written, hidden, strict=True)
        ]

    def _total(self, request: ImageRequest) -> int:
        return request.until or self.capabilities.image_tokens

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """(n, d) float32 -> (n, V) float32, differentiable."""
        return self.network.lm_head(latents.to(self.network.dtype)).float()

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """(n, 2, d) float32 -> (n, V) float32, guided: u + w (c - u); differentiable."""
        conditional, unconditional = (
            self.network.model.generation_head(latents.to(self.network.dtype)).float().unbind(1)
        )
        return unconditional + guidance * (conditional - unconditional)

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Return p(yes) / (p(yes) + p(no)) of a yes/no question about each image."""
        return self.vqa.answer(images, questions)

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Return a free answer about each image, written greedily, of at most that many tokens."""
        return self.vqa.reply(images, questions, limit)

    def _embed_text(self, ids: Sequence[int]) -> torch.Tensor:
        """Token ids -> (T, d)."""
        return self.network.get_input_embeddings()(torch.tensor(ids, device=self.device, dtype=torch.long))

    def _embed_image(self, tokens: torch.Tensor) -> torch.Tensor:
        """Image tokens (T,) -> (T, d)."""
        return self.network.prepare_embeddings_for_image_generation(tokens.to(self.device))

    def _to_images(self, states: Sequence[TaskState], samples: Sequence[tuple[int, ...]]) -> list[Image.Image]:
        """Return the images of whole token sequences; one that its state holds already is not decoded again."""
        known = {state.image.tokens: state.image.image for state in states if state.image}
        new = list(dict.fromkeys(tokens for tokens in samples if tokens not in known))
        images, _ = work_in_batches(new, self._decode_images, self._images_at_once)
        known |= zip(new, images, strict=True)
        for state, tokens in zip(states, samples, strict=True):
            state.image = ImageSample(tokens, known[tokens])
        return [known[tokens] for tokens in samples]

    def _decode_images(self, samples: Sequence[Sequence[int]]) -> list[Image.Image]:
        pixels = self.network.decode_image_tokens(torch.tensor(samples, device=self.device))  # (B, H, W, 3) in [-1, 1]
        levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        return [Image.fromarray(image) for image in levels]

    def _reasoning(self, tokens: list[int]) -> Reasoning:
        return Reasoning(self.tokenizer.decode(tokens, skip_special_tokens=True).strip(), tuple(tokens))


def _find_text(request: TextRequest, prompt: tuple[int, ...]) -> TextOutput | None:
    """Return the state's last text if greedy writing after this prompt and prefix would give it again."""
    state, prefix = request.state, request.prefix
    if request.stream is not None or request.offsets is not None or state.text is None:
        return None
    if state.text_prompt is None or state.text_prompt.ids != prompt or len(prefix) < state.given:
        return None
    return state.text if state.text.tokens[: len(prefix)] == prefix else None


def _add_offsets(states: torch.Tensor, requests: Sequence[TextRequest], places: Sequence[int]) -> torch.Tensor:
    """Return the states (B, d) of each text's next token plus its request's offset for that place."""
    if all(request.offsets is None for request in requests):
        return states
    states = states.float()  # a copy if it is half precision; the engine's own states stay as they are
    none = states.new_zeros(states.shape[-1])
    offsets = [
        none if request.offsets is None or place >= len(request.offsets) else request.offsets[place]
        for request, place in zip(requests, places, strict=True)
    ]
    return states + torch.stack(offsets)


def _given(request: ImageRequest, place: int) -> int | None:
    """Return the token that a request gives for a place."""
    return request.tokens[place] if place < len(request.tokens) else None


def _count_leading(request: ImageRequest, total: int) -> int:
    """Return how many of the first tokens need no decoder."""
    read = 0 if request.prefix is None else len(request.prefix)
    return next((place for place in range(read, total) if _given(request, place) is None), total)


def _leading_tokens(request: ImageRequest, total: int, stream: torch.Generator, sampling: SamplingParams) -> list[int]:
    """Return the tokens that need no decoder: given ones, and those sampled from the logits of latents."""
    tokens: list[int] = []
    logits = () if request.prefix is None else tuple(request.prefix)  # n of (V,)
    for place in range(min(total, _count_leading(request, total))):
        given = _given(request, place)
        if given is None:
            given = int(sample(logits[place][None], [stream], sampling.temperature, sampling.sampler))
        tokens.append(given)
    return tokens
