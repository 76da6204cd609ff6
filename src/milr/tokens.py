"""Text tokenisation: text of a user or a model never becomes a control token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MARK = re.compile(r"<\S[^<>]*>")
"""Pattern of the models' control tokens; some files do not mark theirs as special."""


def find_control_tokens(tokenizer: Any) -> dict[str, int]:
    """Return a tokenizer's control tokens and their ids: the special tokens, and added tokens in angle brackets.

    Added tokens that are plain words or letters are text.

    Args:
        tokenizer: One of transformers', with a backend of tokenizers.
    """
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    return {
        token.content: number
        for number, token in added.items()
        if token.content and (token.special or _MARK.fullmatch(token.content))
    }


class TextTokenizer:
    """A tokenizer that reads control tokens in a text as plain characters."""

    def __init__(self, tokenizer: Any) -> None:
        """Copy the tokenizer, one of transformers' with a backend of tokenizers; later changes to it have no effect."""
        from tokenizers import AddedToken, Tokenizer

        self._backend: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        controls = find_control_tokens(tokenizer)
        self._backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in controls])
        self._backend.encode_special_tokens = True
        self._backend.no_padding()
        self._backend.no_truncation()

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, none of them a control token; nothing is added at either end."""
        return list(self._backend.encode(text, add_special_tokens=False).ids) if text else []
