"""Where MT-CL transfer does harm, as published: by target language, target task, size and family of the model."""

from __future__ import annotations

import pandas as pd

from analysis.measures.groups import BUCKETS, UNKNOWN, families, size_buckets
from analysis.measures.uplift import of_regime, summary
from registry.cells import Regime

__all__ = ["FACTORS", "harm"]

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
