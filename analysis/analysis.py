"""A study's frame to a folder of tables, figures and a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.figures import LeftOut, draw
from analysis.frame import Frame
from analysis.matrices import language_matrix, task_matrix
from analysis.observations import cells
from analysis.pareto import pareto
from analysis.regimes import contrasts, regimes
from analysis.report import write_report
from analysis.roles import roles

__all__ = ["Analysis", "analyze"]


@dataclass(frozen=True)
class Analysis:
    """What an analysis wrote.

    Attributes
    ----------
    output
        The folder; it can be moved or logged as a whole, its links are relative.
    report
        The report in it.
    files
        Every file written, the report last.
    regimes, contrasts
        The tables of `analysis.regimes`.
    left_out
        Parts this grid did not allow, with reasons.
    notes
        What a reader must know about the data, from the frame.
    """

    output: Path
    report: Path
    files: tuple[Path, ...]
    regimes: pd.DataFrame
    contrasts: pd.DataFrame
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def analyze(frame: Frame, output: Path) -> Analysis:
    """Compute every table and figure the grid allows and write them, with the report, into a folder.

    Parameters
    ----------
    frame
        The study as recorded.
    output
        Folder to write to; made if absent. The files of an earlier analysis are replaced.
    """
    output.mkdir(parents=True, exist_ok=True)
    by_cell = cells(frame.observations)
    tables = {
        "regimes": regimes(by_cell),
        "contrasts": contrasts(by_cell),
        "roles": roles(by_cell),
        "pareto": pareto(by_cell),
        "baselines": frame.baselines,
    }
    matrices = {"task_matrix": task_matrix(by_cell), "language_matrix": language_matrix(by_cell)}
    written = _write(output, {"cells": by_cell, "observations": frame.observations}, tables, matrices)
    drawings, left_out = draw(
        output / "figures",
        points=tables["pareto"],
        roles=tables["roles"],
        tasks=matrices["task_matrix"],
        languages=matrices["language_matrix"],
    )
    downloads = [path.name for path in written]
    report = write_report(output / "report.html", frame, tables, drawings, left_out, downloads)
    files = (*written, *(path for drawing in drawings for path in (drawing.png, drawing.svg)), report)
    return Analysis(output, report, files, tables["regimes"], tables["contrasts"], tuple(left_out), frame.notes)


def _write(
    output: Path, frames: dict[str, pd.DataFrame], tables: dict[str, pd.DataFrame], matrices: dict[str, pd.DataFrame]
) -> list[Path]:
    """Write frames as Parquet, tables and matrices as CSV; return the files."""
    written = []
    for name, table in frames.items():
        written.append(output / f"{name}.parquet")
        table.to_parquet(written[-1], index=False)
    for name, table in (tables | matrices).items():
        written.append(output / f"{name}.csv")
        table.to_csv(written[-1], index=name in matrices)
    return written
