"""One headline accuracy for each task of a study, whichever each of its runs recorded as its score.

A study may come to take another accuracy for a task's score. The outcomes of every run give both, ``acc`` and
``acc_norm``, so what older runs called the score is computed anew; no mean mixes the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from analysis.measures.numerals import counted
from analysis.reading.observations import DELTA_DECIMALS
from analysis.reading.run_record import Record
from analysis.reading.runs import StoredRuns
from registry.cells import Cell
from registry.errors import Refused
from registry.tracking.names import Artifact, Tag, headlines_of
from registry.tracking.outcomes import CHOSEN

__all__ = ["MixedHeadlinesError", "one_headline"]


ReadAccuracies = Callable[[str, str], Mapping[Cell, float]]


class MixedHeadlinesError(Refused):
    """Evaluations of a study took different accuracies for a task's score, and not all have both."""


def one_headline(
    observations: pd.DataFrame,
    evaluations: StoredRuns,
    baselines: Mapping[str, Record],
    study: str,
    read: ReadAccuracies,
) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Return observations whose scores and deltas are of one accuracy for each task, that of the newest evaluation.

    Parameters
    ----------
    baselines
        By run, those that evaluations were measured against, as far as they can be read.
    read
        Returns an accuracy (the second argument) of a run on each target from its outcomes.

    Returns
    -------
    observations, headlines, notes
        ``headlines`` is task → accuracy, of the tasks for which a run says it; a note for each task with two.

    Raises
    ------
    MixedHeadlinesError
        If an accuracy that is needed is neither recorded nor among the outcomes.
    """
    tags = evaluations.tags
    started = dict(zip(evaluations.table["run_id"].to_pylist(), evaluations.table["started"].to_pylist(), strict=True))
    own = _own(observations, tags)
    headlines: dict[str, str] = {}
    notes: list[str] = []
    result = observations.assign(
        **{accuracy: observations[accuracy].fillna(observations["score"].where(own == accuracy)) for accuracy in CHOSEN}
    )
    for task, names in own[own.notna()].groupby(observations["target_task"]):
        runs = observations.loc[names.index, "run_id"]
        headlines[str(task)] = chosen = names.loc[max(names.index, key=lambda row: (started[runs[row]], runs[row]))]
        other = names.index[names != chosen]
        if len(other):
            result = _computed(result, other, chosen, tags, baselines, f"study {study!r}, task {task}", read)
            older = counted(runs[other].nunique(), "evaluation run")
            notes.append(
                f"The score of {task} is {chosen}, as its newest evaluation has it. {older} recorded another accuracy "
                f"as the score; what is shown of them is computed anew from the {chosen} that they and their "
                "baselines recorded."
            )
    return result, headlines, notes


def _own(observations: pd.DataFrame, tags: Mapping[str, Mapping[str, str]]) -> pd.Series:
    """Return which accuracy each score is, as its run says; None where it says nothing."""
    said = {run: headlines_of(tags[run]) for run in observations["run_id"].unique()}
    pairs = zip(observations["run_id"], observations["target_task"], strict=True)
    return pd.Series([said[run].get(task) for run, task in pairs], observations.index, dtype=object)


def _computed(
    observations: pd.DataFrame,
    rows: pd.Index,
    headline: str,
    tags: Mapping[str, Mapping[str, str]],
    baselines: Mapping[str, Record],
    where: str,
    read: ReadAccuracies,
) -> pd.DataFrame:
    """Take another accuracy for the score of some rows."""
    targets: dict[str, dict[tuple[str, str], float]] = {
        run: {(cell.task, cell.language): value for cell, value in record.by_target(headline).items()}
        for run, record in baselines.items()
    }
    found = observations.loc[rows].copy()
    for run in found.loc[found[headline].isna(), "run_id"].unique():
        shares = {(cell.task, cell.language): share for cell, share in read(run, headline).items()}
        of_run = found.index[found["run_id"] == run]
        cells = zip(found.loc[of_run, "target_task"], found.loc[of_run, "target_language"], strict=True)
        found.loc[of_run, headline] = [shares.get(cell, np.nan) for cell in cells]
    keys = zip(found["run_id"], found["target_task"], found["target_language"], strict=True)
    baseline = np.array(
        [targets.get(tags[run].get(Tag.BASELINE_RUN, ""), {}).get((task, lang), np.nan) for run, task, lang in keys]
    )
    score = found[headline].to_numpy(dtype=np.float64)
    if lacking := sorted(set(found.loc[np.isnan(score) | np.isnan(baseline), "run_id"])):
        raise MixedHeadlinesError(
            f"{where}: evaluations took different accuracies for the score, and no mean may mix them; {lacking[0]} or "
            f"its baseline has no {headline}: put its {Artifact.SCORING} back from a backup"
        )
    delta = np.round(100 * (score - baseline), DELTA_DECIMALS)
    return observations.assign(
        score=observations["score"].where(~observations.index.isin(rows), pd.Series(score, rows)),
        baseline=observations["baseline"].where(~observations.index.isin(rows), pd.Series(baseline, rows)),
        delta=observations["delta"].where(~observations.index.isin(rows), pd.Series(delta, rows)),
        **{headline: observations[headline].where(~observations.index.isin(rows), pd.Series(score, rows))},
    )
