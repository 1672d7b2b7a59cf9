"""Where MT-CL transfer does harm, as published: by target language, target task, size and family of the model."""

from __future__ import annotations

import pandas as pd

from analysis.measures.levels import LeftOut
from analysis.measures.transfer import (
    BUCKETS,
    HUMAN,
    MACHINE,
    UNKNOWN,
    constructions,
    families,
    of_regime,
    size_buckets,
    summary,
)
from registry.cells import Regime

__all__ = ["FACTORS", "construction", "harm"]

#: What the harm is broken down by.
FACTORS = ("target_language", "target_task", "size_bucket", "model_family")


def harm(cells: pd.DataFrame) -> pd.DataFrame:
    """Break the MT-CL cells down by one factor at a time.

    Returns
    -------
    DataFrame
        ``factor`` (one of `FACTORS`), ``level``, and ``n``, ``mean``, ``median`` (pp), ``positive_pct``, ``harm_pct``
        (percent). Within a factor the most harmed first, sizes from small to large. Empty without MT-CL cells.
    """
    rows = of_regime(cells, Regime.MT_CL)
    levels = {
        "target_language": rows["target_language"].astype(str),
        "target_task": rows["target_task"].astype(str),
        "size_bucket": size_buckets(rows),
        "model_family": families(rows),
    }
    found = [
        {"factor": factor, "level": level, **summary(delta)}
        for factor in FACTORS
        for level, delta in rows["delta"].groupby(levels[factor])
    ]
    table = pd.DataFrame(found, columns=["factor", "level", "n", "mean", "median", "positive_pct", "harm_pct"])
    return _ordered(table)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Sort factors as listed, sizes by size, and all else by harm, then by name."""
    sizes = table["level"].map({name: i for i, name in enumerate((*BUCKETS, UNKNOWN))})
    order = table.assign(
        _factor=table["factor"].map({name: i for i, name in enumerate(FACTORS)}),
        _size=sizes.where(table["factor"] == "size_bucket", 0),
        _harm=-table["harm_pct"],
    )
    order = order.sort_values(["_factor", "_size", "_harm", "level"], kind="stable")
    return order.drop(columns=["_factor", "_size", "_harm"]).reset_index(drop=True)


# --- by how the items came into other languages


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
