"""The matrices of mean deltas as figures: of the deltas as measured, of the shrunken, of the significant alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pandas as pd

from analysis import levels
from analysis.figures.drawing import Drawing
from analysis.figures.heatmap import heatmap
from analysis.figures.style import save
from analysis.left_out import LeftOut
from analysis.numerals import pp
from analysis.published.matrices import language_matrix, task_matrix

__all__ = ["RAW", "SHOWN", "SIGNIFICANT", "matrix_drawings"]

RAW, SHRUNKEN, SIGNIFICANT = "raw", "shrunken", "significant"

#: What a heatmap can show of the cells.
SHOWN: Final = (RAW, SHRUNKEN, SIGNIFICANT)

_WORDS: Final = {
    RAW: "Cells as measured.",
    SHRUNKEN: "Cells shrunken towards what their model, source and target make likely.",
    SIGNIFICANT: (
        f"Only cells whose change is significant (q ≤ {levels.SIGNIFICANT:g}): a mean over those alone is further from "
        "zero than the truth. Hatched fields have none."
    ),
}


def matrix_drawings(folder: Path, cells: pd.DataFrame, shown: str) -> list[Drawing | LeftOut]:
    """Draw both matrices in every version the cells allow; ``shown``, if it is one of those, is the one embedded.

    Parameters
    ----------
    cells
        Cells with ``shrunken`` and ``q`` besides, NaN where they are not known.
    """
    versions = {RAW: cells}
    if cells["shrunken"].notna().any():
        versions[SHRUNKEN] = cells.assign(delta=cells["shrunken"])
    if cells["q"].notna().any():
        versions[SIGNIFICANT] = cells[cells["q"] <= levels.SIGNIFICANT]
    return [_tasks(folder, versions, shown), _languages(folder, versions, shown)]


def _tasks(folder: Path, versions: dict[str, pd.DataFrame], shown: str) -> Drawing | LeftOut:
    title = "From task to task"
    matrix = task_matrix(versions[RAW])
    if matrix.empty or matrix.isna().all(axis=None):
        return LeftOut(title, "it takes adapters evaluated on another task in their own language (CT-ML); none was.")
    caption = "Mean Δ on another task in the same language (CT-ML). Hatched: not a transfer, or not measured."
    titles = ("fine-tuned task", "evaluated task")
    return _drawn(folder, "task_matrix", title, caption, versions, shown, task_matrix, titles)


def _languages(folder: Path, versions: dict[str, pd.DataFrame], shown: str) -> Drawing | LeftOut:
    title = "From language to language"
    matrix = language_matrix(versions[RAW])
    if matrix.shape[1] < 2 and matrix.shape[0] < 2:
        there = "one" if matrix.size else "no transfer cell"
        return LeftOut(title, f"it takes at least two languages; there is {there}.")
    caption = (
        "Mean Δ over all tasks, the trained cell itself (MT-ML) left out. The outlined diagonal therefore holds other "
        "tasks in the same language only (CT-ML)."
    )
    titles = ("fine-tuned language", "evaluated language")
    return _drawn(folder, "language_matrix", title, caption, versions, shown, language_matrix, titles)


def _drawn(
    folder: Path,
    name: str,
    title: str,
    caption: str,
    versions: dict[str, pd.DataFrame],
    shown: str,
    matrix_of: Callable[[pd.DataFrame], pd.DataFrame],
    titles: tuple[str, str],
) -> Drawing | LeftOut:
    """Draw and save every version; all have the fields of the one as measured."""
    raw = matrix_of(versions[RAW])
    matrices = {
        version: matrix_of(cells).reindex(index=raw.index, columns=raw.columns) for version, cells in versions.items()
    }
    chosen = shown if shown in matrices else RAW
    files: dict[str, tuple[Path, Path]] = {}
    for version, matrix in matrices.items():
        stem = name if version == chosen else f"{name}_{version}"
        diagonal = matrix_of is language_matrix
        png, svg = save(heatmap(matrix, rows=titles[0], columns=titles[1], frame_diagonal=diagonal), folder, stem)
        files[version] = (png, svg)
    others = tuple((version, *paths) for version, paths in files.items() if version != chosen)
    said = f"{caption} {_WORDS[chosen]}"
    file = "published/matrices.csv" if chosen == RAW else "cells.parquet"
    return Drawing(name, title, said, _extremes(matrices[chosen]), *files[chosen], table=file, others=others)


def _extremes(matrix: pd.DataFrame) -> str:
    """Describe a matrix by its size and its extremes, for readers who do not see it."""
    size = f"Heatmap of {matrix.shape[0]} by {matrix.shape[1]} mean deltas."
    values = matrix.rename_axis(index="source", columns="target").stack().dropna()
    if values.empty:
        return f"{size} No field has a value."
    (low_source, low_target), (high_source, high_target) = values.idxmin(), values.idxmax()
    return (
        f"{size} Highest: {high_source} to {high_target}, "
        f"{pp(values.max())} pp. Lowest: {low_source} to {low_target}, {pp(values.min())} pp."
    )
