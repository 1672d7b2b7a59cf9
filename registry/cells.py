"""The words of a transfer study: cell, source, target, regime, grid.

Definitions follow "Donors and Recipients" (arXiv 2511.13368), section 3. This module depends on nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["HARM_PP", "Cell", "Grid", "Regime", "regime_of"]

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
