"""Signals that end this process by an exception: they wait for the end of a call that must not be broken off.

An exception in the middle of a database's session can leave its connection in a transaction that no one ends: the
process then waits for its own lock when it records how far it came.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread

__all__ = ["collect_rarely", "defer_signals", "end_on_signal", "usable_cores"]

_ends: dict[int, Callable[[], object]] = {}
_came: list[int] = []
_inside = 0  # calls of the main thread, which alone hears signals


def end_on_signal(number: int, end: Callable[[], object]) -> None:
    """Have a signal call what raises the exception that ends this process, though not inside :func:`defer_signals`."""
    _ends[number] = end
    signal.signal(number, _hear)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Have signals wait for the end of what is done inside; a second Ctrl-C does not wait."""
    global _inside
    if current_thread() is not main_thread():
        yield
        return
    _inside += 1
    try:
        yield
    finally:
        _inside -= 1
        if _came and not _inside:
            number = _came[0]
            _came.clear()
            _ends[number]()


def _hear(number: int, _: object) -> None:
    if not _inside or (number == signal.SIGINT and number in _came):
        _came.clear()
        _ends[number]()
    else:
        _came.append(number)


# --- how often Python looks for objects that only refer to one another


#: After so many new objects, and over all after 20 times 100 such runs.
_AFTER = (50_000, 20, 100)


def collect_rarely() -> None:
    """Have the collector run rarely in this process.

    By default it walks the half million objects of MLflow, pandas and torch again and again: a sixth of a short
    command, a fortieth of a worker's time.
    """
    gc.set_threshold(*_AFTER)


# --- how many CPU cores this process may use


def usable_cores() -> int:
    """Return the cores that the system leaves to this process, or all where it does not say."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
