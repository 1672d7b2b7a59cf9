"""Matrices of mean delta as heatmaps."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.style import GRID, MUTED, PAPER, STYLE
from analysis.numerals import pp

__all__ = ["heatmap"]

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
            column + 0.5,
            row + 0.5,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color="#ffffff" if dark else _BLACK,
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
