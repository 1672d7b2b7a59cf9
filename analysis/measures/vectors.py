"""Typological vectors of languages: URIEL's, filled by its nearest neighbours, or a table of the user's.

URIEL (Littell et al. 2017) codes a feature of syntax, phonology or inventory as 0 or 1, unknown ones being predicted
from neighbouring languages. The package ``lang2vec`` carries those predictions; it is read, not imported.
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

from registry.errors import Refused

__all__ = ["KINDS", "Vectors", "read_vectors", "uriel_vectors"]

#: Kinds of vector, and how URIEL's names of their features begin.
KINDS: Final = {"syntax": "S_", "phonology": "P_", "inventory": "INV_"}

_FILE = "feature_predictions.npz"


@dataclass(frozen=True)
class Vectors:
    """Vectors by kind: languages × features, no NaN; and where they are from."""

    by_kind: dict[str, pd.DataFrame]
    origin: str


def uriel_vectors(languages: list[str]) -> Vectors | None:
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
    return Vectors(_by_kind(table), f"URIEL, filled by nearest neighbours (lang2vec {version('lang2vec')})")


def read_vectors(path: Path) -> Vectors:
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
    return Vectors(vectors, path.name)


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
