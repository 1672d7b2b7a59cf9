"""Estimates with their intervals, one per line: regimes, contrasts, donors and recipients, shares of variance."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.corrected.regimes import RUN_MODELS, scoped_intervals
from analysis.corrected.variance.model import SAMPLING
from analysis.corrected.variance.terms import CELL, RESIDUAL, TERMS
from analysis.published.roles import DONOR, RECIPIENT
from analysis.report.figures.style import GRID, INK, MARKERS, MUTED, PAPER, STYLE

__all__ = ["regimes_figure", "role_intervals_figure", "shares_figure"]

_BLUE = "#1f84c4"
_LINE = 0.34  # inches per estimate


def regimes_figure(regimes: pd.DataFrame, contrasts: pd.DataFrame) -> Figure:
    """Draw the mean delta per regime and the differences between regimes, in pp, with 95% intervals.

    Parameters
    ----------
    regimes
        Table of `analysis.corrected.regimes`, of regimes that have cells. The wide bar is ± 1.96 standard errors for
        the models that were run, the thin one the interval for models at large; one model has the thin one alone.
    contrasts
        Table of `analysis.corrected.regimes`, of contrasts that have an estimate; may be empty.
    """
    heights = [len(regimes) + 0.6, len(contrasts) + 0.6] if len(contrasts) else [len(regimes) + 0.6]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 1.1 + _LINE * sum(heights) + 0.3 * len(heights)), layout="constrained")
        panels = np.ravel(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights))
        ends = scoped_intervals(regimes)
        outer, inner = list(ends)[-1], ends.get(RUN_MODELS)
        _forest(panels[0], regimes["regime"], regimes["mean"], ends[outer], inner=inner)
        panels[0].set_title("mean Δ", loc="left")
        if len(contrasts):
            _forest(panels[1], contrasts["contrast"], contrasts["estimate"], contrasts[["low", "high"]])
            panels[1].set_title("difference at equal models, sources and targets", loc="left")
        panels[-1].set_xlabel("pp")
        handles = [Line2D([], [], color=INK, linewidth=1.2, label=outer)]
        if inner is not None:
            bar = Line2D([], [], color=_BLUE, linewidth=5, alpha=0.35, solid_capstyle="butt", label=RUN_MODELS)
            handles.insert(0, bar)
        panels[0].legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(handles))
    return figure


def _forest(
    axes: Axes, names: pd.Series, estimates: pd.Series, ends: pd.DataFrame, *, inner: pd.DataFrame | None = None
) -> None:
    """Draw estimates from top to bottom; an interval that is not known is not drawn."""
    at = np.arange(len(names))[::-1]
    values = estimates.to_numpy(dtype=np.float64)
    if inner is not None:
        axes.hlines(at, inner["low"], inner["high"], color=_BLUE, linewidth=6, alpha=0.35, zorder=2)
    axes.hlines(at, ends["low"], ends["high"], color=INK, linewidth=1.2, zorder=3)
    axes.scatter(values, at, s=30, color=_BLUE, edgecolors=INK, linewidths=0.6, zorder=4)
    axes.axvline(0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set_yticks(at, [str(name) for name in names])
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.06)


def role_intervals_figure(roles: pd.DataFrame) -> Figure:
    """Draw donor and recipient scores of one factor side by side, in pp, with 95% intervals and those of the ranks.

    Parameters
    ----------
    roles
        Rows of one factor of the table of `analysis.corrected.roles`; both panels are in the order of the donor scores.
    """
    wide = {role: roles[roles["role"] == role].set_index("name") for role in (DONOR, RECIPIENT)}
    order = list(wide[DONOR]["score"].sort_values(ascending=False, kind="stable").index)
    order += [name for name in wide[RECIPIENT].index if name not in order]
    titles = {DONOR: "as donor", RECIPIENT: "as recipient"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 1.1 + 0.27 * len(order)), layout="constrained")
        panels = np.ravel(figure.subplots(1, 2, sharey=True, squeeze=False))
        for panel, (role, table) in zip(panels, wide.items(), strict=True):
            rows = table.reindex(order)
            _forest(panel, pd.Series(order), rows["score"], rows[["low", "high"]])
            panel.set_title(titles[role], loc="left")
            panel.set_xlabel("mean Δ (pp)")
            _ranks(panel, rows)
    return figure


def _ranks(axes: Axes, rows: pd.DataFrame) -> None:
    """Write the ranks' intervals at the right of the axes."""
    transform = axes.get_yaxis_transform()
    style: dict[str, Any] = {"transform": transform, "ha": "left", "va": "center", "fontsize": 8, "color": MUTED}
    for at, row in zip(range(len(rows) - 1, -1, -1), rows.to_dict("records"), strict=True):
        axes.text(1.02, at, _interval(row), **style)
    axes.text(1.02, 1.02, "rank", transform=axes.transAxes, ha="left", va="bottom", fontsize=8, color=MUTED)


def _interval(row: dict[str, float]) -> str:
    low, high = row["rank_low"], row["rank_high"]
    if np.isnan(low) or np.isnan(high):
        return "–"
    return f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"


# --- shares of variance beside the published fit


_ORDER = [CELL, *TERMS, RESIDUAL, SAMPLING]
_CORRECTED, _PUBLISHED = "#0072b2", "#d55e00"
_COMPONENT = 0.36  # inches per component
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
        figure = Figure(figsize=(7.4, 1.3 + _COMPONENT * len(names)), layout="constrained")
        axes = figure.add_subplot()
        y = rows["component"].map(at).to_numpy(dtype=np.float64)
        axes.barh(y, 100 * rows["share"], height=0.62, color=_CORRECTED, alpha=0.45, zorder=2)
        axes.hlines(y, 100 * rows["share_low"], 100 * rows["share_high"], color=INK, linewidth=1.3, zorder=3)
        handles = [
            Line2D([], [], color=_CORRECTED, alpha=0.45, linewidth=7, solid_capstyle="butt", label="corrected"),
            Line2D([], [], color=INK, linewidth=1.3, label="95% interval"),
        ]
        fits = list(published.groupby("variant", sort=False))
        for place, (marker, (fit, part)) in enumerate(zip(MARKERS, fits, strict=False)):
            own = part["component"].str.lower().map(at).to_numpy(dtype=np.float64)
            own += _APART * ((len(fits) - 1) / 2 - place)
            style: dict[str, Any] = {
                "marker": marker,
                "color": _PUBLISHED,
                "markeredgecolor": PAPER,
                "linestyle": "none",
            }
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
