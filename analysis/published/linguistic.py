"""Typological vectors of languages, and MT-CL transfer against the distance between them, as published.

URIEL (Littell et al. 2017) codes a feature of syntax, phonology or inventory as 0 or 1 and predicts unknown ones from
neighbouring languages. The package ``lang2vec`` carries those predictions; it is read, not imported. The p-values
assume that ordered language pairs are independent, which they are not: they are much too small.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from analysis.measures.levels import LeftOut
from analysis.measures.statistics import FEWEST, correlate
from analysis.measures.transfer import of_regime
from registry.cells import Regime
from registry.errors import Refused

__all__ = [
    "KINDS", "LanguageVectors", "cosine_distances", "language_pairs", "linguistic", "read_vectors", "uriel_vectors",
]  # fmt: skip

#: Kinds of vector, and how URIEL's names of their features begin.
KINDS: Final = {"syntax": "S_", "phonology": "P_", "inventory": "INV_"}

_FILE = "feature_predictions.npz"


@dataclass(frozen=True)
class LanguageVectors:
    """Vectors by kind: languages × features, no NaN; and where they are from."""

    by_kind: dict[str, pd.DataFrame]
    origin: str


def uriel_vectors(languages: list[str]) -> LanguageVectors | None:
    """Return URIEL's vectors of the languages it knows; None where the package ``lang2vec`` is not installed.

    Languages are named by their codes in ISO 639-1 or 639-3.
    """
    spec = find_spec("lang2vec")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "data"
    codes = json.loads((folder / "letter_codes.json").read_text(encoding="utf-8"))
    with np.load(folder / _FILE) as stored:
        features, known, data = stored["feats"].astype(str), stored["langs"].astype(str), stored["data"][:, :, 0]
    at = {code: row for row, code in enumerate(known)}
    present = {name: at[codes.get(name, name)] for name in languages if codes.get(name, name) in at}
    table = pd.DataFrame(data[list(present.values())], index=pd.Index(list(present)), columns=features)
    return LanguageVectors(_by_kind(table), f"URIEL, filled by nearest neighbours (lang2vec {version('lang2vec')})")


def read_vectors(path: Path) -> LanguageVectors:
    """Read vectors from a CSV: a column ``language``, then features whose names begin ``S_``, ``P_`` or ``INV_``.

    Raises
    ------
    Refused
        If the file cannot be read as such, a language stands twice, or a value is missing or no number.
    """
    if not path.is_file():
        raise Refused(f"vectors: there is no file {path}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise Refused(f"vectors: {path} is no CSV table: {error}") from error
    if "language" not in table.columns:
        raise Refused(f"vectors: {path} has no column 'language'; it has {', '.join(map(str, table.columns[:8]))}")
    twice = sorted(set(table.loc[table["language"].duplicated(), "language"].astype(str)))
    if twice:
        raise Refused(f"vectors: {path} names these languages twice: {', '.join(twice)}")
    vectors = _by_kind(_numbers(table.set_index("language"), path))
    if not vectors:
        raise Refused(f"vectors: no column of {path} begins with {', '.join(KINDS.values())}")
    return LanguageVectors(vectors, path.name)


def _numbers(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the features as numbers; refuse what is none."""
    wanted = table[[column for column in table.columns if str(column).startswith(tuple(KINDS.values()))]]
    numbers = wanted.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    bad = ~np.isfinite(numbers)
    if bad.any(axis=None):
        language, feature = bad.stack().idxmax()
        raise Refused(
            f"vectors: {path} has {wanted.at[language, feature]!r} for {feature} of {language!r}; every feature of "
            "every language needs a number, so fill gaps before"
        )
    return numbers


def _by_kind(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split a table of features by the beginnings of their names."""
    parts = {
        kind: table[[column for column in table.columns if str(column).startswith(prefix)]].astype(np.float64)
        for kind, prefix in KINDS.items()
    }
    return {kind: part for kind, part in parts.items() if part.shape[1]}


# --- transfer against distance


_PART = "Linguistic distance"
_COLUMNS = ["distance", "n_pairs", "spearman", "spearman_p", "pearson", "pearson_p", "vectors"]


def cosine_distances(vectors: pd.DataFrame) -> pd.DataFrame:
    """Return one minus the cosine between all rows (languages × features); NaN for a vector of zeros."""
    values = vectors.to_numpy(dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1)
    products = np.outer(lengths, lengths)
    cosine = np.divide(values @ values.T, products, out=np.full_like(products, np.nan), where=products > 0)
    return pd.DataFrame(1.0 - cosine, index=vectors.index, columns=vectors.index)


def linguistic(
    cells: pd.DataFrame, vectors: LanguageVectors | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, list[LeftOut]]:
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


def _unknown(languages: list[str], vectors: LanguageVectors) -> list[LeftOut]:
    """Name the languages that have no vectors."""
    known = set().union(*(table.index for table in vectors.by_kind.values()))
    without = [name for name in languages if name not in known]
    if not without:
        return []
    return [LeftOut(f"{_PART} of {', '.join(without)}", f"{vectors.origin} has no vectors of them.")]
