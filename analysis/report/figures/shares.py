"""Shares of variance: corrected, with intervals, beside the published fit."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.corrected.variance.model import SAMPLING
from analysis.corrected.variance.terms import CELL, RESIDUAL, TERMS
from analysis.report.figures.style import GRID, INK, MARKERS, MUTED, PAPER, STYLE

__all__ = ["shares_figure"]

_ORDER = [CELL, *TERMS, RESIDUAL, SAMPLING]
_BLUE, _ORANGE = "#0072b2", "#d55e00"
_LINE = 0.36  # inches per component
_APART = 0.36  # of a line, between the marks of two fits


def shares_figure(corrected: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Draw the shares of one scope, in percent.

    Parameters
    ----------
    corrected
        Rows of one scope of `analysis.corrected.variance.model`; components without a share are not drawn.
    published
        Rows of the same cells of `analysis.published.variance`; may be empty.
    """
    rows = corrected.dropna(subset="share")
    published = published.dropna(subset="share_pct")
    there = {*rows["component"], *published["component"].str.lower()}
    names = [name for name in _ORDER if name in there]
    at = {name: len(names) - 1 - place for place, name in enumerate(names)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 1.3 + _LINE * len(names)), layout="constrained")
        axes = figure.add_subplot()
        y = rows["component"].map(at).to_numpy(dtype=np.float64)
        axes.barh(y, 100 * rows["share"], height=0.62, color=_BLUE, alpha=0.45, zorder=2)
        axes.hlines(y, 100 * rows["share_low"], 100 * rows["share_high"], color=INK, linewidth=1.3, zorder=3)
        handles = [
            Line2D([], [], color=_BLUE, alpha=0.45, linewidth=7, solid_capstyle="butt", label="corrected"),
            Line2D([], [], color=INK, linewidth=1.3, label="95 % interval"),
        ]
        fits = list(published.groupby("variant", sort=False))
        for place, (marker, (fit, part)) in enumerate(zip(MARKERS, fits, strict=False)):
            own = part["component"].str.lower().map(at).to_numpy(dtype=np.float64)
            own += _APART * ((len(fits) - 1) / 2 - place)
            style: dict[str, Any] = {"marker": marker, "color": _ORANGE, "markeredgecolor": PAPER, "linestyle": "none"}
            axes.plot(part["share_pct"], own, markersize=7, zorder=4, **style)
            handles.append(Line2D([], [], markersize=7, label=f"as published, {fit}", **style))
        axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
        axes.set_yticks(list(at.values()), list(at))
        axes.set_xlabel("share of the variance of Δ (%)")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
