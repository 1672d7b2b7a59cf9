"""What is known of one registered version: each target's delta with its error, its test, and its source's estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.corrected.by_cell import QUESTIONS
from analysis.corrected.cells import adjusted, assumed_cells, measured_cells
from analysis.corrected.effects import shrink
from analysis.reading.frame import Frame
from analysis.reading.observations import cell_names
from analysis.reading.observations import cells as averaged
from analysis.reading.outcomes import study_outcomes
from analysis.reading.run_record import InconsistentRunError
from analysis.reading.study import StudyStore
from analysis.recommend.components import components_of, stored_noise
from analysis.recommend.expectation import noise_of
from registry.cells import Cell
from registry.errors import Refused
from registry.tracking.columns import ADAPTER, BLOCK, TARGET
from registry.tracking.names import Tag

__all__ = ["COLUMNS", "VersionEvidence", "version_evidence"]

#: By target: ``score``, ``baseline``, ``chance`` as proportions, ``chance_p`` of the baseline against guessing, errors
#: and estimates in pp.
COLUMNS = [
    "regime", "score", "baseline", "chance", "chance_p", "delta", "se", "low", "high", "p", "q", "shrunken",
    "shrunken_sd",
]  # fmt: skip

_SAME_PP = 1e-6


class _ContradictionError(InconsistentRunError):
    """Answers give other deltas than the frame has."""


@dataclass(frozen=True)
class VersionEvidence:
    """Evidence on a version.

    Attributes
    ----------
    table
        `COLUMNS` by target, ``task/language``; NaN for what is not known.
    run_id
        The evaluation, or several by commas.
    noise
        How the errors are known.
    """

    table: pd.DataFrame
    run_id: str
    noise: str


def version_evidence(
    store: StudyStore,
    frame: Frame,
    version: str,
    *,
    family: Sequence[Cell],
    shrunken: bool = False,
    questions: int | Mapping[str, int] = QUESTIONS,
) -> VersionEvidence:
    """Return what a version's own answers show; seeds are other versions, of which only the estimate takes account.

    Parameters
    ----------
    version
        Written ``name/version``.
    family
        Targets over which the p-values are adjusted (Benjamini and Hochberg); ``q`` is NaN elsewhere.
    shrunken
        Whether the source's shrunken estimates are wanted, for which the whole study is read.
    questions
        Test items per target, or by task, to assume where the version has no outcomes of questions.

    Raises
    ------
    Refused
        If the study has no finished evaluation of the version, or its outcomes contradict what was recorded.
    """

    def read(current: Frame) -> VersionEvidence:
        return _evidence(store, current, version, family=family, shrunken=shrunken, questions=questions)

    return store.retried(frame, read)


def _evidence(
    store: StudyStore,
    frame: Frame,
    version: str,
    *,
    family: Sequence[Cell],
    shrunken: bool,
    questions: int | Mapping[str, int],
) -> VersionEvidence:
    mine = frame.observations[frame.observations["model_version"] == version]
    if mine.empty:
        raise _no_evaluation(frame, version)
    cells = averaged(mine)
    tested, noise = _tested(store, frame, mine, cells, version, questions)
    table = cells.merge(tested[[*TARGET, "se", "low", "high", "p"]], on=TARGET, how="left", validate="one_to_one")
    table = table.assign(
        chance=_of_baselines(frame, table, "chance"),
        chance_p=_of_baselines(frame, table, "chance_p"),
        shrunken=np.nan,
        shrunken_sd=np.nan,
    )
    table.index = pd.Index(cell_names(table, "target"))
    table["q"] = adjusted(table["p"], pd.Series(table.index.isin(list(map(str, family))), table.index))
    if shrunken:
        estimates = _estimates(store, frame, table, questions)
        table[["shrunken", "shrunken_sd"]] = estimates.reindex(table.index)
    return VersionEvidence(table[COLUMNS], ", ".join(sorted(set(mine["run_id"].astype(str)))), noise)


def _no_evaluation(frame: Frame, version: str) -> Refused:
    """Say why no evaluation of a version counts, and which version's does in its place."""
    problem = f"study {frame.study} has no evaluation of {version} that counts"
    tags = [] if frame.runs is None else list(frame.runs.tags.values())
    marks = {of_run.get(Tag.FINGERPRINT) for of_run in tags if of_run.get(Tag.MODEL_VERSION) == version}
    counting = frame.observations[["run_id", "model_version"]].drop_duplicates()
    for run_id, other in counting.itertuples(index=False):
        if frame.runs is not None and frame.runs.tags[run_id].get(Tag.FINGERPRINT) in marks:
            name, _, number = str(other).rpartition("/")
            return Refused(
                f"{problem}: it repeats {other}, which was evaluated first: -P name={name} -P version={number}"
            )
    return Refused(
        f"{problem}: none has finished, or another version of the same base, source and seed was evaluated later; "
        "evaluate it (again) with -e evaluate"
    )


def _tested(
    store: StudyStore,
    frame: Frame,
    mine: pd.DataFrame,
    cells: pd.DataFrame,
    version: str,
    questions: int | Mapping[str, int],
) -> tuple[pd.DataFrame, str]:
    """Test the version by its answers, or by an assumed noise where it has none."""
    stored = store.outcomes(replace(frame, observations=mine), cached=False)
    if not stored.runs:
        scored = cells[cells[["score", "baseline"]].notna().all(axis=1)]
        if scored.empty:
            return cells.assign(se=np.nan, low=np.nan, high=np.nan, p=np.nan), "not known: no baseline can be read"
        tested = assumed_cells(scored, n_questions=questions)
        return tested, str(tested["noise"].iloc[0])
    tested = measured_cells(study_outcomes(stored))
    both = cells[[*TARGET, "delta"]].merge(tested, on=TARGET, suffixes=("_recorded", ""), validate="one_to_one")
    if ((both["delta"] - both["delta_recorded"]).abs() > _SAME_PP).any():
        raise _ContradictionError(
            f"the answers of {version} give other deltas than were recorded (run {mine['run_id'].iloc[0]}): its files "
            "and its metrics are of different evaluations; restore the store and its files from one backup"
        )
    return tested, str(tested["noise"].iloc[0])


def _of_baselines(frame: Frame, table: pd.DataFrame, column: str) -> pd.Series:
    """Return a number of every target's baseline, NaN where none says it."""
    if column not in frame.baselines:
        return pd.Series(np.nan, table.index)
    known = frame.baselines[["model", "task", "language", column]]
    keys = table[["model", *TARGET]].set_axis(["model", "task", "language"], axis=1)
    return pd.Series(keys.merge(known, how="left", validate="one_to_one")[column].to_numpy(), table.index)


def _estimates(
    store: StudyStore, frame: Frame, table: pd.DataFrame, questions: int | Mapping[str, int]
) -> pd.DataFrame:
    """Return the shrunken estimates of the version's source, by target."""
    cells = averaged(frame.observations)
    kept = store.folder
    measured = stored_noise(store.outcomes(frame), cache=kept)
    noise, _ = noise_of(cells, measured, questions=questions)
    cells = cells.merge(noise.table[BLOCK], on=BLOCK, how="inner").reset_index(drop=True)
    posterior = shrink(cells, components_of(cells, noise, cache=kept), noise, means_by="regime")
    found = cells.assign(shrunken=posterior.mean, shrunken_sd=posterior.sd)
    found = found[(found[ADAPTER] == table[ADAPTER].iloc[0]).all(axis=1)]
    return found.set_index(cell_names(found, "target"))[["shrunken", "shrunken_sd"]]
