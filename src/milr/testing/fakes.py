"""Fakes that need no weights, for tests of this package and of plug-ins."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image

from milr.decode.partial import fill_rest
from milr.decode.sampling import SAMPLE, keep_most_probable, open_stream, sample
from milr.models.base import Capabilities, ImageOutput, ImageRequest, TaskState, TextOutput, TextRequest
from milr.models.optional import OnRows
from milr.settings import SamplingParams, Settings, make_settings
from milr.types import ImageSample, LatentTrace, Reasoning, Score, StepRecord, Task, Unscored

_END = 0  # of a text
_WORDS = ("<end>", "a", "red", "blue", "big", "small", "cat", "dog", "tree", "above", "below", "and")
_SIDE, _CELL = 5, 4  # tokens per side of a fake image, pixels per side of a token
_GREY = 17  # between the greys of two tokens: 16 of them span 0 to 255


class FakeModel:
    """A whole model without weights. Implements `milr.models.base.Model`.

    Its decoder is one recurrent state, its matrices are fixed random numbers: next state = tanh(state W + token). The
    prompt's words make the first state, so every text token depends on all before it, and an image on the words of its
    reasoning. An image is 5 x 5 grey squares, one per token: a reward can read the tokens back by `read_tokens`.
    Requests never share a computation, so a batch equals its singles to the bit.
    """

    name = "fake"
    folder = Path()
    capabilities = Capabilities(image_size=_SIDE * _CELL, image_tokens=_SIDE**2, width=8, latents="both")
    defaults: Mapping[str, object] = {"learning_rate": 0.2, "guidance": 2.0}
    reads_free_prompts = True

    def __init__(self, seed: int = 0, *, max_reasoning_tokens: int = 12, text_temperature: float = 0.0) -> None:
        """Make a model; models of different seeds differ."""
        self.seed = seed
        self.text_temperature = text_temperature
        self.deterministic = False
        self.max_reasoning_tokens = max_reasoning_tokens
        width, image_words = self.capabilities.width, 255 // _GREY + 1
        self._turn = _make_turn(seed, width)
        self._text_tokens = self._matrix("text tokens", len(_WORDS), width) / 2
        self._image_tokens = self._matrix("image tokens", image_words, width) / 2
        self._text_head = self._matrix("text head", width, len(_WORDS))
        self._image_head = self._matrix("image head", width, image_words) / 2
        self.reasoned: list[Task] = []
        """The task of every text request, in order."""
        self.drawn: list[ImageRequest] = []
        """Every image request, in order."""
        self.on_rows: OnRows | None = None
        """See `milr.models.optional.Watchable`."""

    def settings(self, method: str = "milr", **changes: object) -> Settings:
        """Return a method's settings: the model's defaults with these changes."""
        return make_settings(method, changes, self.defaults)

    def start(self, tasks: Sequence[Task]) -> list[TaskState]:
        """Return one state per task; this model stores nothing in it."""
        return [TaskState(task) for task in tasks]

    @torch.inference_mode()
    def reason(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Write each requested reasoning text after its prefix; a critique's words change it."""
        self.reasoned += [request.state.task for request in requests]
        return [self._reason(request) for request in requests]

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """Return the characters of each token: a word, after a space for all but the first."""
        return [f"{' ' if place else ''}{_WORDS[token]}" for place, token in enumerate(tokens)]

    @torch.inference_mode()
    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        """Draw each requested image."""
        self.drawn += requests
        return [self._draw(request, sampling) for request in requests]

    def text_logits(self, latents: torch.Tensor) -> torch.Tensor:
        """Map (n, d) float32 to (n, V) float32 logits; differentiable."""
        return latents @ self._text_head

    def image_logits(self, latents: torch.Tensor, guidance: float) -> torch.Tensor:
        """Map (n, 2, d) float32 to (n, V) float32 guided logits u + w (c - u); differentiable."""
        conditional, unconditional = (latents @ self._image_head).unbind(1)
        return unconditional + guidance * (conditional - unconditional)

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Return each image's brightness, for any question."""
        return [brightness(image) for image, _ in zip(images, questions, strict=True)]

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Return a verdict in the self-reward's JSON: correct if the image is bright and has several greys."""
        found: list[str] = []
        for image, _ in zip(images, questions, strict=True):
            right = brightness(image) > 0.5 and len(set(image.convert("L").tobytes())) > 1
            found.append(
                f'{{"Thought": "greys", "Score": {0 if right else -1}, "Reason": "{"" if right else "dull"}"}}'
            )
        return found

    def _reason(self, request: TextRequest) -> TextOutput:
        state = self._read(f"{request.state.task.prompt} {request.critique}")
        added = state[:0] if request.offsets is None else request.offsets
        stream, temperature = request.stream and request.stream.clone_state(), self.text_temperature or 1.0
        hidden, written = [state[:0]], list[int]()
        while len(written) < self.max_reasoning_tokens and _END not in written:
            place = len(written)
            if place < len(request.prefix):
                written.append(request.prefix[place])
            else:
                logits = self.text_logits(state + added[place] if place < len(added) else state)
                written.append(int(logits.argmax() if stream is None else sample(logits, [stream], temperature)))
            hidden.append(state)
            state = self._follow(state, self._text_tokens[written[-1]])
        tokens = tuple(token for token in written if token != _END)
        return TextOutput(Reasoning(" ".join(_WORDS[i] for i in tokens), tokens), tuple(written), torch.cat(hidden))

    def _draw(self, request: ImageRequest, sampling: SamplingParams) -> ImageOutput:
        words = request.state.task.prompt + (f". {request.reasoning.text}" if request.reasoning else "")
        pair = torch.stack([self._read(words), self._read("")], dim=1)  # (1, 2, d)
        prefix = self._image_head[:0] if request.prefix is None else request.prefix  # (n, V)
        added = pair[:0] if request.offsets is None else request.offsets  # (n, 2, d)
        how, total = SAMPLE[sampling.sampler], request.until or self.capabilities.image_tokens
        numbers = how.numbers(request.stream.clone_state(), total, self._image_head.shape[1])  # taken in any case
        states, tokens = [pair[:0]], list[int]()
        for place in range(total):
            given = request.tokens[place] if place < len(request.tokens) else None
            own = pair + added[place] if place < len(added) else pair
            logits = prefix[place][None] if place < len(prefix) else self.image_logits(own, sampling.guidance)
            if given is None:
                likely = keep_most_probable(logits, sampling.top_k)
                probabilities = torch.softmax(likely / sampling.temperature, dim=-1)
                given = int(how.choose(probabilities, numbers[place : place + 1]))
            tokens.append(given)
            if self.on_rows is not None and not len(tokens) % _SIDE and len(tokens) < total:
                self.on_rows([request], lambda: [list(tokens)])
            states += [pair] if place < request.keep_hidden else []
            pair = self._follow(pair, self._image_tokens[tokens[-1]])
        hidden = torch.cat(states) if request.prefix is None and not request.tokens else None
        image = _to_image(fill_rest(tokens, self.capabilities.image_tokens))
        return ImageOutput(ImageSample(tuple(tokens), image), hidden)

    def count_tokens(self, prompt: str) -> int:
        """Return the number of words of a prompt, and one more for its end."""
        return len(prompt.split()) + 1

    def show_tokens(self, tokens: Sequence[int]) -> Image.Image:
        """Decode the first tokens of an image; a flat rest follows them."""
        return _to_image(fill_rest(tokens, self.capabilities.image_tokens))

    def _read(self, words: str) -> torch.Tensor:
        """Return the state after the given words, (1, d)."""
        return _read_words(self.seed, self.capabilities.width, words)

    def _follow(self, state: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        return _step(state, self._turn, token)

    def _matrix(self, name: str, rows: int, columns: int) -> torch.Tensor:
        return _make_matrix(self.seed, name, rows, columns)


@lru_cache(maxsize=4096)
@torch.inference_mode(False)  # the first caller may be in any mode; the result is shared
def _make_matrix(seed: int, name: str, rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=open_stream(seed, name, 0, 0, "weights"), dtype=torch.float32)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _make_turn(seed: int, width: int) -> torch.Tensor:
    """Return W, (d, d), a rotation: early tokens still have an effect late."""
    turn = _make_matrix(seed, "turn", width, width)
    return 1.5 * torch.matrix_exp(turn - turn.T)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _read_words(seed: int, width: int, words: str) -> torch.Tensor:
    state = _make_matrix(seed, "begin", 1, width)
    for word in words.split():
        state = _step(state, _make_turn(seed, width), _make_matrix(seed, f"word {word}", 1, width))
    return state


def _step(state: torch.Tensor, turn: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return torch.tanh(state @ turn + token)


def read_tokens(image: Image.Image) -> tuple[int, ...]:
    """Return the image tokens in an image of `FakeModel`."""
    squares = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    return tuple(grey // _GREY for grey in squares.tobytes())


def _to_image(tokens: Sequence[int]) -> Image.Image:
    squares = Image.frombytes("L", (_SIDE, _SIDE), bytes(token * _GREY for token in tokens))
    return squares.resize((_SIDE * _CELL, _SIDE * _CELL), Image.Resampling.NEAREST).convert("RGB")


def brightness(image: Image.Image, task: Task | None = None) -> float:
    """Return the mean of all channels, in [0, 1], which depends on the image alone."""
    pixels = image.convert("RGB").tobytes()
    return sum(pixels) / (255 * len(pixels))


class FakeReward:
    """A reward made of any function of an image and its task."""

    def __init__(
        self,
        value: Callable[[Image.Image, Task], float] = brightness,
        *,
        stop_at: float = 0.9,
        name: str = "fake@1",
        unscored_calls: Collection[int] = (),
    ) -> None:
        """Score with `value`; a value outside [0, 1], such as NaN, becomes `Unscored`.

        In the calls of `unscored_calls`, counted from 0, everything is `Unscored`.
        """
        self.value = value
        self.stop_at = stop_at
        self.name = name
        self.unscored_calls = unscored_calls
        self.calls = 0
        """Number of calls so far."""

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        down = self.calls in self.unscored_calls
        self.calls += 1
        return [
            fake_score(math.nan if down else self.value(image, task), stop_at=self.stop_at, name=self.name)
            for image, task in zip(images, tasks, strict=True)
        ]


def fake_score(value: float, *, stop_at: float = 0.9, name: str = "fake@1") -> Score | Unscored:
    """Return a score of that value, or `Unscored` if it is not in [0, 1], such as NaN."""
    if 0.0 <= value <= 1.0:
        return Score(value=value, reward=name, stop_at=stop_at, explanation=f"the fake said {value}")
    return Unscored(reason=f"the fake said {value}", reward=name)


def fake_sample(*keys: object, size: int = 16, tokens: int = 4) -> ImageSample:
    """Return an image sample that depends on the keys alone: a plain colour and a few tokens."""
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
    """Yield the records of a search whose images have the given scores.

    Args:
        tasks: All in progress at once: the records of one step come one after another.
        values: For each task, the value of each step; NaN for an image that could not be scored. A task ends with its
            values, or with the first one above `stop_at`.
        stop_at: The stop value of every score.
        drawings_per_step: Images per step; all have the same score.
        size: Pixels per side of an image.
    """
    best: dict[int, tuple[int, ImageSample, Score | Unscored]] = {}
    done: set[int] = set()
    for step in range(max(map(len, values))):
        for index, task in enumerate(tasks):
            if index in done:
                continue
            score = fake_score(values[index][step], stop_at=stop_at)
            images = tuple(fake_sample(task.key, step, number, size=size) for number in range(drawings_per_step))
            if index not in best or _value(score) > _value(best[index][2]):
                best[index] = step, images[0], score
            best_step, best_image, best_score = best[index]
            met = _value(score) > stop_at
            last = met or step + 1 == len(values[index])
            if last:
                done.add(index)
            yield StepRecord(
                task=task,
                index=index,
                step=step,
                reasoning=Reasoning(f"reasoning of step {step}", (1, 2, 3)),
                images=images,
                scores=(score,) * drawings_per_step,
                best=best_image,
                best_score=best_score,
                best_step=best_step,
                drawings_spent=(step + 1) * drawings_per_step,
                tokens_spent=(step + 1) * 7,
                reward_calls=(step + 1) * drawings_per_step,
                seconds=0.5 * (step + 1),
                cost=0.0,
                finished=("met" if met else "out of steps") if last else None,
                trace=LatentTrace(
                    moved=("text", "image") if step else (),
                    text_latents=2,
                    image_latents=1,
                    flipped_text=min(step, 2),
                    flipped_image=min(step, 1),
                    text_shift=0.1 * step,
                    image_shift=0.2 * step,
                    log_probability=-1.5 if step else None,
                ),
            )


def _value(score: Score | Unscored) -> float:
    return -math.inf if isinstance(score, Unscored) else score.value
