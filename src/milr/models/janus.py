"""Janus-Pro, and every checkpoint in its format; the embedded model is one.

transformers' modules hold the weights; `milr.decode` runs their forward passes. Source of the architecture and the
format: `transformers.models.janus` (JanusForConditionalGeneration, JanusProcessor).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from milr.decode.batching import work_in_batches
from milr.decode.buffers import CudaRecorder
from milr.decode.engine import Counts, Engine
from milr.decode.kv_cache import CachedPrefix
from milr.decode.llama import Llama
from milr.decode.loop import DecodeLoop, LoopRequest
from milr.decode.packed_linear import pack
from milr.decode.partial import fill_rest
from milr.decode.tensors import split_rows, to_integers, to_numbers
from milr.models.base import ImageOutput, ImagePrompt, ImageRequest, TaskState, TextOutput, TextPrompt, TextRequest
from milr.models.checkpoint import open_checkpoint
from milr.models.devices import choose_dtype, find_device
from milr.models.heads import ImageHead, TextHead
from milr.models.idle_blocks import leave_out_idle_blocks
from milr.models.leads import sample_leads
from milr.models.optional import OnRows
from milr.models.prompts import Prompts
from milr.models.vqa import VisualQA
from milr.settings import SamplingParams, Settings, make_settings
from milr.types import ImageSample, Reasoning, Task

_PIXELS_AT_ONCE = 512 * 512  # the VQ decoder and the vision tower need far more memory per image than tokens do
_UNCONDITIONAL_STEP = 64  # tokens by which the shared beginning of the unconditional prompts grows


@dataclass(frozen=True)
class BegunImage:
    """An image whose first tokens, which need no decoder, are known."""

    request: ImageRequest
    lead: torch.Tensor
    """(n,) int64."""
    stream: torch.Generator
    """Random stream, advanced past the lead."""
    prompt: ImagePrompt


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
        graphs: bool = True,
    ) -> None:
        """Load a folder in transformers' layout or in DeepSeek's own.

        Args:
            folder: Holds config.json, tokenizer.json, preprocessor_config.json and *.safetensors.
            device: In torch's notation.
            dtype: "float32", "bfloat16" or "float16" for the weights; None lets `milr.models.devices` choose. Latents,
                guidance and softmax are always float32.
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
        self.folder = folder
        self.name = f"janus:{folder.name}@{checkpoint.version}"
        self.profile = checkpoint.profile
        self.capabilities = checkpoint.capabilities
        self.defaults: Mapping[str, object] = checkpoint.settings.search
        self.text_temperature = self.profile.text_temperature
        self.deterministic = deterministic
        self.reads_free_prompts = checkpoint.settings.grammar == "free"
        self.tokenizer: Any = checkpoint.load_tokenizer()
        make = checkpoint.make_network if random else checkpoint.load_network
        self.network: Any = make(numbers, self.device)
        self.network.eval().requires_grad_(False)  # frozen: no weight ever has a gradient
        leave_out_idle_blocks(self.network.model.vqmodel.decoder)
        recorder = CudaRecorder(self.device) if self.device.type == "cuda" and graphs else None
        self.engine = Engine(Llama(self.network.model.language_model), deterministic=deterministic, recorder=recorder)
        pack(self.network.model.generation_head, differentiable=True)
        self.text_head = TextHead(self.network)
        self.prompts = Prompts(self.profile, self.tokenizer)
        # with fixed shapes, each image goes through the VQ decoder and the vision tower alone
        many = max(1, _PIXELS_AT_ONCE // self.capabilities.image_size**2)
        self._images_at_once = 1 if deterministic else many
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
        self.on_rows: OnRows | None = None
        """See `milr.models.optional.Watchable`."""

    @property
    def counts(self) -> Counts:
        """Return the counts of decoding since the model was loaded."""
        return self.engine.counts

    def settings(self, method: str = "milr", **changes: object) -> Settings:
        """Return a method's settings: the model's defaults with these changes."""
        return make_settings(method, changes, self.defaults)

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """Return one state per task; prompts are prefilled when they are first needed."""
        return [TaskState(task) for task in tasks]

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
                offsets=[one.offsets for one in requests],
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

    @torch.inference_mode()
    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        """Draw each requested image: sample image tokens under guidance, then decode them."""
        sampled = self.sample_tokens(requests, sampling)
        whole = self.capabilities.image_tokens
        images = self._to_images(
            [request.state for request in requests], [fill_rest(tokens, whole) for tokens, _ in sampled]
        )
        return [
            ImageOutput(
                ImageSample(tuple(tokens), image), None if request.prefix is not None or request.tokens else hidden
            )
            for request, (tokens, hidden), image in zip(requests, sampled, images, strict=True)
        ]

    @torch.inference_mode()
    def sample_tokens(
        self, requests: Sequence[ImageRequest], sampling: SamplingParams
    ) -> list[tuple[list[int], torch.Tensor]]:
        """Sample each image's tokens; return them and the hidden states (n, 2, d) that produced the first sampled ones.

        Position i of an image uses the i-th numbers of its stream, whether its token comes from latents, the decoder or
        the request: equal logits and an equal stream give equal tokens. A cached prompt is not prefilled again.
        """
        streams = [request.stream.clone_state() for request in requests]
        totals = [self._total(request) for request in requests]
        words = self.network.config.vq_config.num_embeddings
        leads = sample_leads(requests, totals, streams, sampling, words, self.device)
        begun = list(zip(requests, leads, streams, strict=True))
        known = [place for place, total in enumerate(totals) if len(leads[place]) == total]
        open_ = [place for place in range(len(requests)) if place not in set(known)]
        prompts = self._read_image_prompts([requests[place] for place in open_])
        decoded = self.engine.in_batches(
            [BegunImage(*begun[place], prompt) for place, prompt in zip(open_, prompts, strict=True)],
            lambda batch: self._draw(batch, sampling),
            rows=2,
            loops=True,
            tokens=lambda one: len(one.prompt.ids) + self._total(one.request),
            shape=lambda one: (len(one.prompt.ids), len(one.lead)),
        )
        found = dict(zip(open_, decoded, strict=True))
        nothing = torch.zeros(0, 2, self.capabilities.width, device=self.device)
        lengths = [len(leads[place]) for place in known]
        if known:
            ended = iter(to_integers(torch.cat([leads[place] for place in known])))
            found |= {place: (list(islice(ended, n)), nothing) for place, n in zip(known, lengths, strict=True)}
        return [found[place] for place in range(len(requests))]

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

    def _draw(self, batch: Sequence[BegunImage], sampling: SamplingParams) -> list[tuple[list[int], torch.Tensor]]:
        """Return image tokens, and the hidden states (n, 2, d) that produced the first of them."""
        totals = [self._total(one.request) for one in batch]
        leads = [one.lead for one in batch]
        keep = max(one.request.keep_hidden for one in batch)
        # each image's conditional row, then its unconditional one, which guidance 1 does not need
        paired = 1 if sampling.guidance == 1 and not keep else 2
        prefixes = [prefix for one in batch for prefix in (one.prompt.conditional, one.prompt.unconditional)[:paired]]
        steps = max(total - len(lead) for total, lead in zip(totals, leads, strict=True))
        rows = self.engine.open(prefixes, max(map(len, leads)), steps)
        guidance = rows.buffers.take("guidance", (1,), torch.float32).fill_(sampling.guidance)
        head = ImageHead(self.network, guidance, rows=paired)
        if any(map(len, leads)):
            embedded = ImageHead(self.network, rows=1).embed(torch.cat(leads))
            read = split_rows(embedded, [len(lead) for lead in leads])
            rows.prefill([row for row in read for _ in range(paired)])
        loop = DecodeLoop(
            rows,
            head,
            LoopRequest(
                steps,
                leads,
                streams=[one.stream.clone_state() for one in batch],
                temperature=sampling.temperature,
                sampler=sampling.sampler,
                given=[one.request.tokens for one in batch],
                keep=min(keep, steps),
            ),
        )
        loop.run(self._watch(batch, loop) if self.on_rows else None)
        hidden = loop.read_hidden()  # (B, n, 2, d)
        if hidden is None:
            hidden = torch.zeros(len(batch), 0, 2, self.capabilities.width, device=self.device)
        return [
            (tokens[:total], own[: one.request.keep_hidden])
            for one, tokens, total, own in zip(batch, loop.read_tokens(), totals, hidden, strict=True)
        ]

    def _watch(self, batch: Sequence[BegunImage], loop: DecodeLoop) -> Callable[[int], None]:
        """Return what tells a watcher of every new row."""
        width = isqrt(self.capabilities.image_tokens)

        def tell(steps: int) -> None:
            if self.on_rows is not None and steps % width == 0:
                self.on_rows([one.request for one in batch], lambda: loop.read_begun(steps))

        return tell

    def show_tokens(self, tokens: Sequence[int]) -> Image.Image:
        """Decode the first tokens of an image; a flat rest follows them."""
        with torch.inference_mode():
            (image,) = self._decode_images([fill_rest(tokens, self.capabilities.image_tokens)])
        return image

    def _total(self, request: ImageRequest) -> int:
        return request.until or self.capabilities.image_tokens

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """Map (n, d) float32 to (n, V) float32 logits; differentiable."""
        return self.text_head.logits(latents)

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """Map (n, 2, d) float32 to (n, V) float32 guided logits; differentiable."""
        return ImageHead(self.network, guidance).logits(latents.flatten(0, 1))

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

    def _to_images(self, states: Sequence[TaskState], samples: Sequence[tuple[int, ...]]) -> list[Image.Image]:
        """Decode image tokens to images; reuse the row's last image if the tokens are unchanged."""
        known = {state.image.tokens: state.image.image for state in states if state.image}
        new = list(dict.fromkeys(tokens for tokens in samples if tokens not in known))
        images, _ = work_in_batches(new, self._decode_images, self._images_at_once)
        known |= zip(new, images, strict=True)
        for state, tokens in zip(states, samples, strict=True):
            state.image = ImageSample(tokens, known[tokens])
        return [known[tokens] for tokens in samples]

    def _decode_images(self, samples: Sequence[Sequence[int]]) -> list[Image.Image]:
        pixels = self.network.decode_image_tokens(torch.tensor(samples).to(self.device))  # (B, H, W, 3) in [-1, 1]
        # truncated to integers, as DeepSeek's own code does (deepseek-ai/Janus, generation_inference.py)
        levels = ((pixels.float() + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()
        return [Image.fromarray(image) for image in levels]

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
