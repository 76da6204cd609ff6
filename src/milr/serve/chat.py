"""`POST /v1/chat/completions`: questions about images, as VLM rewards ask them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from milr.serve.errors import ApiError
from milr.serve.judge import ChatRequest
from milr.serve.server import ClientDep, ServerDep

router = APIRouter()
PATH = "/v1/chat/completions"


@router.post(PATH, summary="Ask the judge about an image, as milr's VLM rewards do")
async def answer(asked: ChatRequest, server: ServerDep, client: ClientDep) -> dict[str, Any]:
    """Return the judge's verdict as a chat completion."""
    if server.judge is None:
        raise ApiError(404, "no_judge", "this server judges nothing: start it with --vlm-judge REWARD")
    return await server.judge.ask(asked, client.name, server.settings.limits)
