"""MT-CL transfer against the typological distance of its two languages, as published (arXiv 2511.13368).

The p-values take ordered language pairs for independent, which they are not: they are much too small.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.measures.levels import LeftOut
from analysis.measures.uplift import of_regime
from analysis.measures.vectors import KINDS, Vectors, uriel_vectors
from analysis.published.construction import FEWEST, correlate
from registry.cells import Regime

__all__ = ["cosine_distances", "language_pairs", "linguistic"]

_PART = "Linguistic distance"
_COLUMNS = ["distance", "n_pairs", "spearman", "spearman_p", "pearson", "pearson_p", "vectors"]


def cosine_distances(vectors: pd.DataFrame) -> pd.DataFrame:
    """Return one minus the cosine between all rows (languages × features); NaN for a vector of zeros."""
    values = vectors.to_numpy(dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1)
    products = np.outer(lengths, lengths)
    cosine = np.divide(values @ values.T, products, out=np.full_like(products, np.nan), where=products > 0)
    return pd.DataFrame(1.0 - cosine, index=vectors.index, columns=vectors.index)


def linguistic(cells: pd.DataFrame, vectors: Vectors | None = None) -> tuple[pd.DataFrame, pd.DataFrame, list[LeftOut]]:
    """Correlate mean MT-CL delta per ordered language pair with the pair's distances.

    Parameters
    ----------
    vectors
        Of the user's; by default URIEL's, where ``lang2vec`` is installed.

    Returns
    -------
    correlations, pairs, left_out
        ``distance`` (syntax, phonology, inventory), ``n_pairs``, Spearman's and Pearson's coefficients and p-values,
        and where the ``vectors`` are from; the table of `language_pairs`; what there is no number for.
    """
    languages = sorted({*cells["source_language"], *cells["target_language"]})
    chosen = vectors or uriel_vectors(languages)
    if chosen is None:
        reason = (
            "it takes vectors of the languages: install the extra with `pip install -e '.[linguistic]'`, or give a CSV "
            "with vectors=<file>."
        )
        return pd.DataFrame(columns=_COLUMNS), language_pairs(cells, {}), [LeftOut(_PART, reason)]
    pairs = language_pairs(cells, {kind: cosine_distances(table) for kind, table in chosen.by_kind.items()})
    rows, left_out = [], _unknown(languages, chosen)
    for kind in KINDS:
        both = pairs[["mean", kind]].dropna()
        if len(both) < FEWEST:
            reason = (
                f"it takes {FEWEST} ordered pairs of languages with MT-CL cells and vectors; there are {len(both)}."
            )
            left_out.append(LeftOut(f"{_PART}, {kind}", reason))
            continue
        ranks = correlate(both["mean"], both[kind], ranks=True)
        plain = correlate(both["mean"], both[kind], ranks=False)
        rows.append((kind, len(both), *ranks, *plain, chosen.origin))
    return pd.DataFrame(rows, columns=_COLUMNS), pairs, left_out


def language_pairs(cells: pd.DataFrame, distances: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the ordered language pairs of the MT-CL cells.

    Returns
    -------
    DataFrame
        ``source_language``, ``target_language``, ``mean`` delta (pp) over tasks and models, ``n`` cells, and a column
        per kind of distance, NaN where it is not known.
    """
    by_pair = of_regime(cells, Regime.MT_CL).groupby(["source_language", "target_language"])["delta"]
    pairs = by_pair.agg(mean="mean", n="size").reset_index()
    for kind in KINDS:
        distance = distances.get(kind, pd.DataFrame())
        known = (
            distance.rename_axis(index="source_language", columns="target_language").stack() if distance.size else {}
        )
        keys = zip(pairs["source_language"], pairs["target_language"], strict=True)
        pairs[kind] = np.array([known.get(key, np.nan) for key in keys], dtype=np.float64)
    return pairs


def _unknown(languages: list[str], vectors: Vectors) -> list[LeftOut]:
    """Name the languages that have no vectors."""
    known = set().union(*(table.index for table in vectors.by_kind.values()))
    without = [name for name in languages if name not in known]
    if not without:
        return []
    return [LeftOut(f"{_PART} of {', '.join(without)}", f"{vectors.origin} has no vectors of them.")]
