"""Cache of VLM judges' answers on disk, so that no question is asked twice."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from milr.files import find_cache
from milr.rewards.images.convert import image_hash
from milr.rewards.vlm.messages import MOST_BYTES, Question
from milr.rewards.vlm.parsers import Answer
from milr.untrusted import read_file


class _Kept(BaseModel):
    """An `Answer` in its file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    text: str
    model: str
    cut: bool
    first_tokens: tuple[tuple[str, float], ...]
    tokens_in: int
    tokens_out: int


class AnswerCache:
    """Answers keyed by the question: image, words, model, protocol. Each is one file, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Answer | None:
        """Return the answer, or None if there is none or its file cannot be read."""
        try:
            return Answer(**dict(_Kept.model_validate_json(read_file(self._file(key), MOST_BYTES))))
        except (OSError, ValueError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Store an answer; a folder that cannot be written to disables the cache, but does not end the run."""
        file = self._file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as fresh:
                fresh.write(json.dumps(vars(answer)).encode())
            os.replace(fresh.name, file)
        except OSError:
            return

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def default_cache() -> Path:
    """Return the folder `judges` in $MILR_CACHE, else in the user's cache folder."""
    root = os.environ.get("MILR_CACHE")
    if root:
        return Path(root) / "judges"
    return find_cache("MILR_CACHE") / "milr" / "judges"


def cache_key(url: str, question: Question) -> str:
    """Return the hash of everything that an answer depends on. It never changes, so old caches stay valid.

    Raises:
        OSError, ValueError: The image cannot be read.
    """
    asked = {
        "url": url,
        "protocol": question.protocol,
        "judge": question.model,
        "system": question.system,
        "user": question.user,
        "picture": image_hash(question.image),
        "max_tokens": question.max_tokens,
        "extra": dict(question.extra),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
