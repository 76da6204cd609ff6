"""A VLM judge on this machine: an OpenAI-compatible server that answers from a reward of this package.

It reads the questions of milr's own VLM protocols, scores the image by its reward (`self`: what the embedded model
sees) and answers in the form that was asked for. Realism and beauty are beyond it: WISE gets the middle mark for both.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from milr.errors import UsageError
from milr.rewards.base import Reward
from milr.rewards.images.convert import image_hash
from milr.rewards.images.files import UnreadableImage, decode_image
from milr.rewards.vlm.gpt4o import BINARY, P_YES
from milr.rewards.vlm.reward import VlmProtocol
from milr.rewards.vlm.unified_reward import POINTWISE
from milr.rewards.vlm.wise import LEGACY, VERIFIED
from milr.tasks import tasks_from_prompts
from milr.types import Task, Unscored

MOST_BYTES = 64 * 2**20
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
    """A request that this server cannot answer; the message says why."""


class JudgeServer:
    """A server that answers as a VLM judge, from a reward: a context manager, or `serve_forever`."""

    def __init__(self, reward: Reward, *, port: int = 0, flip: float = 0.0) -> None:
        """Take a port.

        Args:
            reward: What looks at the images.
            port: 0 takes any that is free.
            flip: The share of verdicts, chosen by image and prompt, that are inverted: a judge that errs.

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
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}; give another one") from error
        self._server.daemon_threads = True
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

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One chat completion.

        Raises:
            BadRequest: No image, no question of a known protocol, or an image that the reward cannot score.
        """
        words, image = _read_request(body)
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
        if body.get("logprobs"):
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


def _read_request(body: Mapping[str, Any]) -> tuple[str, Image.Image]:
    try:
        content = body["messages"][-1]["content"]
        words = "".join(part["text"] for part in content if part["type"] == "text")
        data = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
        image = decode_image(base64.b64decode(data.partition(";base64,")[2], validate=True))
    except (KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
        raise BadRequest("give one user message with a text and an image as a data URL") from error
    except (binascii.Error, UnreadableImage) as error:
        raise BadRequest(str(error) if isinstance(error, UnreadableImage) else "the image is no base64") from error
    return words, image


def _probabilities(text: str, value: float) -> dict[str, Any]:
    yes = min(1 - _LEAST, max(_LEAST, value))
    top = [{"token": word, "logprob": math.log(p), "bytes": None} for word, p in (("yes", yes), ("no", 1 - yes))]
    chosen = next((entry for entry in top if entry["token"] == text), {"token": text, "logprob": 0.0, "bytes": None})
    return {**chosen, "top_logprobs": top}


def _handler(server: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.rstrip("/") != "/v1/models":
                return self._send(404, {"error": {"message": "there are /v1/models and /v1/chat/completions"}})
            self._send(200, {"object": "list", "data": [{"id": server.name, "object": "model", "owned_by": "milr"}]})

        def do_POST(self) -> None:
            if self.path.rstrip("/") != "/v1/chat/completions":
                return self._send(404, {"error": {"message": "there are /v1/models and /v1/chat/completions"}})
            try:
                length = int(self.headers.get("Content-Length") or 0)
                if not 0 < length <= MOST_BYTES:
                    raise BadRequest(f"a request of {length} bytes is empty or too long")
                body = json.loads(self.rfile.read(length))
                if not isinstance(body, dict):
                    raise BadRequest("the request is no JSON object")
                self._send(200, server.answer(body))  # pyright: ignore[reportUnknownArgumentType]
            except (BadRequest, ValueError, RecursionError) as error:
                self._send(400, {"error": {"message": str(error), "type": "invalid_request_error"}})

        def _send(self, status: int, answer: Mapping[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: requests hold images."""

    return Handler
