"""The matrices of mean deltas as figures: of the deltas as measured, of the shrunken, of the significant alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.measures import levels
from analysis.measures.levels import LeftOut
from analysis.measures.numerals import pp
from analysis.measures.transfer import language_matrix, task_matrix
from analysis.report.figures.style import GRID, MUTED, PAPER, STYLE, Drawing, save

__all__ = ["RAW", "SHOWN", "SIGNIFICANT", "heatmap", "matrix_drawings"]

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


def matrix_drawings(
    folder: Path, tasks: pd.DataFrame, languages: pd.DataFrame, cells: pd.DataFrame, shown: str
) -> list[Drawing | LeftOut]:
    """Draw both matrices in every version the cells allow; ``shown``, if it is one of those, is the one embedded.

    Parameters
    ----------
    tasks, languages
        The two matrices of the cells as measured, of `analysis.measures.transfer`.
    cells
        Cells with ``shrunken`` and ``q`` besides, NaN where they are not known.
    """
    versions = {}
    if cells["shrunken"].notna().any():
        versions[SHRUNKEN] = cells.assign(delta=cells["shrunken"])
    if cells["q"].notna().any():
        versions[SIGNIFICANT] = cells[cells["q"] <= levels.SIGNIFICANT]
    of_tasks = {version: task_matrix(rows) for version, rows in versions.items()}
    of_languages = {version: language_matrix(rows) for version, rows in versions.items()}
    return [
        _tasks(folder, {RAW: tasks, **of_tasks}, shown),
        _languages(folder, {RAW: languages, **of_languages}, shown),
    ]


def _tasks(folder: Path, matrices: dict[str, pd.DataFrame], shown: str) -> Drawing | LeftOut:
    title = "From task to task"
    if matrices[RAW].isna().all(axis=None):
        return LeftOut(title, "it takes adapters evaluated on another task in their own language (CT-ML); none was.")
    caption = "Mean Δ on another task in the same language (CT-ML). Hatched: not a transfer, or not measured."
    titles = ("fine-tuned task", "evaluated task")
    return _drawn(folder, "task_matrix", title, caption, matrices, shown, titles)


def _languages(folder: Path, matrices: dict[str, pd.DataFrame], shown: str) -> Drawing | LeftOut:
    title, raw = "From language to language", matrices[RAW]
    if raw.shape[1] < 2 and raw.shape[0] < 2:
        there = "one" if raw.size else "no transfer cell"
        return LeftOut(title, f"it takes at least two languages; there is {there}.")
    caption = (
        "Mean Δ over all tasks, the trained cell itself (MT-ML) left out. The outlined diagonal therefore holds other "
        "tasks in the same language only (CT-ML)."
    )
    titles = ("fine-tuned language", "evaluated language")
    return _drawn(folder, "language_matrix", title, caption, matrices, shown, titles, diagonal=True)


def _drawn(
    folder: Path,
    name: str,
    title: str,
    caption: str,
    matrices: dict[str, pd.DataFrame],
    shown: str,
    titles: tuple[str, str],
    *,
    diagonal: bool = False,
) -> Drawing:
    """Draw and save every version; all have the fields of the one as measured."""
    chosen = shown if shown in matrices else RAW
    files: dict[str, tuple[Path, Path]] = {}
    for version, matrix in matrices.items():
        stem = name if version == chosen else f"{name}_{version}"
        fields = matrix.reindex_like(matrices[RAW])
        png, svg = save(heatmap(fields, rows=titles[0], columns=titles[1], frame_diagonal=diagonal), folder, stem)
        files[version] = (png, svg)
    others = tuple((version, *paths) for version, paths in files.items() if version != chosen)
    said = f"{caption} {_WORDS[chosen]}"
    file = "published/matrices.csv" if chosen == RAW else "cells.parquet"
    extremes = _extremes(matrices[chosen].reindex_like(matrices[RAW]))
    return Drawing(name, title, said, extremes, *files[chosen], table=file, others=others)


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


# --- matrices of mean delta as heatmaps


# Red for loss, blue for gain: the published red and green are one colour to one reader in twelve men.
# An odd number of steps keeps zero white.
_PALETTE = mpl.colormaps["RdBu"].resampled(65)
_BLACK = "#101418"  # on the palette, whatever the page: not a colour that follows it into the dark
_ALWAYS_NUMBERED = 150  # a matrix of up to this many fields shows all its numbers
_LARGE_PP = 1.0  # a larger matrix only those of at least this size


def heatmap(matrix: pd.DataFrame, *, rows: str, columns: str, frame_diagonal: bool = False) -> Figure:
    """Draw a matrix of mean deltas in pp on a diverging palette with symmetric limits.

    Parameters
    ----------
    matrix
        Sources as rows, targets as columns; NaN is drawn as an empty, hatched field.
    rows, columns
        Titles of the two axes.
    frame_diagonal
        Outline the fields whose row and column have the same name: they average other cells than the rest.
    """
    values = matrix.to_numpy(dtype=np.float64)
    n_rows, n_columns = values.shape
    field = float(np.clip(7.4 / max(n_rows, n_columns), 0.25, 0.8))  # inches
    limit = max(float(np.abs(values[np.isfinite(values)]).max(initial=0.0)), 1e-9)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 + field * n_columns, 1.5 + 0.8 * field * n_rows), layout="constrained")
        axes = figure.add_subplot()
        axes.set_facecolor(GRID)
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(values), cmap=_PALETTE, vmin=-limit, vmax=limit, edgecolors=PAPER, linewidth=1.0
        )
        axes.set(xlabel=columns, ylabel=rows)
        axes.set_xticks(np.arange(n_columns) + 0.5, matrix.columns.astype(str))
        axes.set_yticks(np.arange(n_rows) + 0.5, matrix.index.astype(str))
        if max(map(len, matrix.columns.astype(str))) * 0.085 > field:
            axes.tick_params(axis="x", labelrotation=45 if field > 0.5 else 90)
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        _numbers(axes, values, limit=limit, size=float(np.clip(field * 15, 5, 9)))
        _marks(axes, matrix, frame_diagonal=frame_diagonal)
        bar = figure.colorbar(mesh, ax=axes, label="mean Δ (pp)", shrink=0.9, aspect=24, pad=0.02)
        if bar.solids is not None:
            bar.solids.set(rasterized=False, edgecolor="face")  # no picture inside the vector file
        bar.outline.set_visible(False)
    return figure


def _numbers(
    axes: Axes, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], *, limit: float, size: float
) -> None:
    """Write the values into their fields, all of them or the large ones, in black or white by the field's lightness."""
    everything = values.size <= _ALWAYS_NUMBERED
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value) or not (everything or abs(value) >= _LARGE_PP):
            continue
        red, green, blue, _ = _PALETTE(Normalize(-limit, limit)(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = pp(value, 1 if limit >= _LARGE_PP else 2)
        axes.text(
            column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color="#ffffff" if dark else _BLACK
        )


def _marks(axes: Axes, matrix: pd.DataFrame, *, frame_diagonal: bool) -> None:
    """Hatch the fields without a value; outline the diagonal if asked."""
    for i, row in enumerate(matrix.index):
        for j, column in enumerate(matrix.columns):
            if not np.isfinite(matrix.iat[i, j]):
                axes.add_patch(
                    Rectangle((j, i), 1, 1, fill=False, hatch="////", edgecolor=MUTED, alpha=0.35, linewidth=0)
                )
            elif frame_diagonal and row == column:
                axes.add_patch(Rectangle((j + 0.05, i + 0.05), 0.9, 0.9, fill=False, edgecolor=_BLACK, linewidth=1.0))
