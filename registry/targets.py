"""Targets as readers name them: ``task/language``, either name ``*`` for all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from registry.cells import Cell
from registry.refusal import Refused, unknown

__all__ = ["PATTERN", "chosen_targets"]

#: How a target is written, whether or not it exists.
PATTERN = re.compile(r"[^/\s]+/[^/\s]+")


def chosen_targets(patterns: Sequence[str], cells: Sequence[Cell], *, where: str) -> tuple[Cell, ...]:
    """Return the targets that are named as ``task/language``, either name ``*`` for all, in the order of ``cells``.

    Raises
    ------
    Refused
        If a name, or the target that both make, does not exist; with the nearest that do.
    """
    found: set[Cell] = set()
    for pattern in patterns:
        task, _, language = pattern.partition("/")
        if not PATTERN.fullmatch(pattern):
            raise Refused(f"{where}: {pattern!r} is no target: write task/language, such as {cells[0]} or {task}/*")
        if task not in ("*", *(cell.task for cell in cells)):
            raise unknown("task", task, (cell.task for cell in cells), where=f"{where}, {pattern}")
        if language not in ("*", *(cell.language for cell in cells)):
            raise unknown("language", language, (cell.language for cell in cells), where=f"{where}, {pattern}")
        named = {cell for cell in cells if task in ("*", cell.task) and language in ("*", cell.language)}
        if not named:
            raise unknown("target", pattern, map(str, cells), where=where)
        found |= named
    return tuple(cell for cell in cells if cell in found)
