"""What a client learns of a server while it asks: fields that it refuses, and when to ask it nothing any more."""

from __future__ import annotations

from dataclasses import dataclass

from milr.rewards.vlm.messages import LastingFault, PassingFault

_MOST_REFUSED = 3
"""Questions that a server may refuse to take before it has ever answered one; then it is left."""


@dataclass
class Habits:
    """What a client has learned of a model on its server, or of a reward at a URL."""

    without: frozenset[str] = frozenset()
    """Fields of a request that it refuses."""
    answered: bool = False
    """It has answered a question, readably or not."""
    refused: int = 0
    """Questions that it did not take."""
    faults: int = 0
    """Questions in a row that had no answer."""
    given_up: str | None = None
    """Why it is asked nothing any more."""

    def answer(self) -> None:
        """Remember that the server answered."""
        self.answered, self.faults = True, 0

    def miss(self, fault: PassingFault, most: int) -> str:
        """Remember a question that had no answer, whatever was tried; return the reason.

        Args:
            fault: Of the last try.
            most: So many in a row, and the server is left: it is down.
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
