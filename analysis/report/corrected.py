"""The corrected analyses as parts of the report: their texts, figures and tables."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from analysis.corrected.correct import ANALYSES, Corrected
from analysis.corrected.variance.model import CORRECTED, OVERALL, PUBLISHED, SAMPLING, TRANSFER
from analysis.corrected.variance.terms import CELL, RESIDUAL, TERMS
from analysis.measures.numerals import fixed, intervals
from analysis.published.roles import DONOR, RECIPIENT
from analysis.report.tables import (
    ReportPart,
    count,
    delta,
    format_rate,
    number,
    percent,
    probability,
    report_table,
    text,
    text_column,
)

__all__ = ["contrasts_part", "parts", "unidentified"]

_SHOWN = 10
_SCOPES = {TRANSFER: "Transfer cells", OVERALL: "All cells"}


def parts(corrected: Corrected) -> list[ReportPart]:
    """Return the parts of the section; tables that the grid does not allow have no rows."""
    if not corrected.computed:
        return []
    tables = corrected.tables
    return [
        *(one.shower()(tables[name]) for name, one in ANALYSES.items()),
        _cells(tables["tests"], corrected.assumed),
        _rates(tables["rates"]),
        _roles(tables["roles"], tables["role_differences"]),
        _variance(tables["variance_components"]),
        _consistency(tables["consistency"]),
        _linguistic(tables["linguistic"]),
        _power(tables["power"]),
    ]


def _with_interval(table: pd.DataFrame) -> pd.DataFrame:
    """Add the interval in words."""
    if table.empty:
        return table
    return table.assign(interval=intervals(table["low"], table["high"]))


def contrasts_part(table: pd.DataFrame) -> ReportPart:
    """Show the differences between regimes."""
    columns = {
        "contrast": text("Contrast"),
        "estimate": delta("Difference"),
        "interval": text_column("95% interval, pp"),
        "se": number("SE, pp"),
        "p": probability(),
        "note": text("Note"),
    }
    rows = report_table(_with_interval(table), "Differences between regimes", columns, "contrasts.csv")
    clusters = tuple(f"Clusters here: {name}." for name in dict.fromkeys(table["clusters"])) if len(table) else ()
    return ReportPart("contrasts", "Differences between regimes", (*CONTRASTS, *clusters), tables=(rows,))


def _cells(table: pd.DataFrame, assumed: str) -> ReportPart:
    columns = {
        "regime": text("Regime"),
        "n": count("Cells"),
        "n_tested": count("Tested"),
        "median_se": number("Median SE, pp"),
        "gains": count("Gain, q ≤ 0.05"),
        "losses": count("Loss, q ≤ 0.05"),
    }
    rows = report_table(table, "Cells that changed significantly", columns, "tests.csv")
    warnings = (f"The noise here is {assumed}.",) if assumed else ()
    return ReportPart("tests", "Single cells", CELLS, tables=(rows,), warnings=warnings)


def _rates(table: pd.DataFrame) -> ReportPart:
    columns = {
        "name": text("Source"),
        "n": count("Cells"),
        "raw": percent("Harm"),
        "by_chance": percent("Harm by chance"),
        "corrected": text_column("Harm, corrected, %"),
    }
    rows = table
    if len(table):
        rows = table[(table["group"] == "source") & (table["rate"] == "harm") & (table["n"] > 0)]
        corrected = [format_rate(*row) for row in rows[["posterior", "low", "high"]].itertuples(index=False, name=None)]
        rows = rows.assign(corrected=corrected).sort_values("posterior", ascending=False, kind="stable")
    found = report_table(rows, "Sources by corrected harm", columns, "rates.csv", most=_SHOWN)
    return ReportPart("rates", "Positive transfer and harm", RATES, tables=(found,))


# --- roles


def _roles(table: pd.DataFrame, differences: pd.DataFrame) -> ReportPart:
    columns = {
        "name": text("Name"),
        "donor": delta("Donor"),
        "donor_interval": text_column("95% interval, pp"),
        "donor_rank": text_column("Donor rank"),
        "recipient": delta("Recipient"),
        "recipient_interval": text_column("95% interval, pp"),
        "recipient_rank": text_column("Recipient rank"),
    }
    by_factor = [
        report_table(_side_by_side(table, factor), caption, columns, "roles.csv")
        for factor, caption in (("language", "Languages, MT-CL"), ("task", "Tasks, CT-ML"))
    ]
    paragraphs = (*ROLES, *filter(None, [_distinguishable(differences)]))
    notes = dict.fromkeys((row["factor"], row["note"]) for row in table.to_dict("records") if row["note"])
    warnings = tuple(f"{str(factor).capitalize()}s: {note}." for factor, note in notes)
    figures = ("language_intervals", "task_intervals")
    return ReportPart("role-intervals", "Donors and recipients", paragraphs, figures, tuple(by_factor), warnings)


def _side_by_side(table: pd.DataFrame, factor: str) -> pd.DataFrame:
    """Put both roles of every name in one row, best donor first."""
    if table.empty:
        return table
    rows = table[table["factor"] == factor]
    names = pd.Index(sorted(set(rows["name"])), name="name")
    wide = pd.DataFrame(index=names)
    for role in (DONOR, RECIPIENT):
        of_role = rows[rows["role"] == role].set_index("name").reindex(names)
        wide[role] = of_role["score"]
        wide[f"{role}_interval"] = intervals(of_role["low"], of_role["high"])
        wide[f"{role}_rank"] = [
            "–" if np.isnan(low) else f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"
            for low, high in zip(of_role["rank_low"], of_role["rank_high"], strict=True)
        ]
    return wide.sort_values(DONOR, ascending=False, kind="stable").reset_index()


def _distinguishable(table: pd.DataFrame) -> str:
    """Say how many pairs of names differ significantly."""
    if table.empty:
        return ""
    said = [
        f"{row['n_different']:,} of {row['n_pairs']:,} pairs of {row['factor']}s as {row['role']}s"
        for row in table.to_dict("records")
        if row["n_pairs"]
    ]
    return f"Significantly different (adjusted p ≤ 0.05): {', '.join(said)}." if said else ""


# --- variance


def _variance(table: pd.DataFrame) -> ReportPart:
    columns = {
        "component": text("Component"),
        "share_pct": percent("Share"),
        "interval": text_column("95% interval, %"),
        "variance": number("Variance, pp²", 3),
        "published": text("As published, %"),
        "note": text("Note"),
    }
    scopes = [
        report_table(_beside_published(table, scope), caption, columns, "variance_components.csv")
        for scope, caption in _SCOPES.items()
    ]
    return ReportPart(
        "variance-components", "Variance components", VARIANCE, figures=("variance_shares",), tables=tuple(scopes)
    )


def _beside_published(table: pd.DataFrame, scope: str) -> pd.DataFrame:
    """Put the published shares, one per fit, beside the corrected components of one scope."""
    if table.empty:
        return table
    rows = table[(table["scope"] == scope) & (table["layer"] == CORRECTED)]
    published = table[(table["scope"] == scope) & (table["layer"] == PUBLISHED)]
    said = published.groupby("component")["share"].agg(
        lambda shares: " / ".join(fixed(100 * share, 1) for share in shares)
    )
    low_high = (100 * rows[["share_low", "share_high"]]).itertuples(index=False, name=None)
    return rows.assign(
        share_pct=100 * rows["share"],
        interval=["–" if np.isnan(low) else f"{fixed(low, 1)} to {fixed(high, 1)}" for low, high in low_high],
        published=[said.get(name, "–" if len(published) else "") for name in rows["component"]],
    )


def unidentified(table: pd.DataFrame) -> list[str]:
    """Name the components over transfer cells that the grid does not identify."""
    if table.empty:
        return []
    rows = table[(table["scope"] == TRANSFER) & (table["layer"] == CORRECTED) & table["variance"].isna()]
    return [name for name in (CELL, *TERMS, RESIDUAL, SAMPLING) if name in set(rows["component"])]


# --- consistency, distance and power


def _consistency(table: pd.DataFrame) -> ReportPart:
    columns = {
        "grouping": text("Between"),
        "regime": text("Regime"),
        "n_sources": count("Source cells"),
        "median": number("Median τ-b"),
        "ceiling": number("Ceiling"),
        "range": text_column("95% range"),
        "note": text("Reading"),
    }
    rows = table
    if len(table):
        rows = table[table["layer"] == CORRECTED]
        ends = rows[["ceiling_low", "ceiling_high"]].itertuples(index=False, name=None)
        rows = rows.assign(range=["–" if np.isnan(low) else f"{fixed(low)} to {fixed(high)}" for low, high in ends])
    found = report_table(rows, "Consistency Index and its ceiling", columns, "consistency.csv")
    return ReportPart("ceiling", "Consistency and its ceiling", CONSISTENCY, tables=(found,))


def _linguistic(table: pd.DataFrame) -> ReportPart:
    columns = {
        "distance": text("Distance"),
        "n_languages": count("Languages"),
        "n_pairs": count("Ordered pairs"),
        "spearman": number("Spearman’s ρ"),
        "spearman_p": probability("p by permutation"),
        "spearman_p_plain": probability("plain p"),
        "pearson": number("Pearson’s r"),
        "pearson_p": probability("p by permutation"),
        "pearson_p_plain": probability("plain p"),
        "note": text("Note"),
    }
    found = report_table(table, "Mean MT-CL Δ against distance, by permutation", columns, "linguistic.csv")
    return ReportPart("distance", "Linguistic distance", LINGUISTIC, tables=(found,))


def _power(table: pd.DataFrame) -> ReportPart:
    columns = {
        "level": text("Of a"),
        "test": text("Test"),
        "se": number("SE, pp"),
        "detectable_pp": number("Smallest effect found, pp"),
        "assumption": text("Rests on"),
    }
    found = report_table(table, "Smallest effects found with 80% power", columns, "power.csv")
    return ReportPart("power", "What this study can detect", POWER, tables=(found,))


# --- the paragraphs of each analysis


CELLS: Final = (
    "Every cell is tested by its questions: for each, the adapters' correctness, averaged over seeds, minus the "
    "baseline's; a t test clustered by question, and by seed too where seeds disagree by more than their questions "
    "explain. q is p adjusted over all transfer cells of the study (Benjamini and Hochberg), so about one in "
    "twenty of the cells with q ≤ 0.05 is there by chance.",
    "The shrunken estimate of a cell moves its Δ towards the value that its model, source and target make likely; the "
    "noisier the cell, the further.",
)

RATES: Final = (
    "How many cells gain (Δ above 0) and how many are harmed (Δ at or below −1 pp). Noise alone moves cells over both "
    "limits: “by chance” is what a study without any transfer would show, “corrected” is the mean probability that a "
    "cell's true effect is beyond the limit. Below are the sources with the highest corrected harm.",
)

CONTRASTS: Final = (
    "Regimes compared at equal models, sources and targets, by least squares with an effect for each of them. Errors "
    "are clustered by model and by pair of source and target, and the interval has models − 1 degrees of freedom, so "
    "that it also holds for other models.",
)

VARIANCE: Final = (
    "Seven components and the sampling noise, fitted by restricted maximum likelihood with every interaction, so that "
    "a source that is good for every model (source) is distinguished from one that is good for single models "
    "(model:source). Negative estimates are kept; they mean that there is no sign of the component.",
)

ROLES: Final = (
    "The scores of the published layer, with 95% intervals by a bootstrap over models and partners at once. Ranks "
    "follow from simultaneous comparisons of every two names: all intervals of ranks hold together with 95% "
    "confidence. Where they overlap, the order is not known.",
)

CONSISTENCY: Final = (
    "The published Consistency Index beside its ceiling: the index that raters with one and the same true profile "
    "would reach with noise like this study's.",
)

LINGUISTIC: Final = (
    "The published correlations, with p-values by permuting languages (QAP), which take into account that each "
    "language is in many pairs, beside the plain ones, which do not.",
)

POWER: Final = (
    "The smallest true effects that a study of this size would find four times out of five, at the level 0.05. Smaller "
    "effects may exist and not be found: a difference that is not significant here may still exist.",
)
