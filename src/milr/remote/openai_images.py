"""Images of a service with OpenAI's images API: `openai:MODEL`, with options after commas.

Requests go through the client of VLM judges, with its retries, its limits and its care for keys. Source of the API:
openai 3.57, `images.generate`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from milr.errors import UsageError, unknown_name
from milr.models.arguments import read_arguments, read_size, write_size
from milr.models.base import Capabilities, Description, ImageOutput, ImageRequest
from milr.models.prompt_only import PromptOnly
from milr.rewards.images.files import UnreadableImage, decode_image
from milr.rewards.vlm.client import Failure, VlmClient
from milr.rewards.vlm.settings import VlmSettings, check_url
from milr.settings import SamplingParams
from milr.types import ImageSample
from milr.untrusted import one_line

FAMILY = "openai"
RETIRED: Mapping[str, str] = {
    "dall-e-2": "12 May 2026",
    "dall-e-3": "12 May 2026",
    "gpt-image-1": "23 October 2026",
}
"""Models that OpenAI has switched off -> the day. The paper's rows of DALL-E 3 and GPT-4o cannot be drawn again."""
PRICES: Mapping[tuple[str, str], float] = {
    ("gpt-image-2", "low"): 0.006,
    ("gpt-image-2", "medium"): 0.053,
    ("gpt-image-2", "high"): 0.211,
}
"""OpenAI's model and quality -> US dollars of an image of 1024 x 1024, as users reported them in 2026: an estimate."""
QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max")
_OPTIONS = ("url", "size", "quality", "price", "seeds")
_PROMPT_CHARACTERS = 32_000
_STEP, _MOST_SIDE, _MOST_RATIO = 16, 3840, 3
"""Sides in pixels, and the most that one may be longer than the other."""
_MOST_BYTES = 128 * 2**20
"""Longest answer: a PNG of the largest size in base64, of pure noise, has 59 MB."""


@dataclass(frozen=True)
class Service:
    """A name with its options: ``MODEL,url=http://host/v1,size=1024,quality=low,price=0.05,seeds=yes``."""

    model: str
    """The model's name at the service."""
    url: str | None = None
    """The server, up to and with /v1; None is OpenAI's."""
    size: tuple[int, int] = (1024, 1024)
    """Pixels of an image's width and height."""
    quality: str | None = None
    """One of `QUALITIES`; None leaves it to the service."""
    price: float | None = None
    """US dollars per image; None takes `PRICES` for OpenAI's models, and 0 for all others."""
    seeds: bool = False
    """Send the seed of each image, which OpenAI's service does not know: equal requests then give equal images."""

    @classmethod
    def read(cls, argument: str | None) -> Service:
        """Read what follows ``openai:``.

        Raises:
            UsageError: No model, one that is switched off, an unknown option, or a value that is not allowed.
        """
        nameless = "openai: names no model: type for instance openai:gpt-image-2,quality=low"
        model, given = read_arguments("openai", argument, _OPTIONS, nameless=nameless)
        url, quality, seeds = given.get("url"), given.get("quality"), given.get("seeds", "no")
        if url is not None:
            check_url(url, "the url of openai:")
        elif model in RETIRED:
            raise UsageError(
                f"OpenAI switched {model} off on {RETIRED[model]}: quote its rows, score stored images with milr "
                "score-folder, or choose another, such as gpt-image-2"
            )
        if quality is not None and quality not in QUALITIES:
            raise unknown_name("quality", quality, QUALITIES)
        if seeds not in ("yes", "no") or (seeds == "yes" and url is None):
            raise UsageError(f"seeds={seeds}: give yes or no, and yes only with a url: OpenAI's service takes no seeds")
        size = read_size(given.get("size", "1024"))
        if (
            size is None
            or any(side % _STEP or not _STEP <= side <= _MOST_SIDE for side in size)
            or max(size) > _MOST_RATIO * min(size)
        ):
            raise UsageError(
                f"size={given['size']}: give multiples of {_STEP} up to {_MOST_SIDE} pixels, no side more than "
                f"{_MOST_RATIO} times the other, such as size=1024 or size=1536x1024"
            )
        price = given.get("price")
        if price is not None and not _is_price(price):
            raise UsageError(f"price={price}: give US dollars per image, such as price=0.05")
        return cls(model, url, size, quality, None if price is None else float(price), seeds == "yes")

    @property
    def dollars(self) -> float:
        """Return the estimated US dollars per image; 0 if it is not known."""
        if self.price is not None:
            return self.price
        usual = PRICES.get((self.model, self.quality or ""), 0.0) if self.url is None else 0.0
        return usual * self.size[0] * self.size[1] / 1024**2

    @property
    def capabilities(self) -> Capabilities:
        """Return what the service is known to do."""
        return Capabilities(
            image_size=self.size[0],
            image_height=None if self.size[0] == self.size[1] else self.size[1],
            image_tokens=0,
            width=0,
            latents="none",
            reads_images=False,
            writes_text=False,
            branches=1,
            prompt_limit=_PROMPT_CHARACTERS,
            prompt_unit="characters",
            image_cost=self.dollars,
            repeatable=self.seeds,
            family=FAMILY,
            licence="the service's terms",
            verification="against milr serve and a strict local imitation over HTTP; no paid service was asked",
        )

    def write_body(self, request: ImageRequest) -> dict[str, object]:
        """Return the request of one image."""
        body: dict[str, object] = {
            "model": self.model,
            "prompt": request.state.task.prompt,
            "n": 1,
            "size": "x".join(map(str, self.size)),
        }
        if self.quality is not None:
            body["quality"] = self.quality
        if self.url is not None:
            body["response_format"] = "b64_json"  # OpenAI's own models send nothing else, and refuse the field
        if self.seeds:
            body["seed"] = request.stream.initial_seed()
        return body


class OpenAIImages(PromptOnly):
    """A service that draws. Implements `milr.models.base.Model`; a refused prompt gives an image with a fault."""

    def __init__(self, argument: str | None, *, client: VlmClient | None = None) -> None:
        """Check the options; nothing is asked before the first image.

        Args:
            argument: See `Service`.
            client: The client of the requests; None makes one.

        Raises:
            UsageError: As `Service.read`; the extra is not installed, or OpenAI's key is missing.
        """
        self.service = Service.read(argument)
        self.client = client or VlmClient(VlmSettings(url=self.service.url, timeout=600, most_bytes=_MOST_BYTES))
        self.client.check(f"openai:{self.service.model}", kind="model")
        self.capabilities = self.service.capabilities
        self.defaults: Mapping[str, object] = {"guidance": 1.0}
        self.folder = Path()
        self.deterministic = False
        self.name = f"openai:{argument}"

    @staticmethod
    def describe(argument: str | None, *, offline: bool = False) -> Description:
        """Describe the service of an argument; nothing is asked.

        Raises:
            UsageError: As `Service.read`.
        """
        return Description(
            capabilities=Service.read(argument).capabilities,
            defaults={"guidance": 1.0},
            profile="",
            summary="",
            size=None,
            best=OpenAIImages.best,
        )

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        """Ask for each image, several at a time; what the service refuses comes back with its reason."""
        url = f"{self.client.url}/images/generations"
        asked = [self.client.post(url, self.service.write_body(one), keyed=True) for one in requests]
        return [self._read(one.result()) for one in asked]

    def _read(self, found: dict[str, Any] | Failure) -> ImageOutput:
        if isinstance(found, Failure):
            return self._fail(found.reason, final=found.final)
        paid = self.service.dollars
        try:
            content = base64.b64decode(found["data"][0]["b64_json"], validate=True)
            image = decode_image(content).convert("RGB")
        except (KeyError, IndexError, TypeError, ValueError, binascii.Error, UnreadableImage) as error:
            said = one_line(str(error), 100) if isinstance(error, UnreadableImage) else "no data[0].b64_json"
            return self._fail(f"{self.client.host} answered no image that can be read ({said})", paid=paid)
        if image.size != self.service.size:
            given, asked = write_size(image.size), write_size(self.service.size)
            said = f"{self.client.host} drew {given} pixels in place of {asked}: give size={given}"
            return self._fail(said, paid=paid)
        return ImageOutput(ImageSample((), image), None, cost=paid)

    def _fail(self, reason: str, *, final: bool = False, paid: float = 0.0) -> ImageOutput:
        blank = Image.new("RGB", self.service.size, "white")
        return ImageOutput(ImageSample((), blank), None, fault=f"not drawn: {reason}", final=final, cost=paid)


def _is_price(text: str) -> bool:
    try:
        return 0 <= float(text) < 1e4
    except ValueError:
        return False
