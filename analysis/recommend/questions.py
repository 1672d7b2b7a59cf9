"""Stored outcomes of questions to the noise that they show, which is kept: it takes seconds and rarely changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa

from analysis.corrected.noise import MEASURED, NoiseTable, measured_noise
from analysis.stored.cache import CachedResult
from analysis.stored.collected import study_outcomes
from analysis.stored.outcomes import StoredOutcomes
from registry.tracking.columns import BLOCK

__all__ = ["stored_noise"]

#: Raise it when the noise comes to be measured otherwise.
_VERSION = "1"

_COLUMNS = pa.schema(
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
    kept = CachedResult(cache / "noise.parquet", _COLUMNS, _VERSION)
    return NoiseTable(kept.of(_digest(stored), lambda: measured_noise(study_outcomes(stored)).table), MEASURED)


def _digest(stored: StoredOutcomes) -> str:
    """Return a digest of whose answers count where, and of the answers."""
    found = hashlib.sha256()
    for run in stored.runs:
        targets = "all" if run.targets is None else " ".join(sorted(map(str, run.targets)))
        found.update(f"{run.key}\n{run.packed.test_set}\n{targets}\n{len(run.packed.bits)}\n".encode())
        found.update(run.packed.bits)
    return found.hexdigest()
