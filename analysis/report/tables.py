"""The parts of the report: paragraphs, figures, and tables as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.corrected.correct import Corrected
from analysis.corrected.regimes import written_intervals
from analysis.measures.numerals import fixed, pp

__all__ = [
    "ReportColumn", "ReportPart", "ReportTable", "count", "delta", "format_rate", "headline_tables", "number",
    "percent", "probability", "report_table", "text", "text_column",
]  # fmt: skip

_LONG = 40  # characters from which a value is a sentence


@dataclass(frozen=True, eq=False)
class ReportColumn:
    """A column as shown: its heading and how its values are written; ``words`` stand at the left."""

    heading: str
    write: Callable[[Any], str]
    words: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table as shown: its caption, headings with whether they stand over words, rows of text, and its file."""

    caption: str
    headings: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    file: str
    more: int = 0

    @property
    def words(self) -> tuple[bool, ...]:
        """Whether each column holds words."""
        return tuple(words for _, words in self.headings)

    @property
    def long(self) -> tuple[bool, ...]:
        """Whether each column holds sentences."""
        columns = zip(*self.rows, strict=True)
        return tuple(max(map(len, column)) > _LONG for column in columns) if self.rows else ()


@dataclass(frozen=True)
class ReportPart:
    """A part of a section: address, title, paragraphs, names of figures, tables, and what to beware of."""

    anchor: str
    title: str
    paragraphs: tuple[str, ...]
    figures: tuple[str, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    warnings: tuple[str, ...] = ()


def report_table(
    table: pd.DataFrame, caption: str, columns: Mapping[str, ReportColumn], file: str, *, most: int | None = None
) -> ReportTable:
    """Write a table for the report: the columns named, the first ``most`` rows; the first column names its row.

    A column of words that says nothing in any row is left out.
    """
    rows = table if most is None else table.head(most)
    records = rows.to_dict("records")
    written = {column: [column.write(row[name]) for row in records] for name, column in columns.items()}
    kept = {column: values for column, values in written.items() if not (column.words and values and not any(values))}
    headings = tuple((column.heading, column.words) for column in kept)
    return ReportTable(caption, headings, tuple(zip(*kept.values(), strict=True)), file, len(table) - len(rows))


def text(heading: str) -> ReportColumn:
    """Return a column of words."""
    return ReportColumn(heading, str, words=True)


def count(heading: str) -> ReportColumn:
    """Return a column of whole numbers."""
    return ReportColumn(heading, lambda value: f"{value:,}")


def delta(heading: str) -> ReportColumn:
    """Return a column of deltas in pp, with their signs."""
    return ReportColumn(f"{heading}, pp", pp)


def percent(heading: str) -> ReportColumn:
    """Return a column of percentages."""
    return ReportColumn(f"{heading}, %", lambda value: fixed(value, 1))


def number(heading: str, decimals: int = 2) -> ReportColumn:
    """Return a column of numbers with fixed decimals."""
    return ReportColumn(heading, lambda value: fixed(value, decimals))


def probability(heading: str = "p") -> ReportColumn:
    """Return a column of p-values, small ones as a bound."""
    return ReportColumn(heading, lambda value: "< 0.001" if value < 0.001 else fixed(value, 3))


# --- the first tables of the report: deltas per regime with intervals, and rates beside those expected by chance


def headline_tables(corrected: Corrected) -> tuple[ReportTable, ReportTable]:
    """Return the report's first tables: deltas per regime with intervals, and rates beside chance."""
    table = corrected.tables["regimes"]
    rates = {}
    for rate in ("positive", "harm"):
        names = [f"{rate}_{part}_pct" for part in ("posterior", "low", "high")]
        rates[rate] = [format_rate(*values) for values in table[names].itertuples(index=False, name=None)]
    ends = written_intervals(table)
    rows = table.assign(**ends, positive_corrected=rates["positive"], harm_corrected=rates["harm"])
    deltas = {
        "regime": text("Regime"),
        "n": count("Cells"),
        "mean": delta("Mean Δ"),
        "median": delta("Median"),
        **{what: text_column(f"95%, {what}, pp") for what in ends},
    }
    shares = {
        "regime": text("Regime"),
        "positive_pct": percent("Positive"),
        "positive_by_chance_pct": percent("Positive by chance"),
        "positive_corrected": text_column("Positive, corrected, %"),
        "harm_pct": percent("Harm"),
        "harm_by_chance_pct": percent("Harm by chance"),
        "harm_corrected": text_column("Harm, corrected, %"),
    }
    return (
        report_table(rows, "Mean Δ per regime", deltas, "regimes.csv"),
        report_table(rows, "How many cells gain and how many are harmed", shares, "regimes.csv"),
    )


def text_column(heading: str) -> ReportColumn:
    """Return a column of numbers that are written already."""
    return ReportColumn(heading, str)


def format_rate(rate: float, low: float, high: float) -> str:
    """Write a rate with its interval, in percent."""
    return "–" if np.isnan(rate) else f"{fixed(rate, 1)} ({fixed(low, 1)} to {fixed(high, 1)})"
