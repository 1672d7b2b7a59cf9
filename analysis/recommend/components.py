"""Variance components of a study's cells about the means of its regimes, which are kept: fitting them takes seconds."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa

from analysis.corrected.noise import NoiseTable
from analysis.corrected.terms import CELL, RESIDUAL, TERMS
from analysis.corrected.variance import OVERALL, scope_components
from analysis.stored.cache import CachedTable
from registry.tracking.columns import SOURCE, TARGET

__all__ = ["components_of"]

#: Raise it when the components come to be estimated otherwise.
_VERSION = "1"

_SCHEMA = pa.schema([("of", pa.string()), ("component", pa.string()), ("variance", pa.float64())])


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
    digest = _digest(cells, noise)
    kept = None if cache is None else CachedTable(cache / "components.parquet", _SCHEMA, _VERSION)
    if kept is not None:
        table = kept.read().to_pandas()
        if len(table) and (table["of"] == digest).all():
            return dict(zip(table["component"], table["variance"], strict=True))
    found = _estimated(cells, noise)
    if kept is not None:
        rows = [{"of": digest, "component": name, "variance": variance} for name, variance in found.items()]
        kept.write(pa.Table.from_pylist(rows, _SCHEMA))
    return found


def _estimated(cells: pd.DataFrame, noise: NoiseTable) -> dict[str, float]:
    about = cells["delta"] - cells.groupby("regime")["delta"].transform("mean")
    table = scope_components(OVERALL, cells.assign(delta=about), noise=noise.mean())
    found = dict(zip(table["component"], table["variance"], strict=True))
    if CELL in found:  # source and target are one factor: its effects go by the source
        found["source"] = found[CELL]
    values = {name: float(found.get(name, math.nan)) for name in [*TERMS, RESIDUAL]}
    return {name: 0.0 if math.isnan(value) else max(value, 0.0) for name, value in values.items()}


def _digest(cells: pd.DataFrame, noise: NoiseTable) -> str:
    """Return a digest of the cells, their deltas and the mean noise, exact in every number."""
    names = pd.util.hash_pandas_object(cells[["model", *SOURCE, *TARGET, "regime", "delta"]], index=False)
    return hashlib.sha256(names.to_numpy().tobytes() + repr(noise.mean()).encode()).hexdigest()
