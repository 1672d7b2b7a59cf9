"""Scatter plots: languages or tasks by what they give and receive, adapters by their gain and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis.measures.transfer import BUCKETS, UNKNOWN
from analysis.published.roles import DONOR, RECIPIENT
from analysis.reading.observations import cell_names
from analysis.report.figures.style import (
    INK,
    MARKERS,
    MUTED,
    PAPER,
    STYLE,
    colours,
    place_labels,
    short_model,
    zero_lines,
)

__all__ = ["pareto_families_figure", "pareto_figure", "roles_figure"]

_QUADRANTS = {  # colour, text: gives and receives, only gives, only receives, neither
    (1, 1): ("#0072b2", "gives and receives"),
    (1, -1): ("#e69f00", "gives only"),
    (-1, 1): ("#009e73", "receives only"),
    (-1, -1): ("#cc79a7", "neither"),
}


def roles_figure(scores: pd.DataFrame, factor: str) -> tuple[Figure, list[str]]:
    """Draw donor score (x) against recipient score (y), in pp, with standard errors over models where there are any.

    Parameters
    ----------
    scores
        The table of `analysis.published.roles.side_by_side`; names that lack a role are not drawn.
    factor
        ``language`` or ``task``, for the axes' titles.

    Returns
    -------
    figure, unlabelled
        The figure, and the names for whose labels there was no room.
    """
    drawn = scores.dropna(subset=[DONOR, RECIPIENT])
    x, y = drawn[DONOR], drawn[RECIPIENT]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.8), layout="constrained")
        axes = figure.add_subplot()
        errors = drawn[["donor_se", "recipient_se"]].fillna(0.0)
        axes.errorbar(
            x,
            y,
            xerr=errors["donor_se"],
            yerr=errors["recipient_se"],
            fmt="none",
            ecolor=MUTED,
            elinewidth=0.9,
            alpha=0.6,
            zorder=2,
        )
        axes.scatter(x, y, s=34, color="#1f84c4", edgecolors=PAPER, linewidths=0.6, zorder=3)
        axes.set(xlabel=f"donor score of the {factor}, given to others (pp)", ylabel="recipient score, received (pp)")
        axes.margins(0.14)
        zero_lines(axes)
        _shade_quadrants(axes)
        unlabelled = place_labels(axes, drawn[[DONOR, RECIPIENT]], list(drawn["name"]), errors=errors)
    return figure, unlabelled


def _shade_quadrants(axes: Axes) -> None:
    """Tint the quadrants about zero, name them in a legend above, and keep the limits."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    handles = []
    for (right, up), (colour, text) in _QUADRANTS.items():
        spans = ((0.0, x1) if right > 0 else (x0, 0.0), (0.0, y1) if up > 0 else (y0, 0.0))
        (left, stop), (bottom, top) = spans
        if stop > left and top > bottom:
            axes.fill_between([left, stop], bottom, top, color=colour, alpha=0.1, linewidth=0, zorder=0)
            handles.append(Patch(color=colour, alpha=0.35, linewidth=0, label=text))
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=4,
        handlelength=1.1,
        columnspacing=1.2,
        handletextpad=0.5,
    )


# --- adapters by gain on other languages (across) and change on other tasks (up)


_AREA = {"S": 26.0, "M": 62.0, "L": 120.0, UNKNOWN: 44.0}  # marker areas in square points
_BUCKETS = {"S": "S, up to 1.5 B", "M": "M, between", "L": "L, 7 B and more", UNKNOWN: "not known"}
_MOST_LABELS = 12  # a longer front is named in the report's table only
_ACROSS, _UP = "mean Δ on the task's other languages, MT-CL (pp)", "mean Δ on other tasks (pp)"
_MOST_COLUMNS = 3  # of panels
_STEPS = 40  # between two corners of the front


@dataclass(frozen=True)
class _Marks:
    """How adapters are drawn: colour by source task, shape by family, area by size bucket."""

    colour: dict[str, str]
    marker: dict[str, str]
    buckets: pd.Series
    crowding: float

    @classmethod
    def of(cls, drawn: pd.DataFrame) -> _Marks:
        """Choose marks for some adapters."""
        tasks, families = sorted(drawn["source_task"].unique()), sorted(drawn["model_family"].unique())
        buckets = drawn["size_bucket"]
        if buckets.nunique() == 1:
            buckets = buckets.where(buckets == "M", "M")  # a size that does not vary says nothing: draw it legibly
        marker = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(families)}
        return cls(colours(tasks), marker, buckets, float(np.clip(120 / len(drawn), 0.5, 1.0)))

    @property
    def sizes(self) -> list[str]:
        """The buckets that occur, smallest first."""
        return [name for name in (*BUCKETS, UNKNOWN) if (self.buckets == name).any()]

    def draw(self, axes: Axes, adapters: pd.DataFrame) -> None:
        """Draw adapters."""
        for (task, family), group in adapters.groupby(["source_task", "model_family"]):
            axes.scatter(
                group["mt_cl_mean"],
                group["off_task_mean"],
                s=self.buckets[group.index].map(_AREA) * self.crowding,
                color=self.colour[task],
                marker=self.marker[family],
                alpha=0.8,
                linewidths=0.6,
                edgecolors=PAPER,
                zorder=3,
            )


def pareto_figure(points: pd.DataFrame) -> Figure:
    """Draw adapters by mean delta over MT-CL targets (x) and over off-task targets (y), in pp, with the Pareto front.

    Parameters
    ----------
    points
        The table of `analysis.published.harm.pareto`; adapters without both means are not drawn.
    """
    drawn = points.dropna(subset=["mt_cl_mean", "off_task_mean"])
    marks = _Marks.of(drawn)
    with mpl.rc_context(STYLE):
        entries = len(marks.colour) + len(marks.marker) + len(marks.sizes) + 4
        figure = Figure(figsize=(7.6, max(5.2, 0.8 + 0.19 * entries)), layout="constrained")
        axes = figure.add_subplot()
        zero_lines(axes)
        marks.draw(axes, drawn)
        front = drawn[drawn["on_front"]].sort_values("mt_cl_mean")
        axes.plot(front["mt_cl_mean"], front["off_task_mean"], color=INK, linewidth=1.1, alpha=0.75, zorder=2)
        axes.set(xlabel=_ACROSS, ylabel=_UP)
        axes.margins(0.09)
        _keys(figure, marks, [Line2D([], [], color=INK, linewidth=1.1, label="Pareto front")])
        if len(front) <= _MOST_LABELS:
            everywhere = drawn[["mt_cl_mean", "off_task_mean"]]
            names = _adapter_names(front, several_models=drawn["model"].nunique() > 1)
            line = _along(front[["mt_cl_mean", "off_task_mean"]].to_numpy())
            place_labels(axes, everywhere.loc[front.index], names, others=np.concatenate([everywhere, line]), size=7.5)
    return figure


def pareto_families_figure(points: pd.DataFrame) -> Figure:
    """Draw the same adapters in a panel per model family, on the same axes, the other families pale behind them."""
    drawn = points.dropna(subset=["mt_cl_mean", "off_task_mean"])
    marks = _Marks.of(drawn)
    columns = min(len(marks.marker), _MOST_COLUMNS)
    rows = math.ceil(len(marks.marker) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.9 + 2.7 * columns, max(0.9 + 2.5 * rows, 3.4)), layout="constrained")
        panels = np.ravel(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False))
        for panel, family in zip(panels, marks.marker, strict=False):
            own = drawn["model_family"] == family
            zero_lines(panel)
            others = drawn[~own]
            panel.scatter(others["mt_cl_mean"], others["off_task_mean"], s=5, color=MUTED, alpha=0.25, linewidths=0)
            marks.draw(panel, drawn[own])
            panel.set_title(family)
            panel.margins(0.09)
        for at, panel in enumerate(panels):
            panel.set_visible(at < len(marks.marker))
            # Above a gap in the last row, a panel is the lowest of its column and shows the scale.
            panel.tick_params(labelbottom=at + columns >= len(marks.marker))
        figure.supxlabel(_ACROSS, fontsize=9.5)
        figure.supylabel(_UP, fontsize=9.5)
        _keys(figure, marks, [])
    return figure


def _along(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points along the line through some corners, for labels to keep off it."""
    at = np.linspace(0, len(corners) - 1, _STEPS * (len(corners) - 1) + 1)
    return np.column_stack([np.interp(at, np.arange(len(corners)), column) for column in corners.T])


def _adapter_names(rows: pd.DataFrame, *, several_models: bool) -> list[str]:
    """Name adapters by their source cell, and by their model where there are several."""
    sources, models = cell_names(rows, "source"), rows["model"].map(short_model)
    return list(sources + ", " + models) if several_models else list(sources)


def _keys(figure: Figure, marks: _Marks, more: Sequence[Line2D]) -> None:
    """Explain colours, shapes and sizes in one legend beside the axes; what does not vary is not explained."""
    handles = [_heading("Source task"), *(_swatch(name, "o", value) for name, value in marks.colour.items())]
    if len(marks.marker) > 1:
        handles += [_heading("Model family"), *(_swatch(name, shape, MUTED) for name, shape in marks.marker.items())]
    if len(marks.sizes) > 1:
        areas = {name: float(np.sqrt(_AREA[name] * marks.crowding)) for name in marks.sizes}
        handles += [_heading("Model size"), *(_swatch(_BUCKETS[n], "o", MUTED, size=size) for n, size in areas.items())]
    handles += more
    labels = [str(handle.get_label()) for handle in handles]
    legend = figure.legend(handles=handles, labels=labels, loc="outside right upper")
    for handle, text in zip(handles, legend.get_texts(), strict=True):
        if handle.get_marker() == "None" and handle.get_linestyle() == "None":
            text.set_fontweight("bold")


def _heading(text: str) -> Line2D:
    """Return a legend entry without a mark."""
    return Line2D([], [], linestyle="none", label=text)


def _swatch(label: str, marker: str, colour: str, *, size: float = 7.0) -> Line2D:
    """Return a legend entry with a mark and no line; its size is a diameter in points."""
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        markerfacecolor=colour,
        markeredgecolor=PAPER,
        markersize=size,
        label=label,
    )
