"""Variance components of a study's cells about the means of its regimes, which are kept: fitting them takes seconds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow as pa

from analysis.corrected.effects import regime_components
from analysis.corrected.noise import MEASURED, NoiseTable, measured_noise
from analysis.reading.cache import CachedResult
from analysis.reading.outcomes import StoredOutcomes, study_outcomes
from registry.tracking.columns import BLOCK, CELL_KEY

__all__ = ["components_of", "stored_noise"]

#: Raise it when the components come to be estimated otherwise.
_VERSION = "1"

_COLUMNS = pa.schema([("component", pa.string()), ("variance", pa.float64())])


def components_of(cells: pd.DataFrame, noise: NoiseTable, *, cache: Path | None = None) -> dict[str, float]:
    """Return the variances of all terms about the means of regimes, in pp², none below 0.

    A component that the cells do not identify counts as 0, its variance being part of another's. So does one that
    cannot be estimated at all, as in a study of one source.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` gives it.
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


# --- stored outcomes of questions to the noise that they show, which is kept: it takes seconds and rarely changes


#: Raise it when the noise comes to be measured otherwise.
_NOISE_VERSION = "1"

_NOISE_COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in BLOCK),
        *((name, pa.int64()) for name in ("n_sources", "n_questions")),
        *((name, pa.float64()) for name in ("v", "c")),
    ]
)


def stored_noise(stored: StoredOutcomes, *, cache: Path | None = None) -> NoiseTable | None:
    """Return the sampling noise that stored outcomes show; None if there are none.

    Parameters
    ----------
    cache
        Folder of the study, where the last noise is kept with a digest of what it was measured from.
    """
    if not stored.runs:
        return None
    if cache is None:
        return measured_noise(study_outcomes(stored))
    kept = CachedResult(cache / "noise.parquet", _NOISE_COLUMNS, _NOISE_VERSION)
    return NoiseTable(kept.of(_outcomes_digest(stored), lambda: measured_noise(study_outcomes(stored)).table), MEASURED)


def _outcomes_digest(stored: StoredOutcomes) -> str:
    """Return a digest of whose answers count where, and of the answers."""
    found = hashlib.sha256()
    for run in stored.runs:
        targets = "all" if run.targets is None else " ".join(sorted(map(str, run.targets)))
        found.update(f"{run.key}\n{run.packed.test_set}\n{targets}\n{len(run.packed.bits)}\n".encode())
        found.update(run.packed.bits)
    return found.hexdigest()
