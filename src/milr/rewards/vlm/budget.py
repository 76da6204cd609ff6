"""Cost of VLM judges: a hard cap on calls or tokens, a count of the use, and an estimate before the start."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from milr.errors import UsageError

BUDGET_FORM = "give calls or tokens, for instance 500 or 2000000tokens"

Price = tuple[float, float]
"""US dollars per million tokens, in and out."""

PRICES: Mapping[str, Price] = {
    "gpt-4o-2024-05-13": (5.0, 15.0),
    "gpt-4o-2024-08-06": (2.5, 10.0),
    "gpt-4o-2024-11-20": (2.5, 10.0),
    "gpt-4o-mini-2024-07-18": (0.15, 0.6),
}
"""OpenAI's models -> prices as listed in 2025. Prices change: this is an estimate, not a bill."""


class BudgetSpent(Exception):
    """The error of a call that would exceed the cap."""


@dataclass
class Budget:
    """A counter of calls and tokens that refuses a call that would exceed the cap. It is used from one thread."""

    most: float = math.inf
    unit: Literal["calls", "tokens"] = "calls"
    calls: int = 0
    """Requests sent, retries included."""
    cached: int = 0
    """Answers from the cache, which cost nothing."""
    tokens_in: int = 0
    tokens_out: int = 0
    reserved: int = 0
    """Tokens that calls in progress may still use."""

    def reserve(self, tokens: int) -> None:
        """Reserve room for one call of at most about that many tokens.

        Raises:
            BudgetSpent: There is no room.
        """
        used = self.calls + 1 if self.unit == "calls" else self.tokens_in + self.tokens_out + self.reserved + tokens
        if used > self.most:
            raise BudgetSpent(f"the VLM budget of {self.most:,.0f} {self.unit} is spent")
        self.calls += 1
        self.reserved += tokens

    def settle(self, reserved: int, tokens_in: int, tokens_out: int) -> None:
        """Release the reserved room and count the tokens that the call really used."""
        self.reserved -= reserved
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out

    def summary(self) -> str:
        """Return the use so far, in one line."""
        cached = f", {self.cached:,} answers from the cache" if self.cached else ""
        return f"{self.calls:,} calls, {self.tokens_in:,} tokens in, {self.tokens_out:,} out{cached}"


def parse_budget(text: str | None) -> Budget:
    """``500`` or ``500calls``, ``2000000tokens``; None has no cap.

    Raises:
        UsageError: Anything else.
    """
    if text is None:
        return Budget()
    match = re.fullmatch(r"\s*([\d_,]*\d[\d_,]*)\s*(calls?|tokens?)?\s*", text)
    if match is None:
        raise UsageError(f"--vlm-budget {text}: {BUDGET_FORM}")
    most = int(re.sub(r"[_,]", "", match[1]))
    return Budget(float(most), "tokens" if (match[2] or "").startswith("token") else "calls")


def count_image_tokens(width: int, height: int) -> int:
    """Estimate the tokens of an image: OpenAI's rule for gpt-4o at high detail, 85 + 170 per tile of 512.

    Source: OpenAI's vision guide: fit into 2048 x 2048, then the shorter side to at most 768.
    """
    width, height = max(1, width), max(1, height)
    scale = min(1.0, 2048 / max(width, height))
    scale = min(scale, 768 / min(width, height) if min(width, height) * scale > 768 else scale)
    return 85 + 170 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


def count_text_tokens(text: str) -> int:
    """Estimate the tokens of a text: one per four characters."""
    return -(-len(text) // 4)


@dataclass(frozen=True)
class CallCost:
    """Estimate of the most that one question costs."""

    model: str
    """The VLM judge."""
    where: str
    """The server's host."""
    tokens_in: int
    tokens_out: int
    price: Price = (0.0, 0.0)
    """US dollars per million tokens; (0, 0) if tokens are free or their price is unknown."""
    calls: float = 1.0
    """Questions about one image."""

    @property
    def dollars(self) -> float:
        """Return the price of one question."""
        return (self.tokens_in * self.price[0] + self.tokens_out * self.price[1]) / 1e6


def estimate(costs: Sequence[CallCost], images: int) -> list[str]:
    """Return one line per VLM judge with the most that this many images cost, before retries.

    Args:
        costs: Costs of one image.
        images: Tasks times images per step times (steps + 1), if no search stops early.
    """
    lines: list[str] = []
    for cost in costs:
        calls = math.ceil(images * cost.calls)
        line = (
            f"{cost.model} at {cost.where}: {calls:,} calls at most if none is repeated, "
            f"about {calls * cost.tokens_in:,} tokens in and {calls * cost.tokens_out:,} out"
        )
        if cost.dollars:
            line += f", about ${calls * cost.dollars:,.2f}"
        lines.append(line)
    return lines
