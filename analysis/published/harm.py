"""Where transfer harms, as published: MT-CL cells by factor, and adapters by their gain and cost (arXiv 2511.13368).

The Pareto front is ours: the paper shows the points alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
    transfer_rows,
)
from registry.cells import HARM_PP, Regime
from registry.tracking.columns import ADAPTER

__all__ = ["FACTORS", "by_source_task", "construction", "harm", "on_off_task", "pareto"]

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


# --- by how the items were translated


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


# --- adapters by gain on other languages and cost on other tasks


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
