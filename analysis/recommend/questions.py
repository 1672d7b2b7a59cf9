"""Stored outcomes of questions to the noise that they show, which is kept: it takes seconds and rarely changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from analysis.corrected.noise import MEASURED, NoiseTable, measured_noise
from analysis.corrected.outcomes import RunKey, StudyOutcomes, TargetOutcomes, collect
from analysis.stored.cache import CachedResult
from analysis.stored.outcomes import Answered, StoredOutcomes
from registry.cells import Cell
from registry.tracking.columns import BLOCK

__all__ = ["stored_noise", "study_outcomes"]

#: Raise it when the noise comes to be measured otherwise.
_VERSION = "1"

_COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in BLOCK),
        *((name, pa.int64()) for name in ("n_sources", "n_questions")),
        *((name, pa.float64()) for name in ("v", "c")),
    ]
)


Correct = NDArray[np.bool_]


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


def study_outcomes(stored: StoredOutcomes) -> StudyOutcomes:
    """Return what :func:`analysis.corrected.outcomes.collect` makes of stored outcomes.

    Runs that answered one and the same test set, as those of a study do, need no alignment by question: for 1,200 of
    them that takes a third of a second in place of half a minute.
    """
    keys = [run.key for run in stored.runs]
    if len(stored.test_sets) != 1 or len(set(keys)) < len(keys):
        return collect(stored, stored.headlines)
    (table,) = stored.test_sets.values()
    places, questions = _targets(table)
    correct: dict[tuple[str, Cell], dict[RunKey, Correct]] = {}
    for run in stored.runs:
        for target, answers in _by_target(run, places, len(table)):
            correct.setdefault((run.key.model, target), {})[run.key] = answers
    return StudyOutcomes(tuple(_blocks(correct, questions)))


def _targets(table: pa.Table) -> tuple[dict[Cell, NDArray[np.intp]], dict[Cell, pd.Index]]:
    """Return where each target's questions are, and their ids."""
    frame = table.to_pandas()
    found = {Cell(*map(str, names)): at for names, at in frame.groupby(["task", "language"]).indices.items()}
    return found, {target: pd.Index(frame["question"].to_numpy()[at]) for target, at in found.items()}


def _by_target(run: Answered, places: Mapping[Cell, NDArray[np.intp]], count: int) -> Iterator[tuple[Cell, Correct]]:
    answers = run.packed.correct(count)
    for target, at in places.items():
        if run.targets is None or target in run.targets:
            yield target, answers[at]


def _blocks(
    correct: Mapping[tuple[str, Cell], Mapping[RunKey, Correct]], questions: Mapping[Cell, pd.Index]
) -> Iterator[TargetOutcomes]:
    """Pair adapters with their baselines; a target on which a model has no adapter is left out."""
    for (model, target), runs in sorted(correct.items(), key=lambda block: block[0]):
        adapters = {key: answers for key, answers in runs.items() if key.source is not None}
        baselines = {key.seed: answers for key, answers in runs.items() if key.source is None}
        if adapters:
            yield TargetOutcomes(model, target, questions[target], adapters, baselines)
