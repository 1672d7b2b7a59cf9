"""A toy analysis: how many targets of each regime moved at all, by base model."""

from __future__ import annotations

import pandas as pd

from analysis.report.tables import ReportPart, report_table, text
from registry.errors import Refused


def moved(cells: pd.DataFrame) -> pd.DataFrame:
    """Count the cells of each base model and regime whose delta is not zero."""
    if cells["delta"].eq(0).all():
        raise Refused("no delta differs from zero")
    counts = cells.assign(moved=cells["delta"] != 0).groupby(["model", "regime"], as_index=False)["moved"].sum()
    return counts.assign(moved=counts["moved"].astype(str))


def moved_part(table: pd.DataFrame) -> ReportPart:
    """Show the counts."""
    columns = {"model": text("Base model"), "regime": text("Regime"), "moved": text("Targets that moved")}
    rows = report_table(table, "Targets that moved", columns, "moved.csv")
    return ReportPart("moved", "Targets that moved", ("Targets whose score is not the baseline's.",), tables=(rows,))
