"""API keys: kept as hashes, compared in constant time, never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from milr.errors import UsageError
from milr.untrusted import UntrustedError, read_file

VARIABLE = "MILR_API_KEYS"
SHORTEST = 16
_HASHED = "sha256:"


class KeyRing:
    """The keys that open a server. Without any, it is open to everyone who can reach it."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Hash the keys.

        Args:
            keys: Each as it is sent, or ``sha256:`` and the 64 hex digits of its hash.

        Raises:
            UsageError: One is too short to be a secret, or no hash.
        """
        self._hashes = [_read_key(key) for key in keys]

    def __bool__(self) -> bool:
        """Return true if a key is needed."""
        return bool(self._hashes)

    def find(self, sent: str) -> str | None:
        """Return a short name of the key that was sent, the beginning of its hash; None if it opens nothing."""
        digest = hashlib.sha256(sent.encode()).hexdigest()
        found = [hmac.compare_digest(digest, known) for known in self._hashes]  # all of them, in constant time
        return digest[:16] if any(found) else None


def read_keys(file: Path | None, environment: str | None) -> KeyRing:
    """Read keys from a file, one a line, `#` begins a comment, and from the environment, with commas between them.

    Raises:
        UsageError: The file cannot be read, or a line is not a key.
    """
    words = (environment or "").split(",")
    if file is not None:
        try:
            words += [line.partition("#")[0] for line in read_file(file, 2**20).decode().splitlines()]
        except (OSError, ValueError, UntrustedError) as error:
            raise UsageError(f"--keys {file}: {error}; give a text file with a key a line") from error
    return KeyRing(word.strip() for word in words if word.strip())


def _read_key(key: str) -> str:
    if key.startswith(_HASHED):
        digest = key.removeprefix(_HASHED).lower()
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise UsageError(f"a key's hash is {_HASHED} and 64 hex digits")
        return digest
    if len(key) < SHORTEST:
        raise UsageError(
            f"an API key has {len(key)} characters, and needs {SHORTEST} or more: make one by "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return hashlib.sha256(key.encode()).hexdigest()
