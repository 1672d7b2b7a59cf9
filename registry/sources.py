"""What an adapter is made from: a cell, and by the same description several cells, other adapters, or a stage on one.

Whoever trains, records or analyses an adapter asks its source: which cells it has seen, from which adapters it was
made, and which regime a target has for it. A study's sources are single cells today; their names, tags and regimes are
those of "Donors and Recipients" (arXiv 2511.13368).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from registry.cells import Cell, Regime

__all__ = ["SOURCE", "SOURCE_LANGUAGE", "SOURCE_TASK", "Source", "source_of"]

#: Tags of runs and model versions; the latter two only where the source is a single cell.
SOURCE, SOURCE_TASK, SOURCE_LANGUAGE = "source", "source_task", "source_language"


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """What an adapter is made from.

    Attributes
    ----------
    name
        ``task/language`` of a single cell, else a name of the study's choice without a slash.
    seen
        Each cell that the adapter or one it was made from was trained on, with its weight. Negative where an adapter
        was subtracted.
    parents
        Fingerprints of the fine-tunes it was made from, in order; empty for one trained from the base model alone.
    """

    name: str
    seen: tuple[tuple[Cell, float], ...]
    parents: tuple[str, ...] = ()

    @classmethod
    def of_cell(cls, cell: Cell) -> Source:
        """Return the source that is one cell."""
        return cls(str(cell), ((cell, 1.0),))

    def __str__(self) -> str:
        return self.name

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells seen, whatever their weights."""
        return tuple(cell for cell, _ in self.seen)

    @property
    def is_cell(self) -> bool:
        """Whether this is a single cell, and nothing else."""
        return not self.parents and len(self.seen) == 1 and self.name == str(self.seen[0][0])

    @property
    def cell(self) -> Cell:
        """The single cell that this is.

        Raises
        ------
        ValueError
            If it is more than that.
        """
        if not self.is_cell:
            raise ValueError(f"source {self.name} is no single cell: it has seen {', '.join(map(str, self.cells))}")
        return self.cells[0]

    def regime(self, target: Cell) -> Regime:
        """Return a target's regime: matched task or language is one that any seen cell has.

        Of several cells a target can match the task of one and the language of another; the published regimes have no
        name for that, and the target counts as matched in the task alone.
        """
        if target in self.cells:
            return Regime.MT_ML
        if target.task in {cell.task for cell in self.cells}:
            return Regime.MT_CL
        matched = target.language in {cell.language for cell in self.cells}
        return Regime.CT_ML if matched else Regime.CT_CL

    @property
    def tags(self) -> dict[str, str]:
        """Tags of its runs and versions."""
        if not self.is_cell:
            return {SOURCE: self.name}
        return {SOURCE_TASK: self.cell.task, SOURCE_LANGUAGE: self.cell.language, SOURCE: self.name}

    @property
    def slug(self) -> str:
        """Its part of a registered model's name, which has no slash."""
        return self.name.replace("/", "--")


def source_of(tags: Mapping[str, str]) -> Source | None:
    """Read the source of a run or version from its tags; None where it has none, or is no single cell.

    Runs recorded before there was the tag `SOURCE` have the other two alone.
    """
    task, language = tags.get(SOURCE_TASK, ""), tags.get(SOURCE_LANGUAGE, "")
    return Source.of_cell(Cell(task, language)) if task and language else None
