"""The figures of a report, drawn from whatever grid was run."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd

from analysis.corrected import Corrected
from analysis.measures.levels import LeftOut
from analysis.measures.numerals import pp
from analysis.published import Published
from analysis.published.roles import DONOR, RECIPIENT, side_by_side
from analysis.report.figures.corrected import corrected_drawings
from analysis.report.figures.matrices import RAW, SHOWN, matrix_drawings
from analysis.report.figures.pareto import pareto_families_figure, pareto_figure
from analysis.report.figures.roles import roles_figure
from analysis.report.figures.style import Drawing, save

__all__ = ["FIGURES", "RAW", "SHOWN", "Drawing", "LeftOut", "draw"]

#: Names of the figures, which are the stems of their files.
FIGURES = (
    "regimes", "language_intervals", "task_intervals", "variance_shares",
    "pareto", "pareto_families", "language_roles", "task_roles", "task_matrix", "language_matrix",
)  # fmt: skip


def draw(
    folder: Path, published: Published, corrected: Corrected, *, heatmaps: str = RAW
) -> tuple[list[Drawing], list[LeftOut]]:
    """Draw and save every figure the grid allows.

    Parameters
    ----------
    folder
        Where the PNG and SVG files go.
    published, corrected
        The two layers of the analysis.
    heatmaps
        What of the cells the report's heatmaps show, one of `SHOWN`; the other versions are files beside them.
    """
    stems = [*FIGURES, *(f"{matrix}_{shown}" for matrix in ("task_matrix", "language_matrix") for shown in SHOWN)]
    for name, kind in product(stems, ("png", "svg")):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)  # an earlier, larger grid may have left one
    points, roles = published.tables["pareto"], published.tables["roles"]
    parts = [
        *corrected_drawings(folder, corrected, published),
        _pareto(folder, points),
        _pareto_families(folder, points),
        _roles(folder, roles, "language"),
        _roles(folder, roles, "task"),
        *matrix_drawings(folder, corrected.cells, heatmaps),
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
    return Drawing("pareto", title, caption, alt, png, svg, table="published/pareto.csv")


def _pareto_families(folder: Path, points: pd.DataFrame) -> Drawing | LeftOut:
    title = "The same, by model family"
    drawn = points.dropna(subset=["mt_cl_mean", "off_task_mean"])
    families = sorted(drawn["model_family"].unique())
    if len(families) < 2:
        return LeftOut(title, f"it takes adapters of at least two model families; there {_are(len(families))}.")
    png, svg = save(pareto_families_figure(points), folder, "pareto_families")
    means = drawn.groupby("model_family")[["mt_cl_mean", "off_task_mean"]].mean()
    alt = f"Scatter of {len(drawn)} adapters in {len(families)} panels. Means on other languages and on other tasks: "
    alt += "; ".join(
        f"{family} {pp(row['mt_cl_mean'])} and {pp(row['off_task_mean'])} pp" for family, row in means.iterrows()
    )
    caption = "A panel per family of base models, all on the same axes; the other families' adapters are the pale dots."
    return Drawing("pareto_families", title, caption, f"{alt}.", png, svg, table="published/pareto.csv")


def _are(n: int) -> str:
    return "is one" if n == 1 else "are none" if n == 0 else f"are {n}"


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
    return Drawing(f"{factor}_roles", title, caption, alt, png, svg, table="published/roles.csv")
