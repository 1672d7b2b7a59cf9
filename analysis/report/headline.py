"""The report's first tables: deltas per regime with intervals, and rates beside what chance alone would show."""

from __future__ import annotations

import numpy as np

from analysis.corrected.correct import Corrected
from analysis.corrected.regimes import written_intervals
from analysis.measures.numerals import fixed
from analysis.report.tables import Column, Shown, count, delta, percent, shown, text

__all__ = ["headline", "rate_written", "written"]


def headline(corrected: Corrected) -> tuple[Shown, Shown]:
    """Return the report's first tables: deltas per regime with intervals, and rates beside chance."""
    table = corrected.tables["regimes"]
    rates = {}
    for rate in ("positive", "harm"):
        names = [f"{rate}_{part}_pct" for part in ("posterior", "low", "high")]
        rates[rate] = [rate_written(*values) for values in table[names].itertuples(index=False, name=None)]
    ends = written_intervals(table)
    rows = table.assign(**ends, positive_corrected=rates["positive"], harm_corrected=rates["harm"])
    deltas = {
        "regime": text("Regime"),
        "n": count("Cells"),
        "mean": delta("Mean Δ"),
        "median": delta("Median"),
        **{what: written(f"95 %, {what}, pp") for what in ends},
    }
    shares = {
        "regime": text("Regime"),
        "positive_pct": percent("Positive"),
        "positive_by_chance_pct": percent("Positive by chance"),
        "positive_corrected": written("Positive, corrected, %"),
        "harm_pct": percent("Harm"),
        "harm_by_chance_pct": percent("Harm by chance"),
        "harm_corrected": written("Harm, corrected, %"),
    }
    return (
        shown(rows, "Mean Δ per regime", deltas, "regimes.csv"),
        shown(rows, "How many cells gain and how many are harmed", shares, "regimes.csv"),
    )


def written(heading: str) -> Column:
    """Return a column of numbers that are written already."""
    return Column(heading, str)


def rate_written(rate: float, low: float, high: float) -> str:
    """Write a rate with its interval, in percent."""
    return "–" if np.isnan(rate) else f"{fixed(rate, 1)} ({fixed(low, 1)} to {fixed(high, 1)})"
