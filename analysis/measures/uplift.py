"""Uplift as published: how far and how often fine-tuning on one cell moves the others.

Definitions: "Donors and Recipients" (arXiv 2511.13368), section 3. All deltas are in percentage points.
"""

from __future__ import annotations

from typing import TypedDict

import pandas as pd

from registry.cells import HARM_PP, Regime

__all__ = [
    "TRANSFER",
    "Summary",
    "by_regime",
    "harm_pct",
    "of_regime",
    "positive_pct",
    "summary",
    "transfer_rows",
    "uplift",
]

#: Label of the row over all regimes but MT-ML.
TRANSFER = "transfer"


class Summary(TypedDict):
    """Number of cells, mean and median delta (pp), shares of positive transfer and of harm (percent)."""

    n: int
    mean: float
    median: float
    positive_pct: float
    harm_pct: float


def transfer_rows(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that count as transfer: all but the trained cell itself (MT-ML)."""
    return cells[cells["regime"] != str(Regime.MT_ML)]


def of_regime(cells: pd.DataFrame, regime: Regime) -> pd.DataFrame:
    """Return the cells of one regime."""
    return cells[cells["regime"] == str(regime)]


def by_regime(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return every regime with its cells, then `TRANSFER` with all that count as transfer."""
    return [*((str(regime), of_regime(cells, regime)) for regime in Regime), (TRANSFER, transfer_rows(cells))]


def positive_pct(delta: pd.Series) -> float:
    """Share of positive transfer, delta > 0, in percent; NaN for no cells."""
    return float((delta > 0).mean() * 100)


def harm_pct(delta: pd.Series) -> float:
    """Share of harm, delta <= -1 pp, in percent; NaN for no cells."""
    return float((delta <= HARM_PP).mean() * 100)


def summary(delta: pd.Series) -> Summary:
    """Summarise deltas (pp); for no cells ``n`` is 0 and the rest NaN."""
    return {
        "n": len(delta),
        "mean": float(delta.mean()),
        "median": float(delta.median()),
        "positive_pct": positive_pct(delta),
        "harm_pct": harm_pct(delta),
    }


def uplift(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarise delta per regime and over all transfer.

    Returns
    -------
    DataFrame
        ``regime`` (the four, then ``transfer``) and the columns of `Summary`.
    """
    return pd.DataFrame([{"regime": label, **summary(rows["delta"])} for label, rows in by_regime(cells)])
