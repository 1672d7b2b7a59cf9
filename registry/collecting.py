"""How often Python looks for objects that only refer to one another."""

from __future__ import annotations

import gc

__all__ = ["collect_rarely"]

#: After so many new objects, and over all after 20 times 100 such runs.
_AFTER = (50_000, 20, 100)


def collect_rarely() -> None:
    """Have the collector run rarely in this process.

    By default it walks the half million objects of MLflow, pandas and torch again and again: a sixth of a short
    command, a fortieth of a worker's time.
    """
    gc.set_threshold(*_AFTER)
