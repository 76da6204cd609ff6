"""Janus-Pro, and every checkpoint in its format: the embedded model is one.

transformers' modules hold the weights; `milr.decode` drives their forward passes. Source of the architecture and the
format: `transformers.models.janus` (JanusForConditionalGeneration, JanusProcessor).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from milr.models.base import ImageOutput, ImagePrompt, ImageRequest, TaskState, TextOutput, TextPrompt
from milr.models.checkpoint import open_checkpoint
from milr.models.devices import choose_dtype, find_device
from milr.models.prompts import Prompts
from milr.models.vqa import VisualQA
from milr.types import ImageSample, Reasoning, Task

_PIXELS_AT_ONCE = 512 * 512  # the VQ decoder and the vision tower need far more memory a picture than tokens do
_BLANK_STEP = 64  # tokens by which the shared beginning of the unconditional prompts grows


@dataclass(frozen=True)
class _Manner:
    """How all drawings of a call are drawn."""

    guidance: float
    temperature: float
    keep: int
    sampler: str


@dataclass(frozen=True)
class _Wish:
    """A reasoning to write."""

    kept: CachedPrefix
    """Its prompt."""
    prefix: tuple[int, ...]
    offsets: torch.Tensor | None
    """(n, d) added to the states behind its first tokens; None adds nothing."""
    stream: torch.Generator | None
    """None writes greedily."""


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
            dtype: "float32", "bfloat16" or "float16" for the weights; None is `milr.models.devices`' choice. Latents,
                guidance and softmax are float32 whatever it is.
            profile: One of `milr.models.prompts.PROFILES`; None takes the checkpoint's own.
            random: Random weights of the same shape: no safetensors are needed, and the drawings are noise.
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
        self.search_defaults: Mapping[str, object] = checkpoint.settings.search
        self.text_temperature = self.profile.text_temperature
        self.reads_free_prompts = checkpoint.settings.grammar == "free"
        self.tokenizer: Any = checkpoint.load_tokenizer()
        self.network: Any = checkpoint.make_network(numbers) if random else checkpoint.load_network(numbers)
        # Frozen: no gradient is ever kept for a weight.
        self.network.to(self.device).eval().requires_grad_(False)
        self.engine = Engine(self.network.model.language_model, deterministic=deterministic)
        pack(self.network.model.generation_head, differentiable=True)
        self.prompts = Prompts(self.profile, self.tokenizer)
        # Where shapes are fixed, each picture goes alone through the VQ decoder and the vision tower.
        many = max(1, _PIXELS_AT_ONCE // self.capabilities.picture_size**2)
        self._pictures_at_once = 1 if deterministic else many
        self.eyes = VisualQA(
            self.network,
            self.engine,
            self.prompts,
            self.tokenizer,
            checkpoint.load_image_processor(),
            self._embed_text,
            self.text_logits,
            self._pictures_at_once,
        )
        self._blank: dict[int, CachedPrefix] = {}  # by their first token, the beginnings of unconditional prompts

    @property
    def counts(self) -> Counts:
        """What has been decoded since the model was loaded."""
        return self.engine.counts

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """A row a task; prompts are read when they are first needed."""
        return [TaskState(task) for task in tasks]

    @torch.inference_mode()
    def reason(
        self,
        rows: Sequence[TaskState],
        prefixes: Sequence[Sequence[int]],
        *,
        offsets: Sequence[torch.Tensor] | None = None,
        streams: Sequence[torch.Generator] | None = None,
        temperature: float = 1.0,
        critiques: Sequence[str] | None = None,
    ) -> list[TextOutput]:
        """Write each row's reasoning behind its prefix of token ids, greedily or sampled; see the protocol.

        A prompt that its row was asked last is not read again. Greedy writing has no chance in it, so a prefix that is
        how the row's last text began gives that text again, and nothing is decoded.
        """
        prompts = [
            tuple(self.prompts.reasoning(row.task.prompt, critique))
            for row, critique in zip(rows, critiques or [""] * len(rows), strict=True)
        ]
        begun = [tuple(self.prompts.up_to_end(list(prefix))) for prefix in prefixes]
        steered = [one if one.any() else None for one in offsets] if offsets else [None] * len(rows)
        found = [
            _written_before(row, prompt, prefix) if streams is None and added is None else None
            for row, prompt, prefix, added in zip(rows, prompts, begun, steered, strict=True)
        ]
        new = [place for place, thought in enumerate(found) if thought is None]
        asked = self._ask([rows[place] for place in new], [prompts[place] for place in new])
        limit = self.profile.max_reasoning_tokens
        written = self.engine.in_batches(
            [
                _Wish(one.kept, begun[place], steered[place], streams[place] if streams else None)
                for place, one in zip(new, asked, strict=True)
            ],
            lambda batch: self._write(batch, temperature),
            tokens=lambda wish: len(wish.kept) + limit,
            shape=lambda wish: (len(wish.kept), len(wish.prefix)),
        )
        for place, thought in zip(new, written, strict=True):
            row = rows[place]
            row.thought = thought if streams is None and steered[place] is None else None
            row.forced = len(begun[place])
            found[place] = thought
        return [thought for thought in found if thought]

    def _ask(self, rows: Sequence[TaskState], prompts: Sequence[tuple[int, ...]]) -> list[TextPrompt]:
        """Each prompt as read: where it is not the one that its row was asked last, it is read now."""
        known = {row.asked.ids: row.asked for row in rows if row.asked}
        new = list(dict.fromkeys(ids for ids in prompts if ids not in known))
        known |= zip(
            new, map(TextPrompt, new, self.engine.read_all([self._embed_text(ids) for ids in new])), strict=True
        )
        asked = [known[ids] for ids in prompts]
        for row, one in zip(rows, asked, strict=True):
            row.asked = one
        return asked

    def _write(self, batch: Sequence[_Wish], temperature: float) -> list[TextOutput]:
        limit = self.profile.max_reasoning_tokens
        written = [list(wish.prefix) for wish in batch]
        streams = [wish.stream.clone_state() for wish in batch if wish.stream]
        rows = self.engine.open([wish.kept for wish in batch], max(map(len, written)), limit)
        hidden = [[state] for state in rows.newest]
        if any(written):
            states = rows.read([self._embed_text(tokens) for tokens in written]).float()  # (B, T, d)
            for row, tokens, found in zip(states, written, hidden, strict=True):
                found += row[len(row) - len(tokens) :]
        done = [len(tokens) >= limit or bool(self.prompts.ends.intersection(tokens[-1:])) for tokens in written]
        while True:
            logits = self.text_logits(_steer(rows.newest, batch, list(map(len, written))))
            following = to_integers(sample(logits, streams, temperature) if streams else logits.argmax(-1))
            for index, token in enumerate(following):
                if not done[index]:
                    written[index].append(token)
                    done[index] = token in self.prompts.ends or len(written[index]) >= limit
            if all(done):
                break
            # Finished rows are fed on so that the batch stays in step; what comes of it is not kept.
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
        """What each token of a reasoning spells; a character of several tokens is a mark of replacement in each."""
        return [self.tokenizer.decode([token], skip_special_tokens=True) for token in tokens]

    @torch.inference_mode()
    def draw(
        self, requests: Sequence[ImageRequest], *, guidance: float, temperature: float, keep: int, sampler: str = "race"
    ) -> list[ImageOutput]:
        """Draw each request: image tokens sampled under guidance, then decoded to a picture.

        Place i of a drawing uses the i-th numbers of its stream, whether its logits come from latents or from the
        decoder: equal logits and an equal stream give equal tokens. Given tokens before the first that is not take no
        numbers. A prompt that its row was told last is not read again.
        """
        manner = _Manner(guidance, temperature, keep, sampler)
        begun = [
            _begin(request, total, request.stream.clone_state(), manner)
            if _count_begun(request, total) == total
            else None
            for request, total in zip(requests, map(self._total, requests), strict=True)
        ]
        waiting = [request for request, tokens in zip(requests, begun, strict=True) if tokens is None]
        decoded = iter(
            self.engine.in_batches(
                list(zip(waiting, self._tell(waiting), strict=True)),
                lambda batch: self._draw(batch, manner),
                rows=2,
                tokens=lambda item: len(item[1].ids) + self._total(item[0]),
                shape=lambda item: (len(item[1].ids), _count_begun(item[0], self._total(item[0]))),
            )
        )
        drawn = [next(decoded) if tokens is None else (tokens, None) for tokens in begun]
        whole = self.capabilities.image_tokens
        pictures = self._picture([one.row for one in requests], [fill_rest(tokens, whole) for tokens, _ in drawn])
        return [
            ImageOutput(
                ImageSample(tuple(tokens), picture), None if request.prefix is not None or request.tokens else hidden
            )
            for (tokens, hidden), picture, request in zip(drawn, pictures, requests, strict=True)
        ]

    def _tell(self, requests: Sequence[ImageRequest]) -> list[ImagePrompt]:
        """Each request's prompt as read: where it is not the one that its row was told last, it is read now.

        The unconditional prompt keeps the first and the last token and pads the rest. Its beginning is the same for
        all prompts, so that is read once, as far as the longest prompt needs it.
        """
        prompts = [tuple(self.prompts.drawing(one.row.task.prompt, one.reasoning)) for one in requests]
        known = {request.row.told.ids: request.row.told for request in requests if request.row.told}
        new = list(dict.fromkeys(ids for ids in prompts if ids not in known))
        if new:
            blank = self._read_blank(new[0][0], max(map(len, new)) - 1)
            begun = [CachedPrefix(blank.cut(len(ids) - 1), blank.last) for ids in new]
            unconditional = self.engine.read_all([self._embed_text(ids[-1:]) for ids in new], begun)
            conditional = self.engine.read_all([self._embed_text(ids) for ids in new])
            known |= zip(new, map(ImagePrompt, new, conditional, unconditional), strict=True)
        told = [known[ids] for ids in prompts]
        for request, one in zip(requests, told, strict=True):
            request.row.told = one
        return told

    def _read_blank(self, first: int, length: int) -> CachedPrefix:
        """At least so many tokens of the unconditional prompt: ``first``, then padding; read in steps of one size."""
        kept = self._blank.get(first)
        while kept is None or len(kept) < length:
            ids = [self.prompts.blank] * _BLANK_STEP
            rows = [self._embed_text(ids if kept else [first, *ids[1:]])]
            (kept,) = self.engine.read_all(rows, [kept] if kept else None)
            self._blank[first] = kept
        return kept

    def _draw(
        self, batch: Sequence[tuple[ImageRequest, ImagePrompt]], manner: _Manner
    ) -> list[tuple[list[int], torch.Tensor]]:
        """Image tokens, and the hidden states (n, 2, d) behind the first of them."""
        totals = [self._total(request) for request, _ in batch]
        streams = [request.stream.clone_state() for request, _ in batch]
        drawn = [
            _begin(request, total, stream, manner)
            for (request, _), total, stream in zip(batch, totals, streams, strict=True)
        ]
        # 2B rows: each drawing's conditional row, then its unconditional one.
        before = [kept for _, told in batch for kept in (told.conditional, told.unconditional)]
        steps = max(total - len(tokens) for total, tokens in zip(totals, drawn, strict=True))
        rows = self.engine.open(before, max(map(len, drawn)), steps)
        if any(drawn):
            rows.read([self._embed_image(torch.tensor(tokens, dtype=torch.long)) for tokens in drawn for _ in range(2)])
        kept: list[torch.Tensor] = []
        while True:
            pairs = rows.newest.view(len(batch), 2, -1)  # (B, 2, d)
            if len(kept) < manner.keep:
                kept.append(pairs)
            logits = self.image_logits(pairs, manner.guidance)
            newest = to_integers(sample(logits, streams, manner.temperature, manner.sampler))  # B
            for index, (request, _) in enumerate(batch):
                given = _given(request, len(drawn[index]))
                newest[index] = newest[index] if given is None else given
                if len(drawn[index]) < totals[index]:  # some rows are done a little earlier
                    drawn[index].append(newest[index])
            if all(len(row) >= total for row, total in zip(drawn, totals, strict=True)):
                break
            rows.step(self._embed_image(torch.tensor(newest).repeat_interleave(2)))
        hidden = torch.stack(kept, dim=1) if kept else pairs[:, None][:, :0]  # (B, n, 2, d)
        return list(zip(drawn, hidden, strict=True))

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

    def answer(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """p(yes) / (p(yes) + p(no)) of a yes/no question about each picture."""
        return self.eyes.answer(pictures, questions)

    def reply(self, pictures: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """A free answer about each picture, written greedily, of at most that many tokens."""
        return self.eyes.reply(pictures, questions, limit)

    def _embed_text(self, ids: Sequence[int]) -> torch.Tensor:
        """Token ids -> (T, d)."""
        return self.network.get_input_embeddings()(torch.tensor(ids, device=self.device, dtype=torch.long))

    def _embed_image(self, tokens: torch.Tensor) -> torch.Tensor:
        """Image tokens (T,) -> (T, d)."""
        return self.network.prepare_embeddings_for_image_generation(tokens.to(self.device))

    def _picture(self, rows: Sequence[TaskState], drawn: Sequence[Sequence[int]]) -> list[Image.Image]:
        """What each whole drawing shows; a picture that its row has shown last is not decoded again."""
        wholes = [tuple(tokens) for tokens in drawn]
        known = {row.drawn.tokens: row.drawn.picture for row in rows if row.drawn}
        new = list(dict.fromkeys(tokens for tokens in wholes if tokens not in known))
        known |= zip(new, self._decode_pictures(new), strict=True)
        for row, tokens in zip(rows, wholes, strict=True):
            row.drawn = ImageSample(tokens, known[tokens])
        return [known[tokens] for tokens in wholes]

    def _decode_pictures(self, drawn: Sequence[Sequence[int]]) -> list[Image.Image]:
        pictures, _ = work_in_batches(drawn, self._decode_some, self._pictures_at_once)
        return pictures

    def _decode_some(self, drawn: Sequence[Sequence[int]]) -> list[Image.Image]:
        pixels = self.network.decode_image_tokens(torch.tensor(drawn, device=self.device))  # (B, H, W, 3) in [-1, 1]
        levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        return [Image.fromarray(picture) for picture in levels]

    def _reasoning(self, tokens: list[int]) -> Reasoning:
        return Reasoning(self.tokenizer.decode(tokens, skip_special_tokens=True).strip(), tuple(tokens))


def _written_before(row: TaskState, prompt: tuple[int, ...], prefix: tuple[int, ...]) -> TextOutput | None:
    """The row's last text, where it is the one that greedy writing would give behind this prompt and prefix."""
    if row.thought is None or row.asked is None or row.asked.ids != prompt or len(prefix) < row.forced:
        return None
    return row.thought if row.thought.written[: len(prefix)] == prefix else None


def _steer(states: torch.Tensor, batch: Sequence[_Wish], places: Sequence[int]) -> torch.Tensor:
    """States (B, d) behind each wish's next token, moved by its offset for that place."""
    if all(wish.offsets is None for wish in batch):
        return states
    states = states.float()  # a copy where it is half precision; the engine's own states stay as they are
    none = states.new_zeros(states.shape[-1])
    added = [
        none if wish.offsets is None or place >= len(wish.offsets) else wish.offsets[place]
        for wish, place in zip(batch, places, strict=True)
    ]
    return states + torch.stack(added)


def _given(request: ImageRequest, place: int) -> int | None:
    """The token that a request gives for a place."""
    return request.tokens[place] if place < len(request.tokens) else None


def _count_begun(request: ImageRequest, total: int) -> int:
    """How many of the first tokens need no decoder."""
    read = 0 if request.prefix is None else len(request.prefix)
    return next((place for place in range(read, total) if _given(request, place) is None), total)


def _begin(request: ImageRequest, total: int, stream: torch.Generator, manner: _Manner) -> list[int]:
    """The tokens that need no decoder: given ones, and behind latents those that their logits give."""
    tokens: list[int] = []
    logits = () if request.prefix is None else tuple(request.prefix)  # n of (V,)
    for place in range(min(total, _count_begun(request, total))):
        given = _given(request, place)
        if given is None:
            given = int(sample(logits[place][None], [stream], manner.temperature, manner.sampler))
        tokens.append(given)
    return tokens
