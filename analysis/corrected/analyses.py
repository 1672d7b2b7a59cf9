"""Analyses of a table of cells that need nothing else: each is a module with two functions, and a line here.

``analyze`` computes each, writes its table as ``<name>.csv`` and puts its part into the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["ANALYSES", "CellAnalysis"]


@dataclass(frozen=True, slots=True)
class CellAnalysis:
    """An analysis.

    Attributes
    ----------
    title
        What it is called where it is left out.
    compute
        ``module:function`` that takes the cells (`analysis.reading.observations.cells`) and returns a table. It raises
        `Refused` with the reason if a grid does not allow it.
    show
        ``module:function`` that takes the table and returns a part of the report; a table without rows is possible.
    """

    title: str
    compute: str
    show: str

    def computer(self) -> Any:
        """Import the function that computes it."""
        return _named(self.compute)

    def shower(self) -> Any:
        """Import the function that shows it."""
        return _named(self.show)


#: By the stem of their tables' files, in the order of the report.
ANALYSES = {
    "contrasts": CellAnalysis(
        "Contrasts of regimes", "analysis.corrected.regimes:contrasts", "analysis.report.corrected:contrasts_part"
    ),
}


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
