"""The levels of all intervals and tests."""

from __future__ import annotations

from typing import Final

__all__ = ["CONFIDENCE", "SIGNIFICANT", "TAILS"]

#: Two-sided confidence of an interval, and the quantiles at its ends.
CONFIDENCE: Final = 0.95
TAILS: Final = (0.025, 0.975)

#: A difference is significant if its p, adjusted where there are many, is at or below this.
SIGNIFICANT: Final = 0.05
