"""Variance components of a study's cells about the means of its regimes, which are kept: fitting them takes seconds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow as pa

from analysis.corrected.noise import NoiseTable
from analysis.corrected.shrinkage import regime_components
from analysis.stored.cache import CachedResult
from registry.tracking.columns import CELL_KEY

__all__ = ["components_of"]

#: Raise it when the components come to be estimated otherwise.
_VERSION = "1"

_COLUMNS = pa.schema([("component", pa.string()), ("variance", pa.float64())])


def components_of(cells: pd.DataFrame, noise: NoiseTable, *, cache: Path | None = None) -> dict[str, float]:
    """Return the variances of all terms about the means of regimes, in pp², none below 0.

    What the cells do not tell apart counts as 0, its variance being part of another's; so does what cannot be estimated
    at all, as in a study of one source.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.observations.cells` gives it.
    cache
        Folder of the study, where the last components are kept with a digest of what they were estimated from.
    """
    if cache is None:
        table = _estimated(cells, noise)
    else:
        kept = CachedResult(cache / "components.parquet", _COLUMNS, _VERSION)
        table = kept.of(_digest(cells, noise), lambda: _estimated(cells, noise))
    return dict(zip(table["component"], table["variance"], strict=True))


def _estimated(cells: pd.DataFrame, noise: NoiseTable) -> pd.DataFrame:
    found = pd.Series(regime_components(cells, noise.mean()), name="variance")
    return found.fillna(0.0).clip(lower=0.0).rename_axis("component").reset_index()


def _digest(cells: pd.DataFrame, noise: NoiseTable) -> str:
    """Return a digest of the cells, their deltas and the mean noise, exact in every number."""
    rows = pd.util.hash_pandas_object(cells[[*CELL_KEY, "regime", "delta"]], index=False)
    return hashlib.sha256(rows.to_numpy().tobytes() + repr(noise.mean()).encode()).hexdigest()
