"""The figures of the corrected layer, with what is said of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.corrected import Corrected
from analysis.corrected.regimes import ONE_MODEL, written_intervals
from analysis.corrected.variance.model import CORRECTED, OVERALL
from analysis.corrected.variance.model import TRANSFER as TRANSFER_SCOPE
from analysis.measures.levels import LeftOut
from analysis.measures.numerals import fixed, pp
from analysis.published import Published
from analysis.published.roles import DONOR, RECIPIENT
from analysis.report.figures.intervals import regimes_figure, role_intervals_figure
from analysis.report.figures.shares import shares_figure
from analysis.report.figures.style import Drawing, save

__all__ = ["corrected_drawings"]

#: Scopes of the decomposition to draw, the first that this grid allows, and what they are called.
_SCOPES = {TRANSFER_SCOPE: "transfer cells", OVERALL: "all cells"}


def corrected_drawings(folder: Path, corrected: Corrected, published: Published) -> list[Drawing | LeftOut]:
    """Draw regimes with their differences, roles with intervals, and shares of variance."""
    if not corrected.computed:
        return [_regimes(folder, corrected.tables)]
    return [
        _regimes(folder, corrected.tables),
        _roles(folder, corrected.tables["roles"], "language"),
        _roles(folder, corrected.tables["roles"], "task"),
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
        "Bars: 95 % intervals for this one model."
        if ONE_MODEL in scopes
        else "Thin bars: 95 % intervals for models at large. Wide bars: ± 1.96 standard errors for the models that "
        "were run, clustered by source and target."
    )
    dots = "Dots: means over cells, and differences between regimes."
    caption = f"{dots} {bars} Where there is no bar, this grid gives no error."
    alt = "Means with 95 % intervals, in pp: " + "; ".join(
        f"{regime} {pp(mean)} ({ends})"
        for regime, mean, ends in zip(regimes["regime"], regimes["mean"], list(scopes.values())[-1], strict=True)
    )
    return Drawing("regimes", title, caption, f"{alt}.", png, svg, table="regimes.csv")


def _roles(folder: Path, roles: pd.DataFrame, factor: str) -> Drawing | LeftOut:
    name, title = f"{factor}_intervals", f"Donor and recipient {factor}s with intervals"
    rows = roles[roles["factor"] == factor] if len(roles) else roles
    if rows.empty or rows["low"].isna().all():
        reason = f"it takes {factor}s with two partners at least, so that an interval can be had; there is none."
        return LeftOut(title, reason)
    png, svg = save(role_intervals_figure(rows), folder, name)
    caption = (
        f"Scores of {factor}s in the order of the donor scores, with 95 % intervals over models and partners. At the "
        "right the 95 % interval of the rank: where these overlap, the order is not known."
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
        return LeftOut(title, "no variance component can be told apart on this grid.")
    rows, words = own[own["scope"] == scope].dropna(subset="share"), _SCOPES[scope]
    beside = published[published["cells"] == scope]
    png, svg = save(shares_figure(rows, beside), folder, "variance_shares")
    caption = (
        f"Shares of the variance of Δ over {words}. The published fit has no interactions: its source is source plus "
        "model:source, its target is target plus model:target, and its residual holds source:target and the sampling "
        "noise. A share below zero is no sign of that component."
    )
    alt = "Corrected shares: " + "; ".join(
        f"{row['component']} {fixed(100 * row['share'], 1)} %" for _, row in rows.iterrows()
    )
    return Drawing("variance_shares", title, caption, f"{alt}.", png, svg, table="variance_components.csv")
