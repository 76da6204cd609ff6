"""`POST /v1/chat/completions`: a VLM judge on this machine, which answers from a reward of this package.

It reads the questions of milr's own VLM protocols, scores the image by its reward (`self`: what the embedded model
sees) and answers in the requested form. Realism and beauty are beyond it: WISE gets the middle mark for both.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from weakref import WeakValueDictionary

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from milr.errors import UsageError
from milr.rewards.base import Reward, start_scoring
from milr.rewards.images.convert import image_hash
from milr.rewards.images.files import UnreadableImage, decode_image
from milr.rewards.vlm.gpt4o import BINARY, P_YES
from milr.rewards.vlm.reward import VlmProtocol
from milr.rewards.vlm.unified_reward import POINTWISE
from milr.rewards.vlm.wise import LEGACY, VERIFIED
from milr.serve.config import Limits
from milr.serve.errors import ApiError, busy, say_error
from milr.tasks import tasks_from_prompts
from milr.types import Task, Unscored
from milr.untrusted import one_line

log = logging.getLogger("milr.serve")
_LEAST = 1e-6  # probabilities have logarithms


def _either(yes: str, no: str) -> Callable[[float], str]:
    return lambda value: yes if value > 0.5 else no


def _say_wise(value: float) -> str:
    return f"Consistency: {round(2 * value)}\nRealism: 1\nAesthetic Quality: 1"


def _say_unified(value: float) -> str:
    return f"Final Score: {1 + 4 * value:.2f}"


ANSWERS: Mapping[str, tuple[VlmProtocol, Callable[[float], str]]] = {
    BINARY.name: (BINARY, _either("0", "-1")),
    P_YES.name: (P_YES, _either("yes", "no")),
    POINTWISE.name: (POINTWISE, _say_unified),
    LEGACY.name: (LEGACY, _say_wise),
    VERIFIED.name: (VERIFIED, _either("Score: 1", "Score: 0")),
}
"""Protocol and how a value in [0, 1] is said in it."""


class BadRequest(ValueError):
    """A question that cannot be answered; the message says why."""


class Judge:
    """A judge that answers questions by a reward, one after another; clients are served in turn."""

    def __init__(self, reward: Reward, *, flip: float = 0.0) -> None:
        """Take a reward.

        Args:
            reward: The reward that scores images.
            flip: The share of verdicts, chosen by image and prompt, that are inverted: a judge that errs.

        Raises:
            UsageError: The share is not a number in [0, 1].
        """
        check_flip(flip)
        self.reward = reward
        self.flip = flip
        self.name = f"milr:{reward.name}" + (f":flip-{flip:g}" if flip else "")
        self._open: Counter[str] = Counter()  # client -> questions that wait or are answered
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._free = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "milr-judge")  # one model, one question at a time

    def close(self) -> None:
        """Begin with no other question."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def ask(self, question: ChatRequest, client: str, limits: Limits) -> dict[str, Any]:
        """Return a chat completion.

        Args:
            question: What was sent.
            client: Whose turn it takes.
            limits: How many questions may wait, and how long.

        Raises:
            ApiError: Another model is asked for, too many questions wait, no answer in time, no question of a known
                protocol, or an image that the reward cannot score.
        """
        if question.model not in (None, self.name):  # a client records who judged by the name that it asks for
            asked = one_line(repr(question.model), 80)
            said = f"no model {asked} is here: this judge is {self.name}; of milr, type --vlm-model {self.name}"
            raise ApiError(404, "model_not_found", said)
        if self._open.total() >= limits.questions or self._open[client] >= limits.client_questions:
            raise busy(f"{self._open.total()} questions wait, {self._open[client]} of yours", 1)
        self._open[client] += 1
        try:
            async with asyncio.timeout(limits.seconds):
                async with self._turns.setdefault(client, asyncio.Lock()), self._free:
                    return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question)
        except TimeoutError:
            raise ApiError(504, "timeout", "the question was not answered in time", retry_after=5) from None
        except BadRequest as error:
            raise ApiError(400, "not_judged", one_line(str(error))) from None
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def answer(self, question: ChatRequest) -> dict[str, Any]:
        """Return a chat completion, in this thread.

        Raises:
            BadRequest: No image, no question of a known protocol, or an image that the reward cannot score.
        """
        if question.stream:
            raise BadRequest("this server answers at once and streams nothing: leave stream out, or send false")
        words, image = _read_request(question)
        protocol, task = recognise(words)
        (score,) = start_scoring(self.reward, [image], [task])()
        if isinstance(score, Unscored):
            known = "this judge reads prompts such as 'two dogs and a red bench' alone"
            raise BadRequest(score.reason if task.include else f"{known}, not {task.prompt!r}: {score.reason}")
        value = 1 - score.value if self.flips(image, task) else score.value
        text = ANSWERS[protocol.name][1](value)
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
        }
        if question.logprobs:
            choice["logprobs"] = {"content": [_probabilities(text, value)]}
        usage = {"prompt_tokens": len(words) // 4, "completion_tokens": len(text.split())}
        usage["total_tokens"] = sum(usage.values())
        head = {"id": "milr", "object": "chat.completion", "created": 0, "model": self.name}
        return {**head, "choices": [choice], "usage": usage}

    def flips(self, image: Image.Image, task: Task) -> bool:
        """Return whether the verdict on this image and prompt is inverted."""
        digest = hashlib.sha256(f"{image_hash(image)}|{task.prompt}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.flip * 2**64

    def _answer(self, question: ChatRequest) -> dict[str, Any]:
        try:
            return self.answer(question)
        except BadRequest:
            raise
        except Exception as error:  # the reward's own error: the server continues
            log.exception("reward failed", extra={"facts": {"reward": self.reward.name}})
            raise ApiError(500, "judge_failed", f"the reward failed: {say_error(error)}") from None


def check_flip(flip: float) -> None:
    """Refuse a number that is not a share.

    Raises:
        UsageError: It is outside [0, 1].
    """
    if not 0 <= flip <= 1:
        raise UsageError(f"--flip {flip}: give a share from 0 to 1")


def recognise(words: str) -> tuple[VlmProtocol, Task]:
    """Return the protocol of a question, and its prompt.

    Raises:
        BadRequest: No protocol of `ANSWERS` has these words, or the prompt is invalid.
    """
    absent: list[str] = []
    for wordless, _ in ANSWERS.values():
        try:
            protocol = wordless.with_words()
        except UsageError as error:
            absent.append(f"; {wordless.name} is not among them here: {error}")
            continue
        prompt = find_prompt(protocol.user, words)
        if prompt is not None:
            try:
                (task,) = tasks_from_prompts([prompt], free=True)
            except UsageError as error:
                raise BadRequest(str(error)) from error
            return protocol, task
    raise BadRequest(f"this server reads the questions of {', '.join(ANSWERS)} alone{''.join(absent)}")


def find_prompt(user: str, words: str) -> str | None:
    """Return the text at {prompt} in a protocol's words, in linear time; None if these are others."""
    before, _, rest = user.partition("{prompt}")
    between, slot, after = rest.partition("{explanation}")
    if not slot:
        between, after = "", between
    inside = words[len(before) : len(words) - len(after)]
    if len(words) < len(before) + len(after) or not (words.startswith(before) and words.endswith(after)):
        return None
    end = inside.rfind(between) if slot else len(inside)
    return inside[:end] if end >= 0 else None


class _Url(BaseModel):
    url: str


class _Part(BaseModel):
    type: Literal["text", "image_url"]
    text: str = Field(default="", max_length=2**17)
    image_url: _Url | None = None


class _Message(BaseModel):
    content: str | list[_Part] = Field(max_length=2**17)


class ChatRequest(BaseModel):
    """Fields that are read of a chat request; others are for other models."""

    model_config = ConfigDict(strict=True)

    messages: list[_Message] = Field(min_length=1, max_length=64)
    model: str | None = None
    logprobs: bool = False
    stream: bool | None = None


def _read_request(request: ChatRequest) -> tuple[str, Image.Image]:
    content = request.messages[-1].content
    parts = content if isinstance(content, list) else []
    words = "".join(part.text for part in parts if part.type == "text")
    images = [part.image_url.url for part in parts if part.image_url is not None]
    if not images:
        raise BadRequest("give one user message with a text and an image as a data URL")
    try:
        return words, decode_image(base64.b64decode(images[0].partition(";base64,")[2], validate=True))
    except UnreadableImage as error:
        raise BadRequest(str(error)) from None
    except ValueError:
        raise BadRequest("the image is no base64") from None


def _probabilities(text: str, value: float) -> dict[str, Any]:
    yes = min(1 - _LEAST, max(_LEAST, value))
    top = [{"token": word, "logprob": math.log(p), "bytes": None} for word, p in (("yes", yes), ("no", 1 - yes))]
    chosen = next((entry for entry in top if entry["token"] == text), {"token": text, "logprob": 0.0, "bytes": None})
    return {**chosen, "top_logprobs": top}
