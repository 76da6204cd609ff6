"""The decoding loop: tokens are sampled one after the other on the device, without asking the host.

One step reads the previous token of every sequence, decodes it, samples the next one and writes it into a buffer. Its
inputs (position, random numbers, given tokens) are in tensors that keep their addresses, so that steps can be recorded
once and replayed (`milr.decode.buffers`). The tokens are read at the end.

Legend of shapes: S sequences, P rows of a sequence (2 under guidance), N positions for tokens, K steps, d width, V
words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from milr.decode.batch import DecodeBatch
from milr.decode.sampling import SAMPLE, keep_most_probable
from milr.decode.tensors import to_rows


class Head(Protocol):
    """The protocol of a head: hidden states to logits of tokens, and tokens to embeddings."""

    name: str
    """Name of the head; steps of different heads are recorded separately."""
    rows: int
    """P: rows of the batch that one sequence takes."""
    vocabulary: int
    """V."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (S,) int64 tokens to (S P, d) embeddings."""
        ...

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Map (S P, d) float32 hidden states to (S, V) float32 logits."""
        ...


@dataclass(frozen=True)
class LoopRequest:
    """A decoding loop's request, one entry per sequence."""

    steps: int
    """K: most tokens decoded per sequence."""
    leads: Sequence[torch.Tensor]
    """(n,) int64 each: tokens that are in the batch already. The loop's first token follows them."""
    streams: Sequence[torch.Generator] = ()
    """Random streams, which the loop advances; none means greedy."""
    temperature: float = 1.0
    sampler: str = "inverse"
    top_k: int = 0
    """See `milr.decode.sampling.keep_most_probable`."""
    given: Sequence[Sequence[int | None]] = ()
    """Given tokens by position, leads included; None, and all after the last, are sampled. Given ones take random
    numbers too."""
    offsets: Sequence[torch.Tensor | None] = ()
    """(n, P, d) float32 each: added to the hidden states of the first n tokens, leads included, before the head."""
    keep: int = 0
    """Number of first tokens whose hidden states are kept."""
    ends: frozenset[int] = frozenset()
    """Tokens that end a sequence."""
    ended: Sequence[bool] = ()
    """Sequences that have ended before the loop begins."""


class DecodeLoop:
    """A loop that decodes a request's tokens after the tokens of a batch."""

    def __init__(self, batch: DecodeBatch, head: Head, request: LoopRequest) -> None:
        """Copy all inputs of the steps to the device.

        Args:
            batch: Has processed the prompts and the leads; each sequence takes `head.rows` of its rows.
            head: Head of text or image tokens.
            request: The request.
        """
        self._batch, self._head, self._request = batch, head, request
        take, many = batch.buffers.take, len(request.leads)
        places = batch.round_up_steps(max(map(len, request.leads)) + request.steps)
        self._tokens = take("tokens", (many, places), torch.int64)
        """(S, N): leads, then the decoded tokens."""
        self._place = take("place", (many, 1), torch.int64)
        for row, lead in enumerate(request.leads):
            self._tokens[row, : len(lead)] = lead
            self._place[row] = len(lead)
        self._step = take("step", (1,), torch.int64).zero_()
        self._previous = take("previous", (many,), torch.int64)
        self._numbers = self._take_numbers()
        self._hidden: torch.Tensor | None = None
        if request.keep:
            # one slot more, for states that are not kept
            size = (many, batch.round_up_steps(request.keep) + 1, head.rows, batch.newest.shape[-1])
            self._hidden = take("hidden", size, torch.float32)
        self._given: torch.Tensor | None = None
        if any(token is not None for row in request.given for token in row):
            rows = [[-1 if token is None else token for token in row[:places]] for row in request.given]
            filled = torch.tensor([[*row, *[-1] * (places - len(row))] for row in rows])
            self._given = take("given", (many, places), torch.int64).copy_(filled)
        self._offsets: torch.Tensor | None = None
        if any(offset is not None for offset in request.offsets):
            longest = max(len(offset) for offset in request.offsets if offset is not None)
            size = (many, batch.round_up_steps(longest) + 1, head.rows, batch.newest.shape[-1])
            self._offsets = take("offsets", size, torch.float32).zero_()
            for row, offset in enumerate(request.offsets):
                if offset is not None:
                    self._offsets[row, : len(offset)] = offset
        self._ends = self._ended = None
        if request.ends:
            self._ends = take("ends", (len(request.ends),), torch.int64).copy_(torch.tensor(sorted(request.ends)))
            self._ended = take("ended", (many,), torch.bool).zero_()
            for row in [row for row, ended in enumerate(request.ended) if ended]:
                self._ended[row] = True
        optional = (self._numbers, self._hidden, self._given, self._offsets, self._ends)
        shapes = tuple(None if tensor is None else tuple(tensor.shape) for tensor in optional)
        self._key = (head.name, request.sampler, request.top_k, tuple(batch.cache.states.shape), places, shapes)

    def run(self, on_step: Callable[[int], None] | None = None) -> None:
        """Decode until all steps are done or all sequences have ended.

        Args:
            on_step: Called after each step but the last with the number of tokens decoded, which `read_begun` reads.
        """
        batch, request = self._batch, self._request
        if request.ended and all(request.ended):
            return
        self._load_numbers(0)
        self._sample()
        for step in range(1, request.steps):
            if self._ended is not None and step % batch.check_every == 0 and bool(self._ended.all()):
                break
            if on_step is not None:
                on_step(step)
            self._load_numbers(step)
            seen = batch.reserve()
            batch.buffers.run((*self._key, seen), partial(self.step, seen))

    def step(self, seen: int) -> None:
        """Decode the previous tokens and sample the next ones, all on the device.

        Args:
            seen: Number of positions of the cache that attention reads.
        """
        self._batch.step(self._head.embed(self._previous), seen)
        self._sample()

    def read_tokens(self) -> list[list[int]]:
        """Return each sequence's tokens, leads first, up to its first end or the last step. Waits for the device."""
        request = self._request
        found: list[list[int]] = []
        for place, (row, lead) in enumerate(zip(to_rows(self._tokens), request.leads, strict=True)):
            ended = bool(request.ended) and request.ended[place]
            last = len(lead) + (0 if ended else request.steps)
            end = next((at + 1 for at in range(len(lead), last) if row[at] in request.ends), last)
            found.append(row[:end])
        return found

    def read_begun(self, steps: int) -> list[list[int]]:
        """Return each sequence's leads and its first decoded tokens. Waits for the device."""
        leads = self._request.leads
        return [row[: len(lead) + steps] for row, lead in zip(to_rows(self._tokens), leads, strict=True)]

    def read_hidden(self) -> torch.Tensor | None:
        """Return (S, n, P, d) float32, the states that produced the loop's first n tokens; None if none are kept."""
        return None if self._hidden is None else self._hidden[:, : self._request.keep].clone()

    def _take_numbers(self) -> torch.Tensor | None:
        """Allocate a buffer for the random numbers of all steps, or of one: (K or 1, S, numbers of a token)."""
        request = self._request
        if not request.streams:
            return None
        self._sampler = SAMPLE[request.sampler]
        take = self._batch.buffers.take
        self._temperature = take("temperature", (1,), torch.float32).fill_(request.temperature)
        steps = self._batch.round_up_steps(request.steps) if self._sampler.few else 1
        width = 1 if self._sampler.few else self._head.vocabulary
        return take("numbers", (steps, len(request.streams), width), self._sampler.dtype)

    def _load_numbers(self, step: int) -> None:
        """Copy the next steps' random numbers to the device, if they are not there yet."""
        request = self._request
        if self._numbers is None or (self._sampler.few and step > 0):
            return
        count = request.steps if self._sampler.few else 1
        numbers = [self._sampler.numbers(stream, count, self._head.vocabulary) for stream in request.streams]
        self._numbers[:count].copy_(torch.stack(numbers, dim=1))

    def _sample(self) -> None:
        """Sample the next tokens from the newest hidden states (S P, d) and store them."""
        states = self._batch.newest
        if self._hidden is not None:
            many, slots, *size = self._hidden.shape
            self._hidden.index_copy_(1, self._step.clamp_max(slots - 1), states.view(many, 1, *size))
        if self._offsets is not None:
            many, slots, *size = self._offsets.shape
            place = self._place.clamp_max(slots - 1).view(many, 1, 1, 1).expand(-1, -1, *size)
            states = states + self._offsets.gather(1, place).view(states.shape)  # (S P, d)
        logits = self._head.logits(states)  # (S, V)
        if self._numbers is None:
            tokens = logits.argmax(-1)
        else:
            numbers = self._numbers.index_select(0, self._step % len(self._numbers))[0]
            logits = keep_most_probable(logits, self._request.top_k)
            tokens = self._sampler.choose(torch.softmax(logits / self._temperature, dim=-1), numbers)
        if self._given is not None:
            given = self._given.gather(1, self._place)[:, 0]
            tokens = torch.where(given < 0, tokens, given)
        self._tokens.scatter_(1, self._place, tokens[:, None])
        if self._ended is not None:
            self._ended |= (tokens[:, None] == self._ends).any(-1)
        self._previous.copy_(tokens)
        self._place.add_(1)
        self._step.add_(1)
