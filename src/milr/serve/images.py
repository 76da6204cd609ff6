"""`POST /v1/images/generations`, as OpenAI's SDK sends and reads it: a search with the model's best method."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from milr.serve.asked import LARGEST_SEED, SearchRequest, Value, make_order
from milr.serve.errors import ApiError, draining
from milr.serve.links import Picture
from milr.serve.offers import choose_offer
from milr.serve.pictures import FORMS, encode, read_step
from milr.serve.server import ClientDep, Server, ServerDep
from milr.serve.steps import Place
from milr.serve.store import Event
from milr.serve.streams import follow, say, stream

router = APIRouter()
QUALITIES: Mapping[str, int | None] = {
    "low": 1,
    "medium": 5,
    **dict.fromkeys(("high", "auto", "standard", "hd", "xhigh", "max")),
}
"""Quality -> most drawings; None means as many as the method makes."""
_IGNORED = ("style", "moderation", "safety_identifier", "input_fidelity")
_TICK = 1.0  # seconds between looks whether the client is still there


class ImageRequest(BaseModel):
    """The body. Fields of other servers that are unknown here have no effect, and the answer names them."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    prompt: str
    """The prompt."""
    model: str | None = None
    """A name that `/v1/models` lists; default: the first."""
    n: int | None = Field(default=None, ge=1)
    """Images; default 1."""
    size: Annotated[str, Field(pattern=r"^(auto|\d{1,5}x\d{1,5})$")] | None = None
    """The model draws one size, which the answer names; this field has no effect."""
    response_format: Literal["url", "b64_json"] | None = None
    """Default: b64_json. A url is a link of this server, which expires."""
    output_format: Literal["png", "jpeg", "webp"] | None = None
    """Default: png."""
    output_compression: int | None = Field(default=None, ge=0, le=100)
    """Quality of jpeg and webp; default 100."""
    quality: Literal["auto", "low", "medium", "high", "standard", "hd", "xhigh", "max"] | None = None
    """Test-time compute: low is 1 drawing, medium at most 5, the others the method's own number."""
    background: Literal["auto", "opaque", "transparent"] | None = None
    """Transparent is refused."""
    style: str | None = None
    """Passed over."""
    stream: bool | None = None
    """Send events: partial images, then the completed one."""
    partial_images: int | None = Field(default=None, ge=0, le=3)
    """Best images so far that a stream sends before the last, at most."""
    user: str | None = Field(default=None, max_length=256)
    """Name of the user among those of one key; users are served in turn."""
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)
    """Seed of image 0; default: a random one, named in the answer."""
    guidance_scale: float | None = Field(default=None, ge=0, le=100)
    """Weight of classifier-free guidance; default: the model's."""
    negative_prompt: str | None = None
    """Refused: the model reads no such prompt."""
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds after which the best image so far is the answer."""

    @property
    def form(self) -> str:
        """The form of the images."""
        return self.output_format or "png"

    @property
    def compression(self) -> int:
        """Quality of jpeg and webp."""
        return 100 if self.output_compression is None else self.output_compression

    @property
    def passed_over(self) -> list[str]:
        """The fields that had no effect."""
        known = [name for name in _IGNORED if name in self.model_fields_set]
        extra: list[str] = list(self.model_extra or {})
        return sorted({*known, *extra})[:50]

    def as_search(self) -> SearchRequest:
        """Return the search that draws the images.

        Raises:
            ApiError: The request needs something that no model of milr can do.
        """
        if self.negative_prompt:
            message = "negative_prompt has no meaning here: say in the prompt what the image shows"
            raise ApiError(400, "unsupported_parameter", message, param="negative_prompt")
        if self.background == "transparent":
            message = "the model draws opaque images: leave background out, or give opaque"
            raise ApiError(400, "unsupported_value", message, param="background")
        if self.stream and (self.n or 1) > 1:
            message = "a stream sends one image: leave n out, or stream"
            raise ApiError(400, "unsupported_value", message, param="n")
        if self.partial_images and not self.stream:
            message = "partial images come in a stream: set stream to true"
            raise ApiError(400, "unsupported_value", message, param="partial_images")
        settings: dict[str, Value] = {
            "seed": self.seed,
            "guidance": self.guidance_scale,
            "max_drawings": QUALITIES[self.quality or "auto"],
        }
        return SearchRequest(
            tasks=[self.prompt],
            model=self.model,
            settings={name: value for name, value in settings.items() if value is not None},
            n=self.n or 1,
            timeout=self.timeout,
            user=self.user or "",
        )


@dataclass
class Drawn:
    """The images of a search so far."""

    steps: dict[Place, list[dict[str, Any]]]
    end: dict[str, Any] | None = None

    def add(self, event: Event) -> None:
        """Take in an event."""
        if event.kind == "end":
            self.end = event.data
        elif event.kind in ("step", "image"):
            self.steps.setdefault((event.data["task"], event.data["image"]), []).append(event.data)


class Answer:
    """Makes answers and events of a search's images, as one request asks for them."""

    def __init__(self, server: Server, search: str, asked: ImageRequest, base: str, seed: int) -> None:
        """Store the fields of the answer."""
        self.server, self.search, self.asked, self.base, self.seed = server, search, asked, base, seed
        self.drawn = Drawn({})
        offer = choose_offer(server.desk.offers, asked.model)
        self.size = "x".join(map(str, offer.capabilities.dimensions))
        self.model, self.image_tokens = offer.name, offer.capabilities.image_tokens

    def finish(self) -> list[tuple[Place, list[dict[str, Any]]]]:
        """Return the images' steps.

        Raises:
            ApiError: There is no image.
        """
        if self.drawn.steps:
            return sorted(self.drawn.steps.items())
        if self.drawn.end is None:
            raise draining()
        error = self.drawn.end["error"] or "the search was cancelled"
        if error.startswith("out of time"):
            raise ApiError(504, "timeout", f"{error}: give a longer timeout, or try when less is drawn")
        raise ApiError(500, "search_failed", f"{self.search}: {error}")

    def read(self, place: Place, best: Mapping[str, Any]) -> bytes:
        """Return an image's bytes."""
        file = read_step(self.server.settings.data / self.search, *place, best["step"], best["number"])
        return encode(file, self.asked.form, self.asked.compression)

    def link(self, place: Place, best: Mapping[str, Any]) -> str:
        """Return an image's link."""
        picture = Picture(self.search, *place, best["step"], best["number"], self.asked.form, self.asked.compression)
        return f"{self.base}v1/files/{self.server.links.sign(picture)}"

    def whole(self) -> dict[str, Any]:
        """Return the answer that is not streamed."""
        data: list[dict[str, Any]] = []
        images = self.finish()
        for place, steps in images:
            best = steps[-1]["best"]
            if self.asked.response_format == "url":
                form = {"url": self.link(place, best)}
            else:
                form = {"b64_json": base64.b64encode(self.read(place, best)).decode()}
            data.append({**form, "revised_prompt": _text(steps)})
        return {
            "created": int(time.time()),
            "data": data,
            **self._form("opaque"),
            "usage": self._usage(),
            "milr": {
                "search": self.search,
                "model": self.model,
                "seed": self.seed,
                "passed_over": self.asked.passed_over,
                "images": [
                    {"reward": steps[-1]["best"]["reward"], "step": steps[-1]["best"]["step"], **_end(steps)}
                    for _, steps in images
                ],
            },
        }

    def partial(self, steps: list[dict[str, Any]], index: int) -> bytes:
        """Return the event of the best image so far."""
        kind = "image_generation.partial_image"
        picture = base64.b64encode(self.read((0, 0), steps[-1]["best"])).decode()
        content = {"type": kind, "b64_json": picture, "partial_image_index": index, **self._event()}
        return say(kind, {**content, "milr": {"search": self.search, "reward": steps[-1]["best"]["reward"]}})

    def completed(self) -> bytes:
        """Return the last event."""
        ((place, steps),) = self.finish()
        kind = "image_generation.completed"
        picture = base64.b64encode(self.read(place, steps[-1]["best"])).decode()
        content = {"type": kind, "b64_json": picture, **self._event(), "usage": self._usage()}
        more = {"search": self.search, "seed": self.seed, "reward": steps[-1]["best"]["reward"], **_end(steps)}
        return say(kind, {**content, "revised_prompt": _text(steps), "milr": more})

    def _event(self) -> dict[str, Any]:
        return {"created_at": int(time.time()), **self._form("opaque")}

    def _form(self, background: str) -> dict[str, Any]:
        known = self.asked.quality if self.asked.quality in ("low", "medium", "high", "xhigh", "max") else "high"
        return {"output_format": self.asked.form, "size": self.size, "background": background, "quality": known}

    def _usage(self) -> dict[str, Any]:
        """Return the usage: the prompt's tokens, and all sampled tokens of all drawings.

        A model that does not count its tokens has the words of the prompt.
        """
        lasts = [steps[-1] for steps in self.drawn.steps.values()]
        output = sum(last["tokens"] for last in lasts)
        image = min(output, sum(round(last["drawings"] * self.image_tokens) for last in lasts))
        counted = (
            step["input_tokens"] for steps in self.drawn.steps.values() for step in steps if "input_tokens" in step
        )
        words = next(counted, len(self.asked.prompt.split()))
        return {
            "input_tokens": words,
            "input_tokens_details": {"text_tokens": words, "image_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"text_tokens": output - image, "image_tokens": image},
            "total_tokens": words + output,
        }


@router.post("/v1/images/generations", summary="Draw images, as OpenAI's API does", response_model=None)
async def generate(
    asked: ImageRequest, request: Request, server: ServerDep, client: ClientDep
) -> Response | dict[str, Any]:
    """Draw images; with `stream`, send the best so far as events."""
    order = make_order(asked.as_search(), server.desk.offers, server.settings.limits)
    search = await run_in_threadpool(server.desk.submit, order, client.owner, client.name)
    answer = Answer(server, search, asked, str(request.base_url), order.settings.run.seed)
    if asked.stream:
        return stream(server, _send(answer), {"X-Milr-Search": search})
    try:
        async for event in follow(server, search, tick=_TICK):
            if event is not None:
                answer.drawn.add(event)
            if await request.is_disconnected():
                raise asyncio.CancelledError
    except asyncio.CancelledError:
        await asyncio.shield(run_in_threadpool(server.desk.stop, search))
        return Response(status_code=499)  # no client reads it
    return await run_in_threadpool(answer.whole)


async def _send(answer: Answer) -> AsyncIterator[bytes]:
    """Yield a stream's events; a client that leaves ends its search."""
    server, sent, shown = answer.server, 0, None
    try:
        async for event in follow(server, answer.search):
            if event is None:
                yield b": still here\n\n"
                continue
            answer.drawn.add(event)
            if event.kind != "step" or sent >= (answer.asked.partial_images or 0):
                continue
            steps = answer.drawn.steps[0, 0]
            best = steps[-1]["best"]["step"], steps[-1]["best"]["number"]
            if best != shown:
                yield await run_in_threadpool(answer.partial, steps, sent)
                sent, shown = sent + 1, best
        yield await run_in_threadpool(answer.completed)
    finally:
        if answer.drawn.end is None and not server.desk.draining:
            server.desk.stop(answer.search)


@router.get("/v1/files/{link}", summary="An image by its link", response_model=None)
async def read_file(link: Annotated[str, Field(max_length=1000)], server: ServerDep) -> Response:
    """Return an image; the link is its own permission, and expires."""
    picture = server.links.read(link)
    file = read_step(server.settings.data / picture.search, picture.task, picture.image, picture.step, picture.number)
    content = await run_in_threadpool(encode, file, picture.form, picture.quality)
    return Response(content, media_type=FORMS[picture.form], headers={"Cache-Control": "private, max-age=3600"})


def _text(steps: list[dict[str, Any]]) -> str | None:
    """Return the reasoning that the best image follows."""
    best = steps[-1]["best"]["step"]
    return next((step["text"] for step in steps if step["step"] == best), None) or None


def _end(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"finished": steps[-1]["finished"], "drawings": steps[-1]["drawings"]}
