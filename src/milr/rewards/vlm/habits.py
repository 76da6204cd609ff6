"""A client's knowledge of a server: fields that it refuses, and when to stop asking it."""

from __future__ import annotations

from dataclasses import dataclass

from milr.rewards.vlm.messages import LastingFault, PassingFault

_MOST_REFUSED = 3
"""Questions that a server may refuse before it has ever answered one; then it is not asked again."""


@dataclass
class Habits:
    """A client's knowledge of a model on its server, or of a reward at a URL."""

    without: frozenset[str] = frozenset()
    """Fields of a request that it refuses."""
    answered: bool = False
    """True if it has answered a question, readably or not."""
    refused: int = 0
    """Questions that it refused."""
    faults: int = 0
    """Consecutive questions without an answer."""
    given_up: str | None = None
    """Reason why it is not asked any more."""

    def answer(self) -> None:
        """Remember that the server answered."""
        self.answered, self.faults = True, 0

    def miss(self, fault: PassingFault, most: int) -> str:
        """Remember a question without an answer after all attempts; return the reason.

        Args:
            fault: Fault of the last attempt.
            most: Consecutive questions after which the server counts as down.
        """
        self.faults += 1
        if self.given_up is None and self.faults >= most:
            self.given_up = f"{self.faults} questions in a row had no answer, the last one: {fault}"
        return self.given_up or str(fault)

    def meet(self, fault: LastingFault) -> str:
        """Remember a fault; return its reason."""
        reason = str(fault)
        self.refused += fault.refuses
        if self.given_up is not None:
            return self.given_up
        if fault.final:
            self.given_up = reason
        elif not self.answered and self.refused >= _MOST_REFUSED:
            self.given_up = reason = f"the first {self.refused} questions were all refused: {reason}"
        return reason
