"""The published analyses as parts of the report: their texts, figures and tables."""

from __future__ import annotations

from typing import Final

import pandas as pd

from analysis.measures.transfer import HUMAN, MACHINE
from analysis.published.compute import Published
from analysis.published.harm import by_source_task
from analysis.published.roles import side_by_side
from analysis.reading.observations import cell_names
from analysis.report.tables import (
    ReportColumn,
    ReportPart,
    ReportTable,
    count,
    delta,
    number,
    percent,
    probability,
    report_table,
    text,
)

__all__ = ["parts"]

_SHOWN = 10  # rows of a ranking that the report spells out; the CSV has all
_FRONT = 15

_SUMMARY: dict[str, ReportColumn] = {
    "n": count("Cells"),
    "mean": delta("Mean Δ"),
    "median": delta("Median"),
    "positive_pct": percent("Positive"),
    "harm_pct": percent("Harm"),
}
_ADAPTER: dict[str, ReportColumn] = {
    "model": text("Model"),
    "source": text("Source"),
    "mt_cl_mean": delta("MT-CL"),
    "off_task_mean": delta("Off-task"),
    "transfer_mean": delta("All transfer"),
    "off_task_harm_pct": percent("Off-task harm"),
}
_FACTORS = {
    "target_language": "Target language",
    "target_task": "Target task",
    "size_bucket": "Size of the base model",
    "model_family": "Family of the base model",
}


def parts(published: Published) -> list[ReportPart]:
    """Return the parts of the section in the paper's order; tables that the grid does not allow have no rows."""
    return [
        _uplift(published.tables),
        _harm(published.tables),
        _pareto(published.tables),
        _roles(published.tables),
        _matrices(),
        _variance(published.tables),
        _consistency(published.tables),
        _linguistic(published.tables),
        _ablation(published.tables),
    ]


def _file(name: str) -> str:
    return f"published/{name}.csv"


def _uplift(tables: dict[str, pd.DataFrame]) -> ReportPart:
    columns = {"regime": text("Regime"), **_SUMMARY}
    return ReportPart(
        "uplift", "Uplift", UPLIFT, tables=(report_table(tables["uplift"], "Uplift", columns, _file("uplift")),)
    )


def _harm(tables: dict[str, pd.DataFrame]) -> ReportPart:
    table = tables["harm"]
    by_factor = [
        report_table(
            table[table["factor"] == factor],
            f"MT-CL by {words.lower()}",
            {"level": text(words), **_SUMMARY},
            _file("harm"),
        )
        for factor, words in _FACTORS.items()
    ]
    columns = {"construction": text("Items"), "tasks": text("Tasks"), **_SUMMARY}
    built = report_table(tables["construction"], "MT-CL by construction type", columns, _file("construction"))
    return ReportPart("harm", "Where MT-CL harms", (*HARM, *CONSTRUCTION), tables=(*by_factor, built))


def _pareto(tables: dict[str, pd.DataFrame]) -> ReportPart:
    points = tables["pareto"].assign(source=lambda rows: cell_names(rows, "source"))
    front = points[points["on_front"]].sort_values("mt_cl_mean", ascending=False)
    ranked = points.dropna(subset=["transfer_mean"]).sort_values("transfer_mean", ascending=False, kind="stable")
    ends = min(_SHOWN, len(ranked) // 2)
    by_task = {
        "source_task": text("Source task"),
        "n": count("Adapters"),
        "mt_cl_mean": delta("MT-CL"),
        "off_task_mean": delta("Off-task"),
        "off_task_harm_pct": percent("Off-task harm"),
    }
    sides = {"source_task": text("Source task"), "targets": text("Targets"), **_SUMMARY}
    return ReportPart(
        "gain-and-cost",
        "Gain and cost per adapter",
        PARETO,
        figures=("pareto", "pareto_families"),
        tables=(
            report_table(tables["on_off_task"], "Cells by source task, on and off it", sides, _file("on_off_task")),
            report_table(by_source_task(points), "Adapters by source task", by_task, _file("pareto")),
            report_table(front, "Adapters on the Pareto front", _ADAPTER, _file("pareto"), most=_FRONT),
            report_table(
                ranked.head(ends), "Best sources, by mean Δ over all transfer targets", _ADAPTER, _file("pareto")
            ),
            report_table(ranked.tail(ends).iloc[::-1], "Worst sources", _ADAPTER, _file("pareto")),
        ),
    )


def _roles(tables: dict[str, pd.DataFrame]) -> ReportPart:
    columns = {
        "donor": delta("Donor"),
        "donor_se": number("SE"),
        "recipient": delta("Recipient"),
        "recipient_se": number("SE"),
        "n_models": count("Models"),
    }
    by_factor = [
        report_table(side_by_side(tables["roles"], factor), caption, {"name": text(heading), **columns}, _file("roles"))
        for factor, heading, caption in (("language", "Language", "Languages, MT-CL"), ("task", "Task", "Tasks, CT-ML"))
    ]
    families = {
        "family": text("Family"),
        "languages": text("Languages"),
        "donor": delta("Donor"),
        "recipient": delta("Recipient"),
    }
    kinds = {"language": text("Language"), HUMAN: delta("Human-translated"), MACHINE: delta("Machine-translated")}
    correlation = {"n_languages": count("Languages"), "spearman": number("Spearman’s ρ"), "p": probability()}
    return ReportPart(
        "roles",
        "Donors and recipients",
        ROLES,
        figures=("language_roles", "task_roles"),
        tables=(
            *by_factor,
            report_table(
                _family_roles(tables["language_families"]),
                "Families of languages",
                families,
                _file("language_families"),
            ),
            report_table(
                tables["correlation"],
                "Do languages give alike on human- and machine-translated tests?",
                correlation,
                _file("correlation"),
            ),
            report_table(
                _both_kinds(tables["donors_by_construction"]),
                "Donor scores on human- and machine-translated tests",
                kinds,
                _file("donors_by_construction"),
            ),
        ),
    )


def _both_kinds(donors: pd.DataFrame) -> pd.DataFrame:
    """Put donor scores on the two kinds of test side by side, for languages that have both."""
    wide = donors.pivot(index="language", columns="construction", values="score")
    return wide.reindex(columns=[HUMAN, MACHINE]).dropna().sort_values(HUMAN, ascending=False).reset_index()


def _family_roles(table: pd.DataFrame) -> pd.DataFrame:
    """Put the two roles of each family side by side, best donor first."""
    wide = table.pivot(index="family", columns="role", values="score").reindex(columns=["donor", "recipient"])
    members = table.groupby("family")["languages"].agg(lambda names: max(names, key=len))
    return wide.assign(languages=members).sort_values("donor", ascending=False, kind="stable").reset_index()


def _matrices() -> ReportPart:
    return ReportPart("matrices", "Who gives to whom", MATRICES, figures=("task_matrix", "language_matrix"))


def _variance(tables: dict[str, pd.DataFrame]) -> ReportPart:
    table = tables["variance"]
    keys = ["cells", "variant", "n", "converged", "warnings", "note"]
    wide = table.pivot_table(index=keys, columns="component", values="share_pct", sort=False, dropna=True).reset_index()
    wide = wide.reindex(columns=[*keys, "Model", "Source", "Target", "Residual"])
    wide["said"] = [_said(row) for row in wide.to_dict("records")]
    columns = {
        "cells": text("Cells"),
        "variant": text("Fit"),
        "Model": percent("Model"),
        "Source": percent("Source"),
        "Target": percent("Target"),
        "Residual": percent("Residual"),
        "said": text("The optimiser"),
    }
    shares = report_table(wide, "Shares of variance", columns, _file("variance"))
    return ReportPart("variance", "Variance decomposition", VARIANCE, tables=(shares,), warnings=VARIANCE_WARNINGS)


def _said(row: dict[str, object]) -> str:
    """Say how a fit ended."""
    words = [
        "converged" if row["converged"] else "did not converge",
        str(row["warnings"] or "no warning"),
        str(row["note"]),
    ]
    return "; ".join(word for word in words if word)


def _consistency(tables: dict[str, pd.DataFrame]) -> ReportPart:
    columns = {
        "raters": text("Between"),
        "regime": text("Regime"),
        "n_sources": count("Source cells"),
        "q1": number("Lower quartile"),
        "median": number("Median τ-b"),
        "q3": number("Upper quartile"),
    }
    plural = {"model": "models", "family": "families", "size": "size buckets"}
    table = tables["consistency"].assign(raters=lambda rows: rows["raters"].map(plural))
    index = report_table(table, "Consistency Index", columns, _file("consistency"))
    return ReportPart("consistency", "Consistency Index", CONSISTENCY, tables=(index,))


def _linguistic(tables: dict[str, pd.DataFrame]) -> ReportPart:
    columns = {
        "distance": text("Distance"),
        "n_pairs": count("Ordered pairs"),
        "spearman": number("Spearman’s ρ"),
        "spearman_p": probability(),
        "pearson": number("Pearson’s r"),
        "pearson_p": probability(),
        "vectors": text("Vectors"),
    }
    table: ReportTable = report_table(
        tables["linguistic"], "Mean MT-CL Δ against distance", columns, _file("linguistic")
    )
    return ReportPart("linguistic", "Linguistic distance", LINGUISTIC, tables=(table,))


def _ablation(tables: dict[str, pd.DataFrame]) -> ReportPart:
    columns = {
        "variant": text("This"),
        "against": text("Against"),
        "regime": text("Regime"),
        "n": count("Cells"),
        "pearson": number("Pearson’s r"),
        "sign_agreement_pct": percent("Same sign"),
        "mean_difference": delta("Mean difference"),
    }
    table = report_table(tables["ablation"], "Two variants, cell by cell", columns, _file("ablation"))
    return ReportPart("ablation", "Variants compared", ABLATION, tables=(table,))


# --- the paragraphs of each analysis, and warnings


UPLIFT: Final = (
    "Mean and median Δ, and the shares of cells above 0 (positive) and at or below −1 pp (harm). Transfer is the "
    "three regimes other than MT-ML.",
)

HARM: Final = ("The cells of the same task in another language (MT-CL), one way of dividing them at a time.",)

CONSTRUCTION: Final = (
    "By construction type: whether people or machines translated the items of a task. That is known of the paper's "
    "four tasks only.",
)

PARETO: Final = (
    "Every adapter by what it gives its own task in other languages and what it does to other tasks. The front, which"
    " is not in the paper, links the adapters that no other beats in one without losing in the other.",
    "The ends of a ranking are partly luck: expect its first and last adapters nearer the middle if measured again.",
)

ROLES: Final = (
    "A donor score is what a language or task gives as source, a recipient score what it gets as target: the mean "
    "within each base model, then over models. Languages are scored on MT-CL cells, tasks on CT-ML cells. The "
    "standard error (SE) is that over models, where there are several; it leaves out the choice of partners, so the "
    "real uncertainty is larger, and it says nothing about models other than those run.",
    "A family's score is the mean of its languages' scores: Romance, Germanic and Indic; any other language stands "
    "alone.",
)

MATRICES: Final = ("Mean Δ from each source to each target, over everything else.",)

VARIANCE: Final = (
    "How much of the differences between cells goes with the base model, the source, the target, and none of them, in"
    " percent: a mixed model with an intercept alone, fitted by REML with statsmodels, groups being base models. That"
    " library offers two ways, and both are shown; without model intercept there is no Model share.",
)

VARIANCE_WARNINGS: Final = (
    "Source here is source plus model:source, and Target is target plus model:target: both components are nested in "
    "the base model. In a simulation in which no source effect was common to the models, this fit still reported "
    "15.7% for Source. So it cannot distinguish “some donors are good for every model” from “every model has its own "
    "donors”.",
    "The standard error of the grand mean from this fit is 26–29% too small, so none is shown.",
)

CONSISTENCY: Final = (
    "Do models agree on whom a source helps most? For each source cell, Kendall's τ-b between every two models over "
    "the recipients that both have (three at least), averaged over pairs; shown are median and quartiles over source "
    "cells. Recipients are languages (MT-CL), tasks (CT-ML) or cells (CT-CL). Families and size buckets stand for "
    "models where it says so.",
    "Noise lowers this index: in simulations two models with the very same true profile reached a median of 0.37 to "
    "0.63 only, with 0.9 pp of noise per cell.",
)

LINGUISTIC: Final = (
    "Mean MT-CL Δ of each ordered pair of languages against the cosine distance of their typological vectors.",
    "These p-values assume that the pairs are independent, although each language is in many of them. In simulations "
    "without any relation, p fell below 0.05 in 22% of the cases.",
)

ABLATION: Final = (
    "The cells (base model, source, target) that two variants or studies share: correlation of Δ, share of cells with"
    " the same sign, and the first's Δ minus the second's.",
)
