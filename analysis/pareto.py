"""Which adapters help other languages without hurting other tasks (arXiv 2511.13368)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.regimes import harm_pct, transfer_rows
from registry.cells import Regime

__all__ = ["by_source_task", "pareto", "size_bucket"]

_ADAPTER = ["model", "model_family", "model_size_b", "source_task", "source_language"]
_OFF_TASK = [str(regime) for regime in Regime if regime.off_task]


def size_bucket(size_b: float) -> str:
    """Return S (up to 1.5), M or L (7 and more) for a size in billions of parameters."""
    if size_b <= 1.5:
        return "S"
    return "L" if size_b >= 7 else "M"


def pareto(cells: pd.DataFrame) -> pd.DataFrame:
    """Place every (model, source) by what it gives other languages of its task and what it does to other tasks.

    Returns
    -------
    DataFrame
        ``model``, ``model_family``, ``model_size_b``, ``source_task``, ``source_language``; ``mt_cl_mean``, mean delta
        over MT-CL targets; ``off_task_mean``, over CT-ML and CT-CL targets together; ``transfer_mean``, over all three
        (pp); ``off_task_harm_pct``; ``on_front``, whether no other adapter is at least as good in both means and better
        in one.
    """
    transfer = transfer_rows(cells)
    off_task = transfer[transfer["regime"].isin(_OFF_TASK)].groupby(_ADAPTER)["delta"]
    matched = transfer[transfer["regime"] == str(Regime.MT_CL)].groupby(_ADAPTER)["delta"]
    table = pd.DataFrame(
        {
            "mt_cl_mean": matched.mean(),
            "off_task_mean": off_task.mean(),
            "transfer_mean": transfer.groupby(_ADAPTER)["delta"].mean(),
            "off_task_harm_pct": off_task.agg(harm_pct).astype(np.float64),
        }
    )
    table["on_front"] = _front(table["mt_cl_mean"].to_numpy(), table["off_task_mean"].to_numpy())
    return table.reset_index()


def _front(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points no other dominates, larger being better; a point without both values is not on the front."""
    placed = np.isfinite(x) & np.isfinite(y)
    at_least = (x[:, None] >= x) & (y[:, None] >= y)
    better = (x[:, None] > x) | (y[:, None] > y)
    dominated = np.logical_or.reduce(at_least & better, axis=0)
    return np.asarray(placed & ~dominated, dtype=np.bool_)


def by_source_task(points: pd.DataFrame) -> pd.DataFrame:
    """Average the adapters of each source task: ``source_task``, ``n``, and the means of the columns of `pareto`."""
    return (
        points.groupby("source_task")
        .agg(
            n=("model", "size"),
            mt_cl_mean=("mt_cl_mean", "mean"),
            off_task_mean=("off_task_mean", "mean"),
            off_task_harm_pct=("off_task_harm_pct", "mean"),
        )
        .reset_index()
    )
