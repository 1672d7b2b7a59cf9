"""The two scatter figures: adapters by what they give and cost (Pareto), languages or tasks by role."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.labels import place_labels
from analysis.figures.style import INK, MARKERS, MUTED, PAPER, STYLE, colours, short_model
from analysis.pareto import size_bucket
from analysis.roles import DONOR, RECIPIENT

__all__ = ["pareto_figure", "roles_figure"]

_AREA = {"S": 26.0, "M": 62.0, "L": 120.0}  # marker areas in square points
_BUCKETS = {"S": "S, up to 1.5 B", "M": "M, between", "L": "L, 7 B and more"}
_MOST_LABELS = 12  # a longer front is named in the report's table only

_QUADRANTS = {  # colour, text: gives and receives, only gives, only receives, neither
    (1, 1): ("#0072b2", "gives and receives"),
    (1, -1): ("#e69f00", "gives only"),
    (-1, 1): ("#009e73", "receives only"),
    (-1, -1): ("#cc79a7", "neither"),
}


def pareto_figure(points: pd.DataFrame) -> Figure:
    """Draw adapters by mean delta over MT-CL targets (x) and over off-task targets (y), in pp, with the Pareto front.

    Parameters
    ----------
    points
        The table of `analysis.pareto.pareto`; adapters without both means are not drawn.
    """
    drawn = points.dropna(subset=["mt_cl_mean", "off_task_mean"])
    tasks, families = sorted(drawn["source_task"].unique()), sorted(drawn["model_family"].unique())
    colour, marker = colours(tasks), {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(families)}
    buckets = drawn["model_size_b"].map(size_bucket)
    if buckets.nunique() == 1:
        buckets = buckets.where(buckets == "M", "M")  # a size that does not vary says nothing: draw it legibly
    crowding = float(np.clip(120 / len(drawn), 0.5, 1.0))  # many marks are drawn smaller
    with mpl.rc_context(STYLE):
        entries = len(tasks) + len(families) + buckets.nunique() + 4
        figure = Figure(figsize=(7.6, max(5.2, 0.8 + 0.19 * entries)), layout="constrained")
        axes = figure.add_subplot()
        _zero_lines(axes)
        for (task, family), group in drawn.groupby(["source_task", "model_family"]):
            axes.scatter(
                group["mt_cl_mean"],
                group["off_task_mean"],
                s=buckets[group.index].map(_AREA) * crowding,
                color=colour[task],
                marker=marker[family],
                alpha=0.8,
                linewidths=0.6,
                edgecolors=PAPER,
                zorder=3,
            )
        front = drawn[drawn["on_front"]].sort_values("mt_cl_mean")
        axes.plot(front["mt_cl_mean"], front["off_task_mean"], color=INK, linewidth=1.1, alpha=0.75, zorder=2)
        axes.set(xlabel="mean Δ on the task's other languages, MT-CL (pp)", ylabel="mean Δ on other tasks (pp)")
        axes.margins(0.09)
        _keys(figure, colour, marker, sorted(buckets.unique(), key="SML".index), crowding)
        if len(front) <= _MOST_LABELS:
            everywhere = drawn[["mt_cl_mean", "off_task_mean"]]
            names = _adapter_names(front, several_models=drawn["model"].nunique() > 1)
            place_labels(axes, everywhere.loc[front.index], names, others=everywhere, size=7.5)
    return figure


def _adapter_names(rows: pd.DataFrame, *, several_models: bool) -> list[str]:
    """Name adapters by their source cell, and by their model where there are several."""
    sources, models = rows["source_task"] + "/" + rows["source_language"], rows["model"].map(short_model)
    return list(sources + ", " + models) if several_models else list(sources)


def _keys(
    figure: Figure, colour: dict[str, str], marker: dict[str, str], buckets: Sequence[str], crowding: float
) -> None:
    """Explain colours, shapes and sizes in one legend beside the axes; what does not vary is not explained."""
    handles = [_heading("Source task"), *(_swatch(name, "o", value) for name, value in colour.items())]
    if len(marker) > 1:
        handles += [_heading("Model family"), *(_swatch(name, shape, MUTED) for name, shape in marker.items())]
    if len(buckets) > 1:
        sizes = [_swatch(_BUCKETS[name], "o", MUTED, size=float(np.sqrt(_AREA[name] * crowding))) for name in buckets]
        handles += [_heading("Model size"), *sizes]
    handles.append(Line2D([], [], color=INK, linewidth=1.1, label="Pareto front"))
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


def roles_figure(scores: pd.DataFrame, factor: str) -> tuple[Figure, list[str]]:
    """Draw donor score (x) against recipient score (y), in pp, with standard errors over models where there are any.

    Parameters
    ----------
    scores
        The table of `analysis.roles.side_by_side`; names that lack a role are not drawn.
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
        _zero_lines(axes)
        _shade_quadrants(axes)
        unlabelled = place_labels(axes, drawn[[DONOR, RECIPIENT]], list(drawn["name"]), errors=errors)
    return figure, unlabelled


def _zero_lines(axes: Axes) -> None:
    """Draw dashed lines at zero on both axes."""
    axes.axhline(0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.axvline(0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)


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
