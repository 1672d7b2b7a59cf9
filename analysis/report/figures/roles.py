"""Languages or tasks by what they give (across) and receive (up)."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.published.roles import DONOR, RECIPIENT
from analysis.report.figures.labels import place_labels
from analysis.report.figures.style import MUTED, PAPER, STYLE, zero_lines

__all__ = ["roles_figure"]

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
