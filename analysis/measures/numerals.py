"""How numbers are written for readers: signs, decimals, plurals, and a dash for what does not exist."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["counted", "fixed", "interval", "intervals", "pp"]

_DASH = "–"
_MINUS = "\N{MINUS SIGN}"


def pp(value: float, decimals: int = 2) -> str:
    """Write a delta with its sign, without unit."""
    return _DASH if math.isnan(value) else f"{_rounded(value, decimals):+.{decimals}f}".replace("-", _MINUS)


def interval(low: float, high: float) -> str:
    """Write an interval of deltas; a dash where there is none."""
    return _DASH if math.isnan(low) or math.isnan(high) else f"{pp(low)} to {pp(high)}"


def intervals(low: Iterable[float], high: Iterable[float]) -> list[str]:
    """Write intervals of deltas, a column of lower ends and one of upper ends."""
    return [interval(*ends) for ends in zip(low, high, strict=True)]


def fixed(value: float, decimals: int = 2) -> str:
    """Write a number with fixed decimals."""
    return _DASH if math.isnan(value) else f"{_rounded(value, decimals):.{decimals}f}".replace("-", _MINUS)


def counted(n: int, noun: str) -> str:
    """Write a number of things, such as ``1 task`` or ``1,188 adapters``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _rounded(value: float, decimals: int) -> float:
    # Adding zero turns -0.0, which would be written as a negative number, into 0.0.
    return round(value, decimals) + 0.0
