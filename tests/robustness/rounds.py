"""How long the seeded programs here run: once in the tests, `make fuzz` sets MILR_FUZZ to a factor."""

from __future__ import annotations

import os

ROUNDS = int(os.environ.get("MILR_FUZZ", "1"))
"""Every count of cases is multiplied by this."""
