"""How far chance in the test questions moves one delta, and how much of that two sources share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from registry.refusal import Refused

__all__ = ["SamplingNoise"]

_ROUNDING = 1 + 1e-9


@dataclass(frozen=True)
class SamplingNoise:
    """Variances in pp², averaged over (model, target).

    Attributes
    ----------
    v
        Mean sampling variance of one delta.
    c
        Mean sampling covariance of two sources' deltas on the same (model, target). They share the baseline's run and
        the questions, so it is usually positive.

    Raises
    ------
    Refused
        If ``v`` is negative or not finite, or ``c`` exceeds ``v`` in size.
    """

    v: float
    c: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.v) and math.isfinite(self.c) and self.v >= 0 and abs(self.c) <= self.v * _ROUNDING):
            raise Refused(
                f"sampling noise v={self.v}, c={self.c} is impossible: v is a variance in pp², c a covariance of at "
                "most that size; compute both from the same questions' outcomes"
            )

    @property
    def own(self) -> float:
        """The part of ``v`` that no other source shares; it lands in the residual."""
        return self.v - self.c
