"""MT-CL transfer against linguistic distance, tested by permuting languages.

Each language is in many ordered pairs, so pairs are not independent. The quadratic assignment procedure (QAP; Hubert
and Schultz 1976, Krackhardt 1988) gives the languages of one matrix other names, rows and columns alike, and sees how
often the correlation is as strong then.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.measures.levels import SIGNIFICANT, LeftOut
from analysis.published.linguistic import LanguageVectors, cosine_distances, uriel_vectors
from analysis.published.linguistic import linguistic as as_published

__all__ = ["COLUMNS", "PERMUTATIONS", "PermutationTest", "linguistic", "qap"]

Array = NDArray[np.float64]

COLUMNS = [
    "distance", "n_languages", "n_pairs", "spearman", "spearman_p", "spearman_p_plain", "pearson", "pearson_p",
    "pearson_p_plain", "permutations", "vectors", "note",
]  # fmt: skip

PERMUTATIONS = 9_999

# A correlation that misses the observed one by rounding is as strong as it.
_ROUNDING = 1e-9


class PermutationTest(NamedTuple):
    """Correlations and their two-sided p-values by permutation; NaN where one of the two does not vary.

    ``exact`` says that all permutations were tried.
    """

    spearman: float
    spearman_p: float
    pearson: float
    pearson_p: float
    permutations: int
    exact: bool


def linguistic(
    cells: pd.DataFrame, vectors: LanguageVectors | None = None, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Correlate mean MT-CL delta per ordered language pair with distances, with p-values by QAP.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` gives it.
    vectors
        Of the user's; by default URIEL's, where ``lang2vec`` is installed.
    permutations, seed
        How many are drawn; all are tried instead where there are no more.

    Returns
    -------
    table, left_out
        `COLUMNS`: per kind of distance the coefficients as published, with p-values by permutation beside the plain
        ones, which are much too small; what there is no number for.
    """
    languages = sorted({*cells["source_language"], *cells["target_language"]})
    chosen = vectors or uriel_vectors(languages)
    published, pairs, left_out = as_published(cells, chosen)
    if chosen is None:
        return pd.DataFrame(columns=COLUMNS), left_out
    rows = []
    for row in published.to_dict("records"):
        distance = cosine_distances(chosen.by_kind[str(row["distance"])]).dropna(how="all").dropna(axis=1, how="all")
        transfer = pairs.pivot(index="source_language", columns="target_language", values="mean")
        known = [name for name in distance.index if name in transfer.index or name in transfer.columns]
        square = transfer.reindex(index=known, columns=known).to_numpy(dtype=np.float64)
        of_known = distance.loc[known, known].to_numpy(dtype=np.float64)
        found = qap(square, of_known, permutations=permutations, random=np.random.default_rng(seed))
        rows.append(_row(row, len(known), found))
    return pd.DataFrame(rows, columns=COLUMNS), left_out


def _row(published: dict[str, object], n_languages: int, found: PermutationTest) -> dict[str, object]:
    """Put the p-values by permutation beside the plain ones."""
    plain = {f"{name}_plain": published[name] for name in ("spearman_p", "pearson_p")}
    row = published | plain | {"spearman_p": found.spearman_p, "pearson_p": found.pearson_p}
    return row | {"n_languages": n_languages, "permutations": found.permutations, "note": _note(n_languages, found)}


def _note(n_languages: int, found: PermutationTest) -> str:
    """Say how few permutations there are, where there are few."""
    if not found.exact:
        return ""
    note = f"all {found.permutations:,} permutations of {n_languages} languages"
    if 1 / found.permutations <= SIGNIFICANT:
        return note
    return f"{note}: p cannot fall to {SIGNIFICANT:g}, whatever the relation"


def qap(transfer: Array, distance: Array, *, permutations: int, random: np.random.Generator) -> PermutationTest:
    """Correlate the off-diagonal entries of two square matrices, and permute the languages of the second.

    Parameters
    ----------
    transfer
        (languages, languages), not symmetric; NaN where there is none, its diagonal is not looked at.
    distance
        (languages, languages), without NaN off the diagonal.

    Notes
    -----
    p is the share of drawn permutations at which the coefficient is as far from 0 as observed, the observed one counted
    among them; over all permutations, of which it is one, their share as it is.
    """
    there = np.isfinite(transfer) & ~np.eye(len(transfer), dtype=bool)
    row, column = np.nonzero(there)
    orders, exact = _orders(len(transfer), permutations, random)
    permuted = distance[orders[:, row], orders[:, column]]
    observed, values = distance[row, column][None, :], transfer[row, column]
    rank = _p_value(rankdata(values), rankdata(observed, axis=1), rankdata(permuted, axis=1), exact=exact)
    plain = _p_value(values, observed, permuted, exact=exact)
    return PermutationTest(*rank, *plain, len(orders), exact)


def _orders(n: int, permutations: int, random: np.random.Generator) -> tuple[NDArray[np.int64], bool]:
    """Return orders of n languages, (permutations, n), and whether these are all."""
    if n < 20 and math.factorial(n) <= permutations + 1:
        return np.array(list(itertools.permutations(range(n))), dtype=np.int64).reshape(-1, n), True
    return random.permuted(np.tile(np.arange(n, dtype=np.int64), (permutations, 1)), axis=1), False


def _p_value(values: Array, observed: Array, permuted: Array, *, exact: bool) -> tuple[float, float]:
    """Return Pearson's coefficient of values, (pairs,), with the observed row, and its p over the permuted rows."""
    coefficient = float(_correlations(values, observed)[0])
    if math.isnan(coefficient):
        return math.nan, math.nan
    # Where pairs are missing, a permutation may leave only equal distances: no correlation, so not as strong.
    others = np.nan_to_num(np.abs(_correlations(values, permuted)))
    as_strong = int((others >= abs(coefficient) - _ROUNDING).sum())
    return coefficient, as_strong / len(others) if exact else (as_strong + 1) / (len(others) + 1)


def _correlations(values: Array, rows: Array) -> Array:
    """Return Pearson's coefficients of values with every row, (rows,); NaN where one of the two does not vary."""
    centred, moved = values - values.mean(), rows - rows.mean(axis=1, keepdims=True)
    lengths = np.sqrt((centred**2).sum() * (moved**2).sum(axis=1))
    varies = (np.ptp(rows, axis=1) > 0) & (np.ptp(values) > 0)
    return np.asarray(np.divide(moved @ centred, lengths, out=np.full(len(rows), np.nan), where=varies))
