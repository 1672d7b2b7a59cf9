"""A part of the analysis that cannot be computed, with the reason, in place of a number."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LeftOut"]


@dataclass(frozen=True)
class LeftOut:
    """A part of the analysis that this grid does not allow, and why."""

    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"
