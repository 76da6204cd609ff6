"""Errors as OpenAI's SDK reads them: a status, and a body with message, type, param and code."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from milr.errors import MilrError, say_reason

log = logging.getLogger("milr.serve")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused, or a search that failed; its message is for the client."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Store the parts of the answer.

        Args:
            status: Of the response.
            code: For programs: "model_not_found".
            message: For people: what was given, what is allowed.
            param: The request's field that is wrong.
            retry_after: Seconds after which the same request may succeed; None: it will not.
        """
        message = message.encode("utf-8", "replace").decode()  # what a client sent may be no text
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_after = status, code, message, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The response's body."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Return headers that tell clients whether to try again."""
        if self.retry_after is not None:
            return {"Retry-After": str(self.retry_after)}
        more = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return {"x-should-retry": "false", **more}


def answer_error(error: ApiError) -> JSONResponse:
    """Return the response that says an error."""
    return JSONResponse(error.body, error.status, error.headers)


def refuse(error: MilrError, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return milr's own error as one of the client's."""
    return ApiError(400, code, " ".join(str(error).split()), param=param)


def busy(what: str, retry_after: int) -> ApiError:
    """Return the error for a limit that a client meets."""
    return ApiError(429, "rate_limit_exceeded", f"{what}: try again in {retry_after} s", retry_after=retry_after)


def draining() -> ApiError:
    """Return the error while the server ends."""
    return ApiError(
        503, "shutting_down", "this server is about to end; searches go on at its next start", retry_after=5
    )


def handle_errors(app: FastAPI) -> None:
    """Answer every error of an app in this form."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return answer_error(error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer_error(_first(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers: Mapping[str, str] = error.headers or {}
        code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(error.status_code, "refused")
        found = ApiError(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}")
        return JSONResponse(found.body, found.status, {**headers, **found.headers})

    async def unwritten(request: Request, error: Exception) -> JSONResponse:
        log.error("index not written", extra={"facts": {"error": str(error)}})
        message = "the server cannot write at the moment, for want of room perhaps"
        return answer_error(ApiError(503, "storage", message, retry_after=30))

    app.add_exception_handler(ApiError, ours)
    app.add_exception_handler(SQLAlchemyError, unwritten)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _first(error: RequestValidationError) -> ApiError:
    """Return the first fault of a request that does not fit its model, without repeating the request's text."""
    wrong = error.errors()[0]
    if wrong["type"] == "json_invalid":
        return ApiError(400, "invalid_json", "the body is no JSON")
    where = [str(part) for part in wrong["loc"][1:]]
    message = say_reason(wrong)
    param = ".".join(where) or None
    return ApiError(400, "invalid_value", f"{json.dumps(param)}: {message}" if param else message, param=param)


def say_error(error: Exception) -> str:
    """Return milr's errors in full, and of other errors only the kind, because clients must not see more."""
    if isinstance(error, MilrError):
        return " ".join(str(error).split())[:500]
    return f"internal error ({type(error).__name__})"
