"""Routes about the server: models, settings, words, health, figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from milr.errors import MilrError
from milr.methods import METHODS
from milr.serve.asked import SERVERS_OWN, read_task
from milr.serve.errors import ApiError
from milr.serve.offers import Offer, choose_offer
from milr.serve.server import ClientDep, ServerDep
from milr.settings import METHOD_SETTINGS, STRATEGIES, json_schema, make_settings
from milr.settings.best import take_best
from milr.tasks import COLORS, COUNT_WORDS, OBJECT_NAMES, RELATIONS, explain
from milr.workers.team import MemberFacts

router = APIRouter()


class PromptRequest(BaseModel):
    """A prompt that is being typed."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None


@router.get("/v1/models", summary="The models that this server has")
async def list_models(server: ServerDep, client: ClientDep) -> dict[str, Any]:
    """Return the models, the default one first, and the judge."""
    loaded = server.desk.loads()
    data = [_describe(offer, loaded[offer.name]) for offer in server.desk.offers]
    if server.judge is not None:
        data.append({"id": server.judge.name, "object": "model", "created": 0, "owned_by": "milr"})
    return {"object": "list", "data": data}


@router.get("/v1/models/{name:path}", summary="One model")
async def read_model(name: str, server: ServerDep, client: ClientDep) -> dict[str, Any]:
    """Return one model."""
    try:
        offer = choose_offer(server.desk.offers, name)
    except MilrError as error:
        raise ApiError(404, "model_not_found", str(error), param="model") from None
    return _describe(offer, server.desk.loads()[offer.name])


@router.get("/v1/workers", summary="Who draws")
async def list_workers(server: ServerDep, client: ClientDep) -> dict[str, Any]:
    """Return how many images wait and are in progress, and each model's workers; one without any draws here."""
    waiting, running = server.desk.load()
    loaded, workers = server.desk.loads(), server.desk.workers()
    models: list[dict[str, Any]] = []
    for name, ready in loaded.items():
        replaced, all_of = workers.get(name, (0, []))
        seen = [_describe_worker(one) for one in all_of]
        models.append({"id": name, "loaded": ready, "replaced": replaced, "workers": seen})
    return {"object": "workers", "waiting": waiting, "running": running, "data": models}


@router.get("/v1/schema", summary="Methods and their settings")
async def read_schema(server: ServerDep, client: ClientDep) -> dict[str, Any]:
    """Return each method's settings as a JSON schema, each model's defaults, and presets."""
    limits = server.settings.limits
    return {
        "methods": {name: {"summary": METHODS[name].summary, "schema": _schema(name)} for name in METHOD_SETTINGS},
        "models": {
            offer.name: {
                "best": dict(offer.best),
                "free_prompts": offer.free,
                "reward": offer.reward,
                "defaults": {name: _defaults(name, {}, offer) for name in METHOD_SETTINGS},
                "best_defaults": _defaults(*take_best(None, {}, offer.best), offer),
            }
            for offer in server.desk.offers
        },
        "presets": _presets(),
        "limits": {"images": limits.images, "tasks": limits.tasks, "prompt_characters": limits.prompt_characters},
    }


@router.get("/v1/words", summary="The words that models with a grammar read")
async def read_words(client: ClientDep) -> dict[str, Any]:
    """Return objects, colours, counts and relations."""
    return {
        "objects": list(OBJECT_NAMES),
        "colors": list(COLORS),
        "counts": list(COUNT_WORDS),
        "relations": list(RELATIONS),
    }


@router.post("/v1/prompts", summary="How a prompt is read")
async def read_prompt(asked: PromptRequest, server: ServerDep, client: ClientDep) -> dict[str, Any]:
    """Return how a model reads a prompt: the meaning, or the reason for a refusal and words to write instead."""
    try:
        offer = choose_offer(server.desk.offers, asked.model)
        task = read_task(asked.prompt, offer, server.settings.limits)
    except MilrError as error:
        raise ApiError(404, "model_not_found", str(error), param="model") from None
    except ApiError as error:
        return {"read": None, "note": None, "error": error.message}
    return {"read": task.prompt, "note": explain(task), "error": None}


@router.get("/healthz", include_in_schema=False)
async def say_alive() -> dict[str, str]:
    """Return that the process answers."""
    return {"status": "alive"}


@router.get("/readyz", include_in_schema=False)
async def say_ready(server: ServerDep) -> dict[str, str]:
    """Return whether requests are accepted and the first model is loaded."""
    if not server.desk.ready:
        raise ApiError(
            503, "not_ready", "the first model is being loaded, or the server is about to end", retry_after=2
        )
    return {"status": "ready"}


@router.get("/metrics", include_in_schema=False)
async def read_metrics(server: ServerDep, client: ClientDep) -> Response:
    """Return the figures for Prometheus."""
    waiting, running = server.desk.load()
    server.metrics.waiting.set(waiting)
    server.metrics.running.set(running)
    server.metrics.note_workers(server.desk.workers())
    return Response(server.metrics.write(), media_type="text/plain; version=0.0.4")


def _describe(offer: Offer, loaded: bool) -> dict[str, Any]:
    size = offer.capabilities.image_size
    more = {"image_size": size, "free_prompts": offer.free, "reward": offer.reward, "loaded": loaded}
    return {"id": offer.name, "object": "model", "created": 0, "owned_by": "milr", "milr": more}


def _describe_worker(one: MemberFacts) -> dict[str, Any]:
    return {
        "name": one.where,
        "ready": one.ready,
        "open": one.open,
        "tasks": one.tasks,
        "images": one.images,
        "busy": round(one.busy, 3),
        "quiet_seconds": round(one.quiet, 1),
    }


def _schema(method: str) -> dict[str, Any]:
    schema = json_schema(method)
    return {**schema, "properties": {k: v for k, v in schema["properties"].items() if k not in SERVERS_OWN}}


def _defaults(method: str, given: Mapping[str, object], offer: Offer) -> dict[str, Any]:
    flat = make_settings(method, given, offer.defaults).flat
    return {name: value for name, value in flat.items() if name not in (*SERVERS_OWN, "seed")}


def _presets() -> list[dict[str, Any]]:
    """Return the methods that the paper compares, with names for people."""
    milr = [
        {"name": f"MILR, {name}: {strategy.summary}", "method": "milr", "settings": {"strategy": name}}
        for name, strategy in STRATEGIES.items()
    ]
    control = {"strategy": "joint", "gradient": "zero"}
    return [
        {"name": "the model's best measured method", "method": None, "settings": {}},
        *milr,
        {"name": "MILR's zero-gradient control", "method": "milr", "settings": control},
        {"name": "best of 21", "method": "best-of-n", "settings": {"steps": 20}},
        {"name": "PARM", "method": "parm", "settings": {}},
        {"name": "reflection", "method": "reflection", "settings": {}},
        {"name": "one drawing, after a text", "method": "text-reasoning", "settings": {}},
        {"name": "one drawing", "method": "one-shot", "settings": {}},
    ]
