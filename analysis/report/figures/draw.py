"""The figures of a report with their captions, for any grid."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd

from analysis.corrected import Corrected
from analysis.corrected.regimes import ONE_MODEL, written_intervals
from analysis.corrected.variance.model import CORRECTED, OVERALL
from analysis.corrected.variance.model import TRANSFER as TRANSFER_SCOPE
from analysis.measures.levels import LeftOut
from analysis.measures.numerals import fixed, pp
from analysis.published import Published
from analysis.published.roles import DONOR, RECIPIENT, side_by_side
from analysis.report.figures.intervals import regimes_figure, role_intervals_figure, shares_figure
from analysis.report.figures.matrices import RAW, SHOWN, matrix_drawings
from analysis.report.figures.scatter import pareto_families_figure, pareto_figure, roles_figure
from analysis.report.figures.style import Drawing, save

__all__ = ["FIGURES", "RAW", "SHOWN", "Drawing", "LeftOut", "corrected_drawings", "draw"]

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
        *matrix_drawings(folder, published.task_matrix, published.language_matrix, corrected.cells, heatmaps),
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


# --- the corrected layer


#: Scopes of the decomposition to draw, the first that this grid allows, and what they are called.
_SCOPES = {TRANSFER_SCOPE: "transfer cells", OVERALL: "all cells"}


def corrected_drawings(folder: Path, corrected: Corrected, published: Published) -> list[Drawing | LeftOut]:
    """Draw regimes with their differences, roles with intervals, and shares of variance."""
    if not corrected.computed:
        return [_regimes(folder, corrected.tables)]
    return [
        _regimes(folder, corrected.tables),
        _role_intervals(folder, corrected.tables["roles"], "language"),
        _role_intervals(folder, corrected.tables["roles"], "task"),
        _shares(folder, corrected.tables["variance_components"], published.tables["variance"]),
    ]


def _regimes(folder: Path, tables: dict[str, pd.DataFrame]) -> Drawing | LeftOut:
    title = "Regimes and their differences"
    regimes = tables["regimes"][tables["regimes"]["n"] > 0]
    contrasts = tables["contrasts"]
    if len(contrasts):
        contrasts = contrasts.dropna(subset="estimate")
    if regimes.empty:
        return LeftOut(title, "there is no cell.")
    scopes = written_intervals(regimes)
    png, svg = save(regimes_figure(regimes, contrasts), folder, "regimes")
    bars = (
        "Bars: 95% intervals for this one model."
        if ONE_MODEL in scopes
        else "Thin bars: 95% intervals for models at large. Wide bars: ± 1.96 standard errors for the models that "
        "were run, clustered by source and target."
    )
    dots = "Dots: means over cells, and differences between regimes."
    caption = f"{dots} {bars} No bar: the interval cannot be estimated from this grid."
    alt = "Means with 95% intervals, in pp: " + "; ".join(
        f"{regime} {pp(mean)} ({ends})"
        for regime, mean, ends in zip(regimes["regime"], regimes["mean"], list(scopes.values())[-1], strict=True)
    )
    return Drawing("regimes", title, caption, f"{alt}.", png, svg, table="regimes.csv")


def _role_intervals(folder: Path, roles: pd.DataFrame, factor: str) -> Drawing | LeftOut:
    name, title = f"{factor}_intervals", f"Donor and recipient {factor}s with intervals"
    rows = roles[roles["factor"] == factor] if len(roles) else roles
    if rows.empty or rows["low"].isna().all():
        reason = f"an interval needs {factor}s with at least two partners; there is none."
        return LeftOut(title, reason)
    png, svg = save(role_intervals_figure(rows), folder, name)
    caption = (
        f"Scores of {factor}s in the order of the donor scores, with 95% intervals over models and partners. At the "
        "right the 95% interval of the rank: where these overlap, the order is not known."
    )
    said = []
    for role in (DONOR, RECIPIENT):
        best = rows[rows["role"] == role].nlargest(1, "score")
        said += [f"highest {role} {row['name']}, {pp(row['score'])} pp, {_rank(row)}" for _, row in best.iterrows()]
    alt = f"Intervals of {rows['name'].nunique()} {factor}s; {'; '.join(said)}."
    return Drawing(name, title, caption, alt, png, svg, table="roles.csv")


def _rank(row: pd.Series) -> str:
    if pd.isna(row["rank_low"]):
        return "rank not known"
    return f"rank {row['rank_low']:.0f} to {row['rank_high']:.0f}"


def _shares(folder: Path, components: pd.DataFrame, published: pd.DataFrame) -> Drawing | LeftOut:
    title = "Where the variance lies"
    own = components[components["layer"] == CORRECTED] if len(components) else components
    known = own.dropna(subset="share")["scope"].value_counts() if len(own) else pd.Series(dtype=int)
    scope = next((scope for scope in _SCOPES if known.get(scope, 0) > 1), "")
    if not scope:
        return LeftOut(title, "this grid identifies no variance component.")
    rows, words = own[own["scope"] == scope].dropna(subset="share"), _SCOPES[scope]
    beside = published[published["cells"] == scope]
    png, svg = save(shares_figure(rows, beside), folder, "variance_shares")
    caption = (
        f"Shares of the variance of Δ over {words}. The published fit has no interactions: its source is source plus "
        "model:source, its target is target plus model:target, and its residual holds source:target and the sampling "
        "noise. A negative share means that there is no sign of that component."
    )
    alt = "Corrected shares: " + "; ".join(
        f"{row['component']} {fixed(100 * row['share'], 1)}%" for _, row in rows.iterrows()
    )
    return Drawing("variance_shares", title, caption, f"{alt}.", png, svg, table="variance_components.csv")
