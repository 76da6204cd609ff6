"""A server that judges by a reward, as `milr serve-judge` starts it, in a thread."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from milr.rewards.base import Reward
from milr.serve.app import make_app
from milr.serve.config import Limits, ServeSettings
from milr.serve.judge import Judge
from milr.serve.keys import KeyRing
from milr.serve.listen import listening


@contextmanager
def judging(reward: Reward, *, key: str = "", flip: float = 0.0, **limits: int) -> Generator[str]:
    """Serve a reward as a judge during the block; give the value for --vlm-url."""
    with TemporaryDirectory() as folder:
        settings = ServeSettings(port=0, data=Path(folder), limits=Limits(**{"per_minute": 100_000, **limits}))
        app = make_app([], settings, KeyRing([key] if key else []), Judge(reward, flip=flip))
        with listening(app, settings) as listener:
            yield f"{listener.url}/v1"
