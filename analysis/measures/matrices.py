"""Mean transfer between tasks and between languages, as in "Donors and Recipients" (arXiv 2511.13368)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.measures.uplift import transfer_rows
from registry.cells import Regime

__all__ = ["language_matrix", "long_form", "task_matrix"]


def task_matrix(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean delta (pp) from task to task within a language, CT-ML cells only.

    Returns
    -------
    DataFrame
        Source tasks as rows, target tasks as columns; the diagonal, which has no CT-ML cells, is NaN.
    """
    matrix = _means(cells[cells["regime"] == str(Regime.CT_ML)], "task")
    rows, columns = matrix.index.to_numpy()[:, None], matrix.columns.to_numpy()[None, :]
    return matrix.mask(rows == columns)


def language_matrix(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean delta (pp) by fine-tuned language and evaluated language, over all transfer cells.

    Off the diagonal this averages MT-CL and CT-CL; on it only CT-ML, because the trained cell itself (MT-ML) is left
    out.

    Returns
    -------
    DataFrame
        Fine-tuned languages as rows, evaluated languages as columns; NaN where nothing was measured.
    """
    return _means(transfer_rows(cells), "language")


def _means(rows: pd.DataFrame, factor: str) -> pd.DataFrame:
    """Average delta by source level (rows) and target level (columns) of a factor, both in alphabetical order."""
    source, target = f"source_{factor}", f"target_{factor}"
    means = rows.groupby([source, target])["delta"].mean().unstack()
    return means.sort_index(axis=0).sort_index(axis=1).astype(np.float64)


def long_form(matrices: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return matrices as one row per measured field: ``matrix`` (its key), ``source``, ``target``, ``mean`` (pp)."""
    parts = [
        matrix.rename_axis(index="source", columns="target").stack().dropna().rename("mean").reset_index()
        for matrix in matrices.values()
        if matrix.size
    ]
    if not parts:
        return pd.DataFrame(columns=["matrix", "source", "target", "mean"])
    keys = [name for name, matrix in matrices.items() if matrix.size]
    return pd.concat(parts, keys=keys, names=["matrix"]).reset_index("matrix").reset_index(drop=True)
