"""Links to images that expire; they are signed, so none is stored."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from milr.serve.errors import ApiError

FILE = "milr.secret"
"""Name of the file with the key that signs links, in the folder of the runs."""


@dataclass(frozen=True)
class Picture:
    """An image of a search, and the requested form."""

    search: str
    task: int
    image: int
    step: int
    number: int
    form: str
    quality: int


class Links:
    """Signs links and reads them back."""

    def __init__(self, secret: bytes, seconds: int) -> None:
        """Take the signing key, and the lifetime of a link."""
        self._secret, self._seconds = secret, seconds

    def sign(self, picture: Picture) -> str:
        """Return a link's last part: letters, digits, `-` and `_`, a dot and the form."""
        content = json.dumps([*asdict(picture).values(), int(time.time()) + self._seconds]).encode()
        return f"{_encode(content + self._seal(content))}.{picture.form}"

    def read(self, link: str) -> Picture:
        """Return the target of a link.

        Raises:
            ApiError: It was not made here, or has expired.
        """
        word, _, form = link.rpartition(".")
        try:
            whole = base64.urlsafe_b64decode(word.encode() + b"=" * (-len(word) % 4))
            content, seal = whole[:-32], whole[-32:]
            if not hmac.compare_digest(seal, self._seal(content)):
                raise ValueError
            *values, expires = json.loads(content)
            picture = Picture(*values)
        except (ValueError, TypeError):
            raise ApiError(404, "not_found", "there is no such file") from None
        if expires < time.time() or form != picture.form:
            raise ApiError(404, "link_expired", "this link has expired: ask for the image again")
        return picture

    def _seal(self, content: bytes) -> bytes:
        return hmac.digest(self._secret, content, hashlib.sha256)


def read_secret(folder: Path) -> bytes:
    """Return the signing key, made at the first call; links stay valid after a restart."""
    path = folder / FILE
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    return bytes.fromhex(path.read_text().strip())


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
