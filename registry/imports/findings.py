"""What is wrong with a table, kind by kind: the first lines, how often, and an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from registry.errors import Refused

__all__ = ["Findings"]

_LINES = 5  # lines that a finding spells out
_LONGEST = 60  # characters of a value that a message repeats


class Findings:
    """Faults of a file's rows, collected so that a user sees all kinds of them at once.

    Parameters
    ----------
    lines
        The file's line of every row, from 1.
    """

    def __init__(self, path: Path, lines: Sequence[int]) -> None:
        self.path = path
        self._lines = np.asarray(lines)
        self._found: list[str] = []
        self._count = 0

    def add(self, wrong: ArrayLike, what: str, shown: Callable[[int], object] | None = None) -> None:
        """Note what is wrong with the rows where ``wrong`` is true; ``shown`` gives a row's value for the message.

        Text of the file is given as its ``repr``, so that no line break or control character of it reaches a terminal.
        """
        rows = np.flatnonzero(np.asarray(wrong))
        if not len(rows):
            return
        self._count += len(rows)
        places = ", ".join(str(line) for line in self._lines[rows[:_LINES]])
        more = f" and {len(rows) - _LINES:,} more" if len(rows) > _LINES else ""
        example = "" if shown is None else f" (line {self._lines[rows[0]]}: {_short(shown(int(rows[0])))})"
        self._found.append(f"  line {places}{more}: {what}{example}")

    def line(self, row: int) -> int:
        """Return the file's line of a row."""
        return int(self._lines[row])

    def refuse(self) -> None:
        """Raise what was found, if anything was.

        Raises
        ------
        Refused
            With one line per kind of fault.
        """
        if self._found:
            raise Refused("\n".join([f"{self.path} has {self._count:,} faults; nothing was imported:", *self._found]))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
