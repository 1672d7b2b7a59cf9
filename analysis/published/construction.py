"""MT-CL transfer on human- and machine-translated tests, and whether languages give alike on both, as published."""

from __future__ import annotations

import pandas as pd

from analysis.left_out import LeftOut
from analysis.published.groups import HUMAN, MACHINE, UNKNOWN, constructions
from analysis.published.uplift import of_regime, summary
from registry.cells import Regime

__all__ = ["construction"]

_PART = "MT-CL by construction type"


def construction(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Summarise MT-CL cells by how the items of their task came into other languages.

    Returns
    -------
    table, left_out
        ``construction``, ``tasks`` (comma-separated) and ``n``, ``mean``, ``median`` (pp), ``positive_pct``,
        ``harm_pct`` (percent). Tasks of unknown construction are left out, and named.
    """
    rows = of_regime(cells, Regime.MT_CL)
    kinds = constructions(rows["source_task"])
    found = []
    for kind in (HUMAN, MACHINE):
        of_kind = rows[kinds == kind]
        if len(of_kind):
            tasks = ", ".join(sorted(of_kind["source_task"].unique()))
            found.append({"construction": kind, "tasks": tasks, **summary(of_kind["delta"])})
    columns = ["construction", "tasks", "n", "mean", "median", "positive_pct", "harm_pct"]
    return pd.DataFrame(found, columns=columns), _left_out(rows.loc[kinds == UNKNOWN, "source_task"])


def _left_out(unknown: pd.Series) -> list[LeftOut]:
    """Name the tasks of which nobody said who translated them."""
    if unknown.empty:
        return []
    tasks = ", ".join(sorted(unknown.unique()))
    reason = f"whether people or machines translated the items is not known here of: {tasks}."
    return [LeftOut(_PART, reason)]
