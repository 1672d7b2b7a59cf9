"""MT-CL transfer on human- and machine-translated tests, and whether languages give alike on both, as published."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.measures.groups import HUMAN, MACHINE, UNKNOWN, constructions
from analysis.measures.levels import LeftOut
from analysis.measures.uplift import of_regime, summary
from analysis.published.roles import DONOR, roles
from registry.cells import Regime

__all__ = ["FEWEST", "Correlation", "construction", "correlate", "donors_by_construction", "donors_correlation"]

_PART = "MT-CL by construction type"


def construction(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Summarise MT-CL cells by how the items of their task came into other languages.

    Returns
    -------
    table, left_out
        ``construction``, ``tasks`` (comma-separated) and ``n``, ``mean``, ``median`` (pp), ``positive_pct``,
        ``harm_pct`` (percent). Tasks of unknown construction are left out, and named.
    """
    rows = of_regime(cells, Regime.MT_CL)
    kinds = constructions(rows["source_task"])
    found = []
    for kind in (HUMAN, MACHINE):
        of_kind = rows[kinds == kind]
        if len(of_kind):
            tasks = ", ".join(sorted(of_kind["source_task"].unique()))
            found.append({"construction": kind, "tasks": tasks, **summary(of_kind["delta"])})
    columns = ["construction", "tasks", "n", "mean", "median", "positive_pct", "harm_pct"]
    return pd.DataFrame(found, columns=columns), _left_out(rows.loc[kinds == UNKNOWN, "source_task"])


def _left_out(unknown: pd.Series) -> list[LeftOut]:
    """Name the tasks of which nobody said who translated them."""
    if unknown.empty:
        return []
    tasks = ", ".join(sorted(unknown.unique()))
    reason = f"whether people or machines translated the items is not known here of: {tasks}."
    return [LeftOut(_PART, reason)]


# --- do languages give alike on human- and machine-translated tests? As published (arXiv 2511.13368)


#: Fewer pairs than this have no correlation worth a name: any two points lie on a line.
FEWEST = 3

_DONORS_PART = "Donors on human- and machine-translated tests"


class Correlation(NamedTuple):
    """Coefficient and two-sided p-value; NaN where one of the two does not vary or there are too few pairs."""

    value: float
    p: float


def correlate(x: ArrayLike, y: ArrayLike, *, ranks: bool) -> Correlation:
    """Return Spearman's (``ranks``) or Pearson's correlation of two series of equal length, without NaN."""
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(first) < FEWEST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(math.nan, math.nan)
    found = stats.spearmanr(first, second) if ranks else stats.pearsonr(first, second)
    return Correlation(float(found.statistic), float(found.pvalue))


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
        return pd.DataFrame(columns=columns), [LeftOut(_DONORS_PART, reason)]
    found = correlate(both[HUMAN], both[MACHINE], ranks=True)
    return pd.DataFrame([(len(both), found.value, found.p)], columns=columns), []
