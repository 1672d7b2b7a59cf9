"""The figures of a report, drawn from whatever grid was run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd

from analysis.figures.heatmap import heatmap
from analysis.figures.scatter import pareto_figure, roles_figure
from analysis.figures.style import save
from analysis.numerals import pp
from analysis.roles import DONOR, RECIPIENT, side_by_side

__all__ = ["FIGURES", "Drawing", "LeftOut", "draw"]

#: Names of the figures, which are the stems of their files.
FIGURES = ("pareto", "language_roles", "task_roles", "task_matrix", "language_matrix")


@dataclass(frozen=True)
class LeftOut:
    """A part of the analysis that this grid does not allow, and why."""

    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"


@dataclass(frozen=True)
class Drawing:
    """A figure as saved: its name, caption, text alternative and files."""

    name: str
    title: str
    caption: str
    alt: str
    png: Path
    svg: Path


def draw(
    folder: Path, *, points: pd.DataFrame, roles: pd.DataFrame, tasks: pd.DataFrame, languages: pd.DataFrame
) -> tuple[list[Drawing], list[LeftOut]]:
    """Draw and save every figure the grid allows.

    Parameters
    ----------
    folder
        Where the PNG and SVG files go.
    points, roles, tasks, languages
        The tables of `analysis.pareto`, `analysis.roles` and the two of `analysis.matrices`.
    """
    for name, kind in product(FIGURES, ("png", "svg")):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)  # an earlier, larger grid may have left one
    parts = [
        _pareto(folder, points),
        _roles(folder, roles, "language"),
        _roles(folder, roles, "task"),
        _task_matrix(folder, tasks),
        _language_matrix(folder, languages),
    ]
    return [part for part in parts if isinstance(part, Drawing)], [part for part in parts if isinstance(part, LeftOut)]


def _pareto(folder: Path, points: pd.DataFrame) -> Drawing | LeftOut:
    title = "What adapters give, and what they cost"
    drawn = points.dropna(subset=["mt_cl_mean", "off_task_mean"])
    if drawn.empty:
        return LeftOut(
            title, "it takes adapters evaluated both on other languages of their task and on other tasks; none was."
        )
    png, svg = save(pareto_figure(points), folder, "pareto")
    front = f"{drawn['on_front'].sum()} of {len(drawn)}"
    caption = (
        "Each mark is one adapter (model × source, seeds averaged): mean Δ on its task's other languages (across) "
        f"and on other tasks (up). Right of and above the dashed zero lines is gain. On the front ({front}) are the "
        "adapters that no other beats in one without losing in the other; where there is room they are named."
    )
    give, cost = drawn["mt_cl_mean"], drawn["off_task_mean"]
    alt = (
        f"Scatter of {len(drawn)} adapters. Mean change on other languages runs from {pp(give.min())} to "
        f"{pp(give.max())} pp, on other tasks from {pp(cost.min())} to {pp(cost.max())} pp."
    )
    return Drawing("pareto", title, caption, alt, png, svg)


def _roles(folder: Path, roles: pd.DataFrame, factor: str) -> Drawing | LeftOut:
    title = f"Donor and recipient {factor}s"
    scores = side_by_side(roles, factor).dropna(subset=[DONOR, RECIPIENT])
    if len(scores) < 2:
        return LeftOut(
            title, f"it takes at least two {factor}s, each as source and as target of another; there are {len(scores)}."
        )
    figure, unlabelled = roles_figure(scores, factor)
    png, svg = save(figure, folder, f"{factor}_roles")
    models = int(scores["n_models"].max())
    bars = (
        f"Bars are standard errors over {models} models."
        if models > 1
        else "One model was run, so there are no error bars."
    )
    scope = "MT-CL: its own task, another language" if factor == "language" else "CT-ML: its own language, another task"
    caption = f"Mean Δ that a {factor} gives as source (across) and gets as target (up); {scope}. {bars}"
    if unlabelled:
        caption += f" No room for the labels of {', '.join(unlabelled)}."
    best, most = scores.iloc[0], scores.loc[scores[RECIPIENT].idxmax()]
    alt = (
        f"Scatter of {len(scores)} {factor}s. Highest donor score: {best['name']}, {pp(best[DONOR])} pp. "
        f"Highest recipient score: {most['name']}, {pp(most[RECIPIENT])} pp."
    )
    return Drawing(f"{factor}_roles", title, caption, alt, png, svg)


def _task_matrix(folder: Path, matrix: pd.DataFrame) -> Drawing | LeftOut:
    title = "From task to task"
    if matrix.empty or matrix.isna().all(axis=None):
        return LeftOut(title, "it takes adapters evaluated on another task in their own language (CT-ML); none was.")
    png, svg = save(heatmap(matrix, rows="fine-tuned task", columns="evaluated task"), folder, "task_matrix")
    caption = "Mean Δ on another task in the same language (CT-ML). Hatched: not a transfer, or not measured."
    return Drawing("task_matrix", title, caption, _extremes(matrix), png, svg)


def _language_matrix(folder: Path, matrix: pd.DataFrame) -> Drawing | LeftOut:
    title = "From language to language"
    if matrix.shape[1] < 2 and matrix.shape[0] < 2:
        return LeftOut(
            title, f"it takes at least two languages; there is {'one' if matrix.size else 'no transfer cell'}."
        )
    figure = heatmap(matrix, rows="fine-tuned language", columns="evaluated language", frame_diagonal=True)
    png, svg = save(figure, folder, "language_matrix")
    caption = (
        "Mean Δ over all tasks, the trained cell itself (MT-ML) left out. The outlined diagonal therefore holds other "
        "tasks in the same language only (CT-ML)."
    )
    return Drawing("language_matrix", title, caption, _extremes(matrix), png, svg)


def _extremes(matrix: pd.DataFrame) -> str:
    """Describe a matrix by its size and its extremes, for readers who do not see it."""
    values = matrix.rename_axis(index="source", columns="target").stack().dropna()
    (low_source, low_target), (high_source, high_target) = values.idxmin(), values.idxmax()
    return (
        f"Heatmap of {matrix.shape[0]} by {matrix.shape[1]} mean deltas. Highest: {high_source} to {high_target}, "
        f"{pp(values.max())} pp. Lowest: {low_source} to {low_target}, {pp(values.min())} pp."
    )
