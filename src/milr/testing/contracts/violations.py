"""The error of a broken contract."""

from __future__ import annotations


class ContractError(AssertionError):
    """The error for a broken contract; the message says what was found and what was expected."""


def require(kept: bool, message: str) -> None:
    """Raise a `ContractError` with this message unless the contract is kept."""
    if not kept:
        raise ContractError(message)
