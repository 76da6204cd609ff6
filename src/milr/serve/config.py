"""Settings of a server: places, limits, and the folder of its runs."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Limits of one request, one client and the whole server. Excess is refused by name, never cut off silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(default=256 * 1024, ge=1024)
    """Bytes of a request's body."""
    judge_bytes: int = Field(default=16 * 2**20, ge=1024)
    """The same for questions to the judge, which hold an image."""
    prompt_characters: int = Field(default=4000, ge=1)
    """Characters of one prompt."""
    images: int = Field(default=10, ge=1)
    """`n`: images of one prompt in one request."""
    tasks: int = Field(default=100, ge=1)
    """Tasks of one search."""
    drawings: int = Field(default=400, ge=1)
    """Drawings that a method may make for one image."""
    seconds: float = Field(default=1800.0, gt=0)
    """Time from a request to its end; a search ends with its best so far."""
    waiting: int = Field(default=256, ge=1)
    """Images that wait or are in progress, of all clients: more are answered by 429."""
    per_client: int = Field(default=64, ge=1)
    """The same for one key, or for one address without keys."""
    per_minute: int = Field(default=600, ge=1)
    """Requests a minute of one key or address."""
    streams: int = Field(default=400, ge=1)
    """Event streams that are open at once."""
    requests: int = Field(default=600, ge=1)
    """Requests that are answered at once, event streams among them: more are answered by 503."""
    questions: int = Field(default=64, ge=1)
    """Questions to the judge that wait or are answered: more are answered by 429."""
    client_questions: int = Field(default=32, ge=1)
    """The same of one key or address."""


class ServeSettings(BaseModel):
    """Settings of a running server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    data: Path = Path("runs")
    """The folder of the run folders and of their index."""
    batch_size: int = Field(default=16, ge=1)
    """Images in progress at once, of each model."""
    memory: int | None = None
    """Bytes of weights that may be loaded at once; None: all models stay loaded."""
    link_seconds: int = Field(default=3600, ge=1)
    """Seconds for which a link to an image (`response_format: url`) is valid."""
    shutdown_seconds: float = Field(default=20.0, ge=0)
    """Seconds that a server waits for the step in progress before it ends."""
    log_prompts: bool = False
    """True if logs contain prompts."""
    limits: Limits = Limits()

    @property
    def local(self) -> bool:
        """Return true if only this machine can reach the server."""
        return self.host in ("127.0.0.1", "localhost", "::1")
