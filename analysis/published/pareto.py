"""Which adapters help other languages without hurting other tasks, as published (arXiv 2511.13368).

The front is ours: the paper shows the points alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.measures.transfer import families, size_buckets, summary, transfer_rows
from registry.cells import HARM_PP, Regime
from registry.tracking.columns import ADAPTER

__all__ = ["by_source_task", "on_off_task", "pareto"]

_OFF_TASK = [str(regime) for regime in Regime if regime.off_task]


def pareto(cells: pd.DataFrame) -> pd.DataFrame:
    """Place every (model, source) by what it gives other languages of its task and what it does to other tasks.

    Returns
    -------
    DataFrame
        ``model``, ``model_family``, ``model_size_b``, ``size_bucket``, ``source_task``, ``source_language``;
        ``mt_cl_mean``, mean delta over MT-CL targets; ``off_task_mean``, over CT-ML and CT-CL targets together;
        ``transfer_mean``, over all three (pp); ``off_task_harm_pct``; ``on_front``, whether no other adapter is at
        least as good in both means and better in one.
    """
    transfer = transfer_rows(cells)
    off_task = transfer[transfer["regime"].isin(_OFF_TASK)].assign(harm=lambda rows: rows["delta"] <= HARM_PP)
    cost = off_task.groupby(ADAPTER)
    matched = transfer[transfer["regime"] == str(Regime.MT_CL)].groupby(ADAPTER)["delta"]
    table = pd.DataFrame(
        {
            "mt_cl_mean": matched.mean(),
            "off_task_mean": cost["delta"].mean(),
            "transfer_mean": transfer.groupby(ADAPTER)["delta"].mean(),
            "off_task_harm_pct": cost["harm"].mean() * 100,
        }
    )
    table["on_front"] = _front(table["mt_cl_mean"].to_numpy(), table["off_task_mean"].to_numpy())
    return _with_model(table.reset_index(), cells)


def _with_model(table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Put family, size and size bucket behind the model's name."""
    models = cells.drop_duplicates("model")
    models = models.assign(model_family=families(models), size_bucket=size_buckets(models)).set_index("model")
    for at, column in enumerate(("model_family", "model_size_b", "size_bucket"), start=1):
        table.insert(at, column, table["model"].map(models[column]))
    return table


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


def on_off_task(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarise the transfer cells of each source task on its own task (MT-CL) and on other tasks (CT-ML, CT-CL).

    Returns
    -------
    DataFrame
        ``source_task``, ``targets`` (on-task, off-task), ``n``, ``mean``, ``median`` (pp), ``positive_pct``,
        ``harm_pct`` (percent).
    """
    transfer = transfer_rows(cells)
    side = transfer["regime"].isin(_OFF_TASK).map({False: "on-task", True: "off-task"})
    found = [
        {"source_task": task, "targets": targets, **summary(delta)}
        for (task, targets), delta in transfer["delta"].groupby([transfer["source_task"], side])
    ]
    columns = ["source_task", "targets", "n", "mean", "median", "positive_pct", "harm_pct"]
    return pd.DataFrame(found, columns=columns).sort_values(
        ["source_task", "targets"], ascending=[True, False], ignore_index=True
    )
