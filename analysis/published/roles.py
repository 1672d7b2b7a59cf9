"""Donor and recipient scores of languages and tasks, as in "Donors and Recipients" (arXiv 2511.13368)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.measures.levels import LeftOut
from analysis.measures.statistics import FEWEST, correlate
from analysis.measures.transfer import HUMAN, MACHINE, constructions, language_family
from registry.cells import Regime

__all__ = [
    "DONOR", "RECIPIENT", "donors_by_construction", "donors_correlation", "language_families", "roles",
    "side_by_side",
]  # fmt: skip

DONOR, RECIPIENT = "donor", "recipient"

#: A language gives and receives within a task, a task within a language.
_REGIME = {"language": Regime.MT_CL, "task": Regime.CT_ML}
_END = {DONOR: "source", RECIPIENT: "target"}


def roles(cells: pd.DataFrame) -> pd.DataFrame:
    """Score every language and task as donor and as recipient.

    A donor score is the mean over models of each model's mean delta over the cells whose source has that language
    (MT-CL cells) or task (CT-ML cells); a recipient score the same by target.

    Returns
    -------
    DataFrame
        ``factor`` (language, task), ``name``, ``role`` (donor, recipient), ``score`` and ``se`` in pp, ``n_models``.
        The standard error is that of a mean over models, as published; NaN where there is one model.
    """
    parts = [_scores(cells, factor, role) for factor in _REGIME for role in _END]
    return pd.concat(parts, ignore_index=True).sort_values(["factor", "name", "role"]).reset_index(drop=True)


def _scores(cells: pd.DataFrame, factor: str, role: str) -> pd.DataFrame:
    """Return the scores of one factor in one role."""
    rows = cells[cells["regime"] == str(_REGIME[factor])]
    per_model = rows.groupby([f"{_END[role]}_{factor}", "model"])["delta"].mean()
    by_name = per_model.groupby(level=0)
    n_models = by_name.count()
    return pd.DataFrame(
        {
            "factor": factor,
            "name": n_models.index.astype(str),
            "role": role,
            "score": by_name.mean().to_numpy(dtype=np.float64),
            "se": (by_name.std() / np.sqrt(n_models)).to_numpy(dtype=np.float64),
            "n_models": n_models.to_numpy(dtype=np.int64),
        }
    )


def side_by_side(table: pd.DataFrame, factor: str) -> pd.DataFrame:
    """Return one row per language or task, best donor first.

    Returns
    -------
    DataFrame
        ``name``, ``donor``, ``donor_se``, ``recipient``, ``recipient_se``, ``n_models``; NaN where a role was not
        measured.
    """
    rows = table[table["factor"] == factor]
    names = pd.Index(sorted(rows["name"].unique()), name="name")
    columns: dict[str, pd.Series] = {}
    for role in _END:
        of_role = rows[rows["role"] == role].set_index("name").reindex(names)
        columns |= {role: of_role["score"], f"{role}_se": of_role["se"]}
    columns["n_models"] = rows.groupby("name")["n_models"].max().reindex(names)
    return pd.DataFrame(columns, index=names).sort_values(DONOR, ascending=False, kind="stable").reset_index()


def language_families(table: pd.DataFrame) -> pd.DataFrame:
    """Average the language scores of `roles` over the languages of each family.

    Returns
    -------
    DataFrame
        ``family``, ``role``, ``score`` (pp), ``n_languages``, ``languages`` (comma-separated). A language of no
        published family is a family of its own.
    """
    rows = table[table["factor"] == "language"]
    grouped = rows.assign(family=rows["name"].map(language_family)).groupby(["family", "role"])
    return grouped.agg(
        score=("score", "mean"), n_languages=("name", "size"), languages=("name", ", ".join)
    ).reset_index()


# --- whether languages give alike on human- and machine-translated tests


_PART = "Donors on human- and machine-translated tests"


def donors_by_construction(cells: pd.DataFrame) -> pd.DataFrame:
    """Return donor scores of languages, computed apart on human- and on machine-translated tasks.

    Returns
    -------
    DataFrame
        ``construction``, ``language``, ``score``, ``se`` (pp), ``n_models``.
    """
    kinds = constructions(cells["source_task"])
    parts = []
    for kind in (HUMAN, MACHINE):
        scores = roles(cells[kinds == kind])
        donors = scores[(scores["factor"] == "language") & (scores["role"] == DONOR)].rename(
            columns={"name": "language"}
        )
        parts.append(donors[["language", "score", "se", "n_models"]].assign(construction=kind))
    table = pd.concat(parts, ignore_index=True)
    return table[["construction", "language", "score", "se", "n_models"]]


def donors_correlation(donors: pd.DataFrame) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Correlate the two columns of donor scores over the languages that have both.

    Parameters
    ----------
    donors
        The table of `donors_by_construction`.

    Returns
    -------
    table, left_out
        One row: ``n_languages``, ``spearman``, ``p``; or none, and the reason.
    """
    columns = ["n_languages", "spearman", "p"]
    both = donors.pivot(index="language", columns="construction", values="score")
    both = both.reindex(columns=[HUMAN, MACHINE]).dropna()
    if len(both) < FEWEST:
        reason = (
            f"it takes {FEWEST} languages that are sources on human-translated and on machine-translated tasks; there "
            f"{'is' if len(both) == 1 else 'are'} {len(both)}."
        )
        return pd.DataFrame(columns=columns), [LeftOut(_PART, reason)]
    found = correlate(both[HUMAN], both[MACHINE], ranks=True)
    return pd.DataFrame([(len(both), found.value, found.p)], columns=columns), []
