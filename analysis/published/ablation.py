"""Two variants of a study cell by cell, as in the published ablations: ranks of LoRA, LoRA against full fine-tuning."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.measures.uplift import by_regime
from analysis.published.construction import correlate
from registry.tracking.columns import CELL_KEY

__all__ = ["ABLATION_COLUMNS", "ablation", "matched_cells"]

ABLATION_COLUMNS = [
    "variant", "against", "regime", "n", "pearson", "pearson_p", "spearman", "sign_agreement_pct", "mean_difference",
]  # fmt: skip


def matched_cells(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return the cells (model, source, target) that two tables of cells share.

    Returns
    -------
    DataFrame
        The key, ``regime``, ``delta`` of the one, ``delta_against`` of the other, ``difference`` (pp).
    """
    columns = [*CELL_KEY, "regime", "delta"]
    both = one[columns].merge(other[[*CELL_KEY, "delta"]], on=CELL_KEY, suffixes=("", "_against"))
    both = both.dropna(subset=["delta", "delta_against"])
    return both.assign(difference=both["delta"] - both["delta_against"])


def ablation(one: pd.DataFrame, other: pd.DataFrame, *, names: tuple[str, str]) -> pd.DataFrame:
    """Compare two tables of cells by regime, over the cells that both have.

    Parameters
    ----------
    names
        What the two are called.

    Returns
    -------
    DataFrame
        `ABLATION_COLUMNS`, one row per regime with shared cells, then ``transfer``: correlations of delta;
        ``sign_agreement_pct``, the share of cells in which both are positive, both negative or both zero;
        ``mean_difference``, the one's delta minus the other's (pp).
    """
    rows = []
    for regime, cells in by_regime(matched_cells(one, other)):
        if cells.empty:
            continue
        left, right = cells["delta"], cells["delta_against"]
        pearson, spearman = correlate(left, right, ranks=False), correlate(left, right, ranks=True)
        agreement = float((np.sign(left) == np.sign(right)).mean() * 100)
        rows.append(
            (*names, regime, len(cells), *pearson, spearman.value, agreement, float(cells["difference"].mean()))
        )
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)
