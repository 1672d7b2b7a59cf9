"""The words of a transfer study: cell, source, target, regime, grid.

Definitions follow "Donors and Recipients" (arXiv 2511.13368), section 3. This module depends on errors alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from registry.errors import Refused, unknown

__all__ = ["HARM_PP", "PATTERN", "Cell", "Grid", "Regime", "cells_tag", "chosen_targets", "parse_cells", "regime_of"]

#: A target is *harmed* when its delta is at or below this many percentage points.
HARM_PP = -1.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Regime(StrEnum):
    """Relation of a target to the source: matched or cross task (MT, CT), matched or cross language (ML, CL)."""

    MT_ML = "MT-ML"
    MT_CL = "MT-CL"
    CT_ML = "CT-ML"
    CT_CL = "CT-CL"

    @property
    def off_task(self) -> bool:
        """Whether the target's task differs from the source's."""
        return self in (Regime.CT_ML, Regime.CT_CL)


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A (task, language) pair, written ``task/language``.

    Raises
    ------
    ValueError
        If a name holds anything but letters, digits, ``_``, ``-`` and ``.``: cells name metrics, models and files.
    """

    task: str
    language: str

    def __post_init__(self) -> None:
        for kind, name in (("task", self.task), ("language", self.language)):
            if not _NAME.fullmatch(name):
                allowed = "start with a letter or digit, then letters, digits, '_', '-' or '.'"
                raise ValueError(f"{kind} name {name!r} is not usable: {allowed}")

    def __str__(self) -> str:
        return f"{self.task}/{self.language}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read a cell written ``task/language``."""
        task, slash, language = text.partition("/")
        if not slash:
            raise ValueError(f"{text!r} is not a cell: write task/language, for example arc_challenge/de")
        return cls(task, language)


def regime_of(source: Cell, target: Cell) -> Regime:
    """Return the regime of the ordered pair (source, target)."""
    task = "MT" if source.task == target.task else "CT"
    language = "ML" if source.language == target.language else "CL"
    return Regime(f"{task}-{language}")


@dataclass(frozen=True, slots=True)
class Grid:
    """The full crossing of tasks and languages, in the order given.

    Raises
    ------
    ValueError
        If a list is empty or names something twice.
    """

    tasks: tuple[str, ...]
    languages: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind, names in (("tasks", self.tasks), ("languages", self.languages)):
            if not names:
                raise ValueError(f"a grid needs at least one of {kind}")
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} named twice: {', '.join(twice)}")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, task by task."""
        return tuple(Cell(task, language) for task in self.tasks for language in self.languages)

    def __len__(self) -> int:
        return len(self.tasks) * len(self.languages)

    def __contains__(self, cell: object) -> bool:
        return isinstance(cell, Cell) and cell.task in self.tasks and cell.language in self.languages

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)


# --- targets as readers name them: ``task/language``, either name ``*`` for all of them


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


_TAG_LENGTH = 5000  # characters that every version of MLflow takes


def cells_tag(values: Mapping[Cell, float]) -> str:
    """Write ``task/language=number`` pairs as a tag, the largest number first, as many as a tag has room for."""
    written: list[str] = []
    room = _TAG_LENGTH
    for number, cell in sorted((-value, str(cell)) for cell, value in values.items()):
        part = f"{cell}={-number:.3g}"
        room -= len(part) + 1
        if room < 0:
            break
        written.append(part)
    return " ".join(written)


def parse_cells(tag: str) -> dict[Cell, float]:
    """Read such a tag back: numbers by target."""
    pairs = (part.rpartition("=") for part in tag.split())
    return {Cell.parse(cell): float(share) for cell, _, share in pairs}
