"""A VLM judge on this machine: an OpenAI-compatible server that answers from a reward of this package.

It reads the questions of milr's own VLM protocols, scores the image by its reward (`self`: what the embedded model
sees) and answers in the form that was asked for. Realism and beauty are beyond it: WISE gets the middle mark for both.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from milr.errors import UsageError
from milr.rewards.base import Reward
from milr.rewards.images.convert import image_hash
from milr.rewards.images.files import UnreadableImage, decode_image
from milr.rewards.vlm.gpt4o import BINARY, P_YES
from milr.rewards.vlm.reward import VlmProtocol
from milr.rewards.vlm.unified_reward import POINTWISE
from milr.rewards.vlm.wise import LEGACY, VERIFIED
from milr.serve.judge_http import BadRequest, HttpServer
from milr.tasks import tasks_from_prompts
from milr.types import Task, Unscored
from milr.untrusted import first_fault

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


class JudgeServer:
    """A server that answers as a VLM judge, from a reward: a context manager, or `serve_forever`."""

    def __init__(self, reward: Reward, *, port: int = 0, flip: float = 0.0, key: str | None = None) -> None:
        """Take a port.

        Args:
            reward: What looks at the images.
            port: 0 takes any that is free.
            flip: The share of verdicts, chosen by image and prompt, that are inverted: a judge that errs.
            key: What requests must bring; None asks for none.

        Raises:
            UsageError: The port is taken, or the share is none.
        """
        if not 0 <= flip <= 1:
            raise UsageError(f"--flip {flip}: give a share from 0 to 1")
        self.reward = reward
        self.flip = flip
        self.name = f"milr:{reward.name}" + (f":flip-{flip:g}" if flip else "")
        self._lock = threading.Lock()  # one model, one question at a time
        try:
            self._server = HttpServer(port, lambda: self.name, self._answer, key)
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}; give another one") from error
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The value for --vlm-url."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> JudgeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self.close()

    def serve_forever(self) -> None:
        """Answer until interrupted."""
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        """Give the port back."""
        self._server.server_close()

    def _answer(self, body: bytes) -> dict[str, Any]:
        try:
            request: object = json.loads(body)
        except (ValueError, RecursionError):
            raise BadRequest("the request is no JSON") from None
        return self.answer(cast("Mapping[str, Any]", request))

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One chat completion.

        Raises:
            BadRequest: No image, no question of a known protocol, or an image that the reward cannot score.
        """
        request = _check_request(body)
        if request.stream:
            raise BadRequest("this server answers at once and streams nothing: leave stream out, or send false")
        words, image = _read_request(request)
        protocol, task = recognise(words)
        with self._lock:
            (score,) = self.reward([image], [task])
        if isinstance(score, Unscored):
            raise BadRequest(score.reason)
        value = 1 - score.value if self._flips(image, task) else score.value
        text = ANSWERS[protocol.name][1](value)
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
        }
        if request.logprobs:
            choice["logprobs"] = {"content": [_probabilities(text, value)]}
        usage = {"prompt_tokens": len(words) // 4, "completion_tokens": len(text.split())}
        usage["total_tokens"] = sum(usage.values())
        head = {"id": "milr", "object": "chat.completion", "created": 0, "model": self.name}
        return {**head, "choices": [choice], "usage": usage}

    def _flips(self, image: Image.Image, task: Task) -> bool:
        digest = hashlib.sha256(f"{image_hash(image)}|{task.prompt}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.flip * 2**64


def recognise(words: str) -> tuple[VlmProtocol, Task]:
    """Return the protocol of a question, and its prompt.

    Raises:
        BadRequest: None of `ANSWERS` has these words, or the prompt is none.
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
    """Return what stands in the place of {prompt} in a protocol's words, in linear time; None if these are others."""
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


class _Request(BaseModel):
    """Fields that are read of a chat request; others are for other models."""

    messages: list[_Message] = Field(min_length=1, max_length=64)
    logprobs: bool = False
    stream: bool | None = None


def _check_request(body: object) -> _Request:
    try:
        return _Request.model_validate(body, strict=True)
    except ValidationError as error:
        raise BadRequest(
            f"give one user message with a text and an image as a data URL ({first_fault(error)})"
        ) from None


def _read_request(request: _Request) -> tuple[str, Image.Image]:
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
