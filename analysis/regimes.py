"""Uplift per regime, as published, with standard errors of our own; differences between regimes.

Definitions: "Donors and Recipients" (arXiv 2511.13368), section 3. All deltas are in percentage points.
"""

from __future__ import annotations

from itertools import starmap

import pandas as pd

from analysis.clusters import one_way, two_way
from analysis.numerals import fixed, pp
from registry.cells import HARM_PP, Regime

__all__ = ["TRANSFER", "contrasts", "harm_pct", "positive_pct", "regimes", "regimes_as_text", "transfer_rows"]

#: Label of the row over all regimes but MT-ML.
TRANSFER = "transfer"

#: Differences that carry the paper's claims: minuend, subtrahend.
CONTRASTS = (
    (Regime.MT_ML, Regime.MT_CL),
    (Regime.MT_CL, Regime.CT_ML),
    (Regime.MT_CL, Regime.CT_CL),
)


def transfer_rows(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that count as transfer: all but the trained cell itself (MT-ML)."""
    return cells[cells["regime"] != str(Regime.MT_ML)]


def positive_pct(delta: pd.Series) -> float:
    """Share of positive transfer, delta > 0, in percent; NaN for no cells."""
    return float((delta > 0).mean() * 100)


def harm_pct(delta: pd.Series) -> float:
    """Share of harm, delta <= -1 pp, in percent; NaN for no cells."""
    return float((delta <= HARM_PP).mean() * 100)


def regimes(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarise delta per regime and over all transfer.

    Returns
    -------
    DataFrame
        One row per regime, then ``transfer``: ``regime``, ``n`` (cells), ``mean``, ``se``, ``median`` (pp),
        ``positive_pct``, ``harm_pct`` (percent), ``se_note``. A regime without cells has n 0 and NaN.

    Notes
    -----
    Mean, median and rates are the published summary. The standard error is clustered by source cell and by target cell;
    it holds for the models that were run, not for models at large, and is too small where models disagree.
    """
    groups = [(str(regime), cells[cells["regime"] == str(regime)]) for regime in Regime]
    return pd.DataFrame(list(starmap(_summary, [*groups, (TRANSFER, transfer_rows(cells))])))


def _summary(label: str, rows: pd.DataFrame) -> dict[str, object]:
    """Return one row of the regime table."""
    delta = rows["delta"]
    source, target = _cell_names(rows, "source"), _cell_names(rows, "target")
    se = two_way(delta, source, target, names=("source cell", "target cell"))
    return {
        "regime": label,
        "n": len(rows),
        "mean": float(delta.mean()),
        "se": se.value,
        "median": float(delta.median()),
        "positive_pct": positive_pct(delta),
        "harm_pct": harm_pct(delta),
        "se_note": se.note,
    }


def contrasts(cells: pd.DataFrame) -> pd.DataFrame:
    """Compare regimes within the same adapters.

    For every (model, source) with targets in both regimes, the difference of its two mean deltas; then their mean, with
    a standard error clustered by source cell.

    Returns
    -------
    DataFrame
        ``contrast``, ``n`` (model × source pairs), ``n_sources``, ``difference``, ``se`` (pp), ``se_note``.
    """
    adapters = cells.pivot_table(
        index=["model", "source_task", "source_language"], columns="regime", values="delta", aggfunc="mean"
    ).reindex(columns=[str(regime) for regime in Regime])
    return pd.DataFrame([_contrast(adapters, str(left), str(right)) for left, right in CONTRASTS])


def _contrast(adapters: pd.DataFrame, left: str, right: str) -> dict[str, object]:
    """Return one row of the contrasts table."""
    paired = (adapters[left] - adapters[right]).dropna().rename("difference").reset_index()
    source = _cell_names(paired, "source")
    se = one_way(paired["difference"], source, name="source cell")
    return {
        "contrast": f"{left} − {right}",
        "n": len(paired),
        "n_sources": source.nunique(),
        "difference": float(paired["difference"].mean()),
        "se": se.value,
        "se_note": se.note if len(paired) else f"no adapter has targets in both {left} and {right}",
    }


def _cell_names(rows: pd.DataFrame, end: str) -> pd.Series:
    """Return the source or target cells of rows as ``task/language``."""
    return rows[f"{end}_task"].astype(str) + "/" + rows[f"{end}_language"].astype(str)


def regimes_as_text(table: pd.DataFrame) -> str:
    """Return the regime table as aligned text for a terminal; a dash stands for a number that does not exist."""
    header = ["regime", "cells", "mean Δ pp", "SE", "median", "positive %", "harm %"]
    lines = [header]
    for _, row in table.iterrows():
        rates = [fixed(row["positive_pct"], 1), fixed(row["harm_pct"], 1)]
        lines.append([row["regime"], f"{row['n']:,}", pp(row["mean"]), fixed(row["se"]), pp(row["median"]), *rates])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join("  " + text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )
