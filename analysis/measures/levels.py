"""The levels of all intervals and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CONFIDENCE", "SIGNIFICANT", "TAILS", "LeftOut"]

#: Two-sided confidence of an interval, and the quantiles at its ends.
CONFIDENCE: Final = 0.95
TAILS: Final = (0.025, 0.975)

#: A difference is significant if its p, adjusted where there are many, is at or below this.
SIGNIFICANT: Final = 0.05


# --- a part of the analysis that cannot be computed, with the reason, in place of a number


@dataclass(frozen=True)
class LeftOut:
    """A part of the analysis that this grid does not allow, and why."""

    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"
