"""What a judge may cost: a hard cap on calls or tokens, what was spent, and an estimate before the start."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from milr.errors import UsageError

BUDGET_FORM = "give calls or tokens, for instance 500 or 2000000tokens"

PRICES: Mapping[str, tuple[float, float]] = {
    "gpt-4o-2024-05-13": (5.0, 15.0),
    "gpt-4o-2024-08-06": (2.5, 10.0),
    "gpt-4o-2024-11-20": (2.5, 10.0),
    "gpt-4o-mini-2024-07-18": (0.15, 0.6),
}
"""US dollars a million tokens, in and out, as OpenAI listed them in 2025. Prices change: an estimate, not a bill."""


class BudgetSpent(Exception):
    """The next call would go over the cap."""


@dataclass
class Budget:
    """Counts calls and tokens, and refuses the call that would go over the cap. Used from one thread."""

    most: float = math.inf
    unit: Literal["calls", "tokens"] = "calls"
    calls: int = 0
    """Requests that were sent, retries among them."""
    cached: int = 0
    """Answers that the cache gave, for nothing."""
    tokens_in: int = 0
    tokens_out: int = 0
    reserved: int = 0
    """Tokens that calls under way may yet cost."""

    def reserve(self, tokens: int) -> None:
        """Take room for one call of at most about that many tokens.

        Raises:
            BudgetSpent: There is no room.
        """
        used = self.calls + 1 if self.unit == "calls" else self.tokens_in + self.tokens_out + self.reserved + tokens
        if used > self.most:
            raise BudgetSpent(f"the judge's budget of {self.most:,.0f} {self.unit} is spent")
        self.calls += 1
        self.reserved += tokens

    def settle(self, reserved: int, tokens_in: int, tokens_out: int) -> None:
        """Give the reserved room back and count what the call really cost."""
        self.reserved -= reserved
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out

    def summary(self) -> str:
        """What was spent, in one line."""
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
        raise UsageError(f"--judge-budget {text}: {BUDGET_FORM}")
    most = int(re.sub(r"[_,]", "", match[1]))
    return Budget(float(most), "tokens" if (match[2] or "").startswith("token") else "calls")


def picture_tokens(width: int, height: int) -> int:
    """About what a picture costs: OpenAI's rule for gpt-4o at high detail, 85 + 170 a tile of 512 pixels.

    Source: OpenAI's vision guide: fit into 2048 x 2048, then the shorter side to at most 768.
    """
    width, height = max(1, width), max(1, height)
    scale = min(1.0, 2048 / max(width, height))
    scale = min(scale, 768 / min(width, height) if min(width, height) * scale > 768 else scale)
    return 85 + 170 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


def text_tokens(text: str) -> int:
    """About how many tokens a text has: four characters each."""
    return -(-len(text) // 4)


@dataclass(frozen=True)
class CallCost:
    """What one question costs at most, about."""

    judge: str
    """The judge's model."""
    where: str
    """The server's host."""
    tokens_in: int
    tokens_out: int
    hosted: bool
    """At OpenAI, where tokens are paid for."""


class Costly(Protocol):
    """A reward that asks judges."""

    def call_costs(self, picture_size: int) -> Sequence[CallCost]:
        """What scoring one picture of that side costs: a call each."""
        ...


def estimate(costs: Sequence[CallCost], pictures: int) -> list[str]:
    """A line a judge: what that many pictures cost at most, before retries.

    Args:
        costs: Of one picture.
        pictures: Tasks times drawings a step times (steps + 1), if no search stops early.
    """
    lines: list[str] = []
    for cost in costs:
        line = (
            f"{cost.judge} at {cost.where}: at most {pictures:,} calls, "
            f"about {pictures * cost.tokens_in:,} tokens in and {pictures * cost.tokens_out:,} out"
        )
        if cost.hosted and cost.judge in PRICES:
            dollars = sum(p * n for p, n in zip(PRICES[cost.judge], (cost.tokens_in, cost.tokens_out), strict=True))
            line += f", about ${pictures * dollars / 1e6:,.2f}"
        lines.append(line)
    return lines
