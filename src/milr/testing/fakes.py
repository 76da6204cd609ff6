"""Fakes that need no weights, for tests of this package and of plug-ins."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from milr.decode.partial import fill_rest
from milr.decode.sampling import open_stream, sample
from milr.models.base import Capabilities, ImageOutput, ImageRequest, TaskState, TextOutput
from milr.types import ImageSample, Reasoning, Score, StepRecord, Task, Unscored

_END = 0  # of a text
_WORDS = ("<end>", "a", "red", "blue", "big", "small", "cat", "dog", "tree", "above", "below", "and")
_SIDE, _CELL = 5, 4  # tokens a side of a fake picture, pixels a side of a token
_GREY = 17  # between the greys of two tokens: 16 of them span 0 to 255


class FakeModel:
    """A whole model in forty lines and no weights. Implements `milr.models.base.Model`, promise by promise.

    Its decoder is one recurrent state, its matrices are fixed random numbers: next state = tanh(state W + token). The
    prompt's words make the first state, so every text token depends on all before it, and a drawing on the reasoning's
    words. A picture is 5 x 5 grey squares, one a token: a reward can read the tokens back by `read_tokens`. Rows never
    share a computation, so a batch equals its singles to the bit.
    """

    name = "fake"
    folder = Path()
    capabilities = Capabilities(picture_size=_SIDE * _CELL, image_tokens=_SIDE**2, width=8, latents="both")
    search_defaults: Mapping[str, object] = {"learning_rate": 0.2, "guidance": 2.0}
    reads_free_prompts = True

    def __init__(self, seed: int = 0, *, max_reasoning_tokens: int = 12, text_temperature: float = 0.0) -> None:
        """Models of different seeds are different models."""
        self.seed = seed
        self.text_temperature = text_temperature
        self.max_reasoning_tokens = max_reasoning_tokens
        width, image_words = self.capabilities.width, 255 // _GREY + 1
        turn = self._matrix("turn", width, width)
        self._turn = 1.5 * torch.matrix_exp(turn - turn.T)  # W, a rotation: what was read early is still seen late
        self._text_tokens = self._matrix("text tokens", len(_WORDS), width) / 2
        self._image_tokens = self._matrix("image tokens", image_words, width) / 2
        self._text_head = self._matrix("text head", width, len(_WORDS))
        self._image_head = self._matrix("image head", width, image_words) / 2
        self.reasoned: list[Task] = []
        """Every task that was reasoned about, in order: how often, and whether at all."""
        self.drawn: list[ImageRequest] = []
        """Every drawing that was asked for, in order."""

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """A row a task; this model keeps nothing in it."""
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
        """Write each row's reasoning behind its prefix, greedily or sampled; a critique's words are read too."""
        self.reasoned += [row.task for row in rows]
        words = [f"{row.task.prompt} {c}" for row, c in zip(rows, critiques or [""] * len(rows), strict=True)]
        nothing = torch.empty(0, self.capabilities.width)
        each = zip(words, prefixes, offsets or [nothing] * len(rows), streams or [None] * len(rows), strict=True)
        return [
            self._reason(said, prefix, added, stream and stream.clone_state(), temperature)
            for said, prefix, added, stream in each
        ]

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """What each token of a reasoning spells: a word, and a space before all but the first."""
        return [f"{' ' if place else ''}{_WORDS[token]}" for place, token in enumerate(tokens)]

    @torch.inference_mode()
    def draw(
        self, requests: Sequence[ImageRequest], *, guidance: float, temperature: float, keep: int, sampler: str = "race"
    ) -> list[ImageOutput]:
        """Draw each request; the first ``keep`` tokens' hidden states come back where neither prefix nor tokens are."""
        self.drawn += requests
        return [self._draw(request, guidance, temperature, keep, sampler) for request in requests]

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """(n, d) float32 -> (n, V) float32, differentiable."""
        return latents @ self._text_head

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """(n, 2, d) float32 -> (n, V) float32, guided: u + w (c - u); differentiable."""
        conditional, unconditional = (latents @ self._image_head).unbind(1)
        return unconditional + guidance * (conditional - unconditional)

    def answer(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """How bright each picture is, whatever is asked."""
        return [brightness(picture) for picture, _ in zip(pictures, questions, strict=True)]

    def reply(self, pictures: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """A verdict in the self-reward's JSON: right where a picture is bright and not all of one grey."""
        said: list[str] = []
        for picture, _ in zip(pictures, questions, strict=True):
            right = brightness(picture) > 0.5 and len(set(picture.convert("L").tobytes())) > 1
            said.append(f'{{"Thought": "greys", "Score": {0 if right else -1}, "Reason": "{"" if right else "dull"}"}}')
        return said

    def _reason(
        self,
        words: str,
        prefix: Sequence[int],
        added: torch.Tensor,
        stream: torch.Generator | None,
        temperature: float,
    ) -> TextOutput:
        state, hidden, written = self._read(words), [torch.empty(0, self.capabilities.width)], list[int]()
        while len(written) < self.max_reasoning_tokens and _END not in written:
            if len(written) < len(prefix):
                written.append(prefix[len(written)])
            else:
                place = len(written)
                logits = self.text_logits(state + added[place] if place < len(added) else state)
                written.append(int(logits.argmax() if stream is None else sample(logits, [stream], temperature)))
            hidden.append(state)
            state = self._follow(state, self._text_tokens[written[-1]])
        tokens = tuple(token for token in written if token != _END)
        return TextOutput(Reasoning(" ".join(_WORDS[i] for i in tokens), tokens), tuple(written), torch.cat(hidden))

    def _draw(self, request: ImageRequest, guidance: float, temperature: float, keep: int, sampler: str) -> ImageOutput:
        words = request.row.task.prompt + (f". {request.reasoning.text}" if request.reasoning else "")
        pair = torch.stack([self._read(words), self._read("")], dim=1)  # (1, 2, d)
        prefix = self._image_head[:0] if request.prefix is None else request.prefix  # (n, V)
        kept, tokens, stream = [pair[:0]], list[int](), request.stream.clone_state()
        while len(tokens) < (request.until or self.capabilities.image_tokens):
            place = len(tokens)
            given = request.tokens[place] if place < len(request.tokens) else None
            logits = prefix[place][None] if place < len(prefix) else self.image_logits(pair, guidance)  # (1, V)
            tokens.append(int(sample(logits, [stream], temperature, sampler)) if given is None else given)
            kept += [pair] if place < keep else []
            pair = self._follow(pair, self._image_tokens[tokens[-1]])
        hidden = torch.cat(kept) if request.prefix is None and not request.tokens else None
        return ImageOutput(
            ImageSample(tuple(tokens), _picture(fill_rest(tokens, self.capabilities.image_tokens))), hidden
        )

    def _read(self, words: str) -> torch.Tensor:
        """The state behind words, any words; (1, d)."""
        state = self._matrix("begin", 1, self.capabilities.width)
        for word in words.split():
            state = self._follow(state, self._matrix(f"word {word}", 1, self.capabilities.width))
        return state

    def _follow(self, state: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        return torch.tanh(state @ self._turn + token)

    def _matrix(self, name: str, rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=open_stream(self.seed, name, 0, 0, "weights"))


def read_tokens(picture: Image.Image) -> tuple[int, ...]:
    """The image tokens that a picture of `FakeModel` shows."""
    squares = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    return tuple(grey // _GREY for grey in squares.tobytes())


def _picture(tokens: Sequence[int]) -> Image.Image:
    squares = Image.frombytes("L", (_SIDE, _SIDE), bytes(token * _GREY for token in tokens))
    return squares.resize((_SIDE * _CELL, _SIDE * _CELL), Image.Resampling.NEAREST).convert("RGB")


def brightness(picture: Image.Image, task: Task | None = None) -> float:
    """The mean of all channels, in [0, 1]: a value that depends on the picture alone."""
    pixels = picture.convert("RGB").tobytes()
    return sum(pixels) / (255 * len(pixels))


class FakeReward:
    """A reward made of any function of a picture and its task."""

    def __init__(
        self,
        value: Callable[[Image.Image, Task], float] = brightness,
        *,
        stop_at: float = 0.9,
        name: str = "fake@1",
        unscored_calls: Collection[int] = (),
    ) -> None:
        """Score with `value`; what it gives outside [0, 1], NaN among it, becomes `Unscored`.

        In the calls of `unscored_calls`, counted from 0, nothing can be scored.
        """
        self.value = value
        self.stop_at = stop_at
        self.name = name
        self.unscored_calls = unscored_calls
        self.calls = 0
        """How often it was asked."""

    def __call__(self, pictures: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """One score a picture, in order."""
        down = self.calls in self.unscored_calls
        self.calls += 1
        return [
            fake_score(math.nan if down else self.value(picture, task), stop_at=self.stop_at, name=self.name)
            for picture, task in zip(pictures, tasks, strict=True)
        ]


def fake_score(value: float, *, stop_at: float = 0.9, name: str = "fake@1") -> Score | Unscored:
    """A score of that value, or `Unscored` where it is none, as NaN is."""
    if 0.0 <= value <= 1.0:
        return Score(value=value, reward=name, stop_at=stop_at, explanation=f"the fake said {value}")
    return Unscored(reason=f"the fake said {value}", reward=name)


def fake_drawing(*keys: object, size: int = 16, tokens: int = 4) -> ImageSample:
    """A drawing that depends on the keys alone: a plain colour and a few tokens."""
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return ImageSample(tuple(digest[3 : 3 + tokens]), Image.new("RGB", (size, size), (digest[0], digest[1], digest[2])))


def fake_records(
    tasks: Sequence[Task],
    values: Sequence[Sequence[float]],
    *,
    stop_at: float = 0.9,
    drawings_per_step: int = 1,
    size: int = 16,
) -> Iterator[StepRecord]:
    """The records that a search would give, had its pictures scored as told.

    Args:
        tasks: All searched at once: the records of one step come one after another.
        values: For each task, each step's value; NaN for a picture that could not be scored. A task ends with its
            values, or with the first one above `stop_at`.
        stop_at: Of every score.
        drawings_per_step: All drawings of a step score the same.
        size: Of the pictures, in pixels.
    """
    best: dict[int, tuple[int, ImageSample, Score | Unscored]] = {}
    done: set[int] = set()
    for step in range(max(map(len, values))):
        for index, task in enumerate(tasks):
            if index in done:
                continue
            score = fake_score(values[index][step], stop_at=stop_at)
            drawings = tuple(fake_drawing(task.key, step, number, size=size) for number in range(drawings_per_step))
            if index not in best or _value(score) > _value(best[index][2]):
                best[index] = step, drawings[0], score
            best_step, best_drawing, best_score = best[index]
            met = _value(score) > stop_at
            last = met or step + 1 == len(values[index])
            if last:
                done.add(index)
            yield StepRecord(
                task=task,
                index=index,
                step=step,
                moved=("text", "image") if step else (),
                reasoning=Reasoning(f"thoughts of step {step}", (1, 2, 3)),
                drawings=drawings,
                scores=(score,) * drawings_per_step,
                best=best_drawing,
                best_score=best_score,
                best_step=best_step,
                text_latents=2,
                image_latents=1,
                flipped_text=min(step, 2),
                flipped_image=min(step, 1),
                text_shift=0.1 * step,
                image_shift=0.2 * step,
                log_probability=-1.5 if step else None,
                drawings_spent=(step + 1) * drawings_per_step,
                tokens_spent=(step + 1) * 7,
                reward_calls=(step + 1) * drawings_per_step,
                seconds=0.5 * (step + 1),
                finished=("met" if met else "out of steps") if last else None,
            )


def _value(score: Score | Unscored) -> float:
    return -math.inf if isinstance(score, Unscored) else score.value
