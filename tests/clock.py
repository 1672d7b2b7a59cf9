"""A clock that moves only when someone sleeps: in the place of a module's ``time``, tests take no time by it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Stands in for the module ``time``.

    Parameters
    ----------
    sleeping
        Called after each sleep with the seconds it took; for what happens elsewhere meanwhile.
    """

    def __init__(self, sleeping: Callable[[float], object] = lambda _: None) -> None:
        self._now, self._sleeping = time.time(), sleeping

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        self._sleeping(seconds)
