"""How numbers are written for readers: signs, decimals, plurals, and a dash for what does not exist."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["aligned", "fixed", "interval", "intervals", "pp", "quantity"]

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


def quantity(n: int, noun: str) -> str:
    """Write a number of things, such as ``1 task`` or ``1,188 adapters``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def aligned(lines: Sequence[Sequence[str]], *, right: bool = False) -> str:
    """Return rows of text as aligned columns for a terminal; with ``right`` all but the first are aligned right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right and place else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _rounded(value: float, decimals: int) -> float:
    # Adding zero turns -0.0, which would be written as a negative number, into 0.0.
    return round(value, decimals) + 0.0
