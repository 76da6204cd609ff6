"""Length of the seeded programs here: 1 in the tests; `make fuzz` sets MILR_FUZZ to a factor."""

from __future__ import annotations

import os

ROUNDS = int(os.environ.get("MILR_FUZZ", "1"))
"""Factor for all numbers of cases."""
