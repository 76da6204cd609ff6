"""The page: plain modules and a style sheet, read once, served as they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response

from milr.serve.errors import ApiError

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parent / "page"
_KINDS: Mapping[str, str] = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


@cache
def read_page() -> Mapping[str, tuple[bytes, str]]:
    """Return the page's files by name: content and media type."""
    files = (file for file in sorted(FOLDER.iterdir()) if file.suffix in _KINDS)
    return {file.name: (file.read_bytes(), _KINDS[file.suffix]) for file in files}


@router.get("/")
async def read_index() -> Response:
    """Return the page."""
    return await read_part("index.html")


@router.get("/page/{name}")
async def read_part(name: str) -> Response:
    """Return one file of the page; no path of a client's is opened."""
    if name not in read_page():
        raise ApiError(404, "not_found", "the page has no such file")
    content, kind = read_page()[name]
    return Response(content, media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})
