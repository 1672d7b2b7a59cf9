"""From the finished runs of a study to one row per evaluation and target, and one per baseline and target.

A study may change which accuracy is the score of a task. The outcomes of every run give both, ``acc`` and ``acc_norm``,
so the scores of older runs are computed again from the accuracy of the newest; no mean mixes the two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pandas as pd

from analysis.measures.numerals import quantity
from analysis.reading.observations import DELTA_DECIMALS
from analysis.reading.run_record import DELTA_TOLERANCE_PP, RunRecord, observations_of
from analysis.reading.runs import StoredRuns
from registry.cells import Cell, parse_cells
from registry.errors import Refused
from registry.tracking.chance import compared_with_chance
from registry.tracking.columns import BASELINE_COLUMNS, INDISTINCT
from registry.tracking.duplicates import by_age
from registry.tracking.names import Artifact, Tag, headlines_of
from registry.tracking.outcomes import CHOSEN

__all__ = ["MixedHeadlinesError", "baselines", "observed", "one_headline"]

#: What a column of the observations is called among a run's tags.
_TAGS = {
    "model": Tag.BASE_MODEL,
    "model_family": Tag.MODEL_FAMILY,
    "model_size_b": Tag.MODEL_SIZE_B,
    "source_task": Tag.SOURCE_TASK,
    "source_language": Tag.SOURCE_LANGUAGE,
    "seed": Tag.SEED,
    "model_version": Tag.MODEL_VERSION,
    "protocol": Tag.PROTOCOL,
    "fingerprint": Tag.FINGERPRINT,
    "baseline_run": Tag.BASELINE_RUN,
}


def observed(evaluations: StoredRuns, scores: Mapping[str, Mapping[Cell, float]]) -> pd.DataFrame:
    """Return one row per evaluation and target, with its baseline's score where that can be read.

    Parameters
    ----------
    scores
        By baseline run, its scores by target.

    Returns
    -------
    DataFrame
        `registry.tracking.columns.OBSERVATION_COLUMNS`, with ``started`` and ``fingerprint`` for telling runs apart.

    Raises
    ------
    InconsistentRunError
        If a delta is not its score minus its baseline's.
    """
    targets = evaluations.targets().drop(columns=["chance", "chance_p"])
    targets = targets.rename(columns={"task": "target_task", "language": "target_language"})
    found = targets.merge(_runs(evaluations), on="run_id", how="left", validate="many_to_one")
    found = found.merge(_references(scores), on=["baseline_run", "target_task", "target_language"], how="left")
    readable = found["baseline_run"].isin(list(scores))
    _check(evaluations, found[readable], scores)
    return found.drop(columns="baseline_run")


def _runs(evaluations: StoredRuns) -> pd.DataFrame:
    """Return one row per run: what its tags say."""
    tags = evaluations.tags
    columns = {name: [of_run.get(tag, "") for of_run in tags.values()] for name, tag in _TAGS.items()}
    table = pd.DataFrame({"run_id": list(tags), "started": evaluations.table["started"].to_pylist(), **columns})
    # Seeds were checked to be numbers when the run was read; one may be written "17.0".
    return table.assign(
        model_size_b=table["model_size_b"].astype(float), seed=table["seed"].astype(float).astype(np.int64)
    )


def _references(scores: Mapping[str, Mapping[Cell, float]]) -> pd.DataFrame:
    rows = [(run, cell.task, cell.language, score) for run, found in scores.items() for cell, score in found.items()]
    table = pd.DataFrame(rows, columns=["baseline_run", "target_task", "target_language", "baseline"])
    return table.astype({"baseline_run": str, "target_task": str, "target_language": str, "baseline": float})


def _check(evaluations: StoredRuns, found: pd.DataFrame, scores: Mapping[str, Mapping[Cell, float]]) -> None:
    """Raise for the first run that has a delta other than score minus baseline."""
    expected = 100.0 * (found["score"] - found["baseline"])
    # Written as "not within" so that NaN, of a missing score or baseline, is wrong too.
    wrong = ~((found["delta"] - expected).abs() <= DELTA_TOLERANCE_PP)
    for run_id, run in found.loc[wrong, ["run_id", "baseline_run"]].drop_duplicates().itertuples(index=False):
        observations_of(evaluations.record(run_id), scores[run])


def baselines(
    runs: StoredRuns, headlines: Mapping[str, str], measured: Collection[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Return one baseline of each (model, target), tested against chance, and a note where there were several.

    Parameters
    ----------
    headlines
        Task → the accuracy that is the score, of the tasks for which it is known.
    measured
        Baseline runs that evaluations were measured against. They go before others, and the newest before older ones.

    Returns
    -------
    table, notes
        Columns `BASELINE_COLUMNS`, `TEST_COLUMNS` and `INDISTINCT`, the last NaN where nobody counted. What was
        recorded without a p-value is called below chance where it lies below at all, as it was when it was recorded.
    """
    rows = []
    for record in sorted(runs.records(), key=lambda record: record.run_id in measured):
        model, flagged = record.tag(Tag.BASE_MODEL), record.tags.get(Tag.BELOW_CHANCE, "").split()
        chance, p, own = record.by_target("chance"), record.by_target("chance_p"), headlines_of(record.tags)
        alike = parse_cells(record.tags.get(Tag.INDISTINCT, ""))
        none = 0.0 if Tag.CHAT_HEADER in record.tags else np.nan  # older runs did not count them
        for cell, score in record.by_target("score").items():
            level, value = chance.get(cell, np.nan), p.get(cell, np.nan)
            wanted = headlines.get(cell.task)
            if wanted != own.get(cell.task, wanted):
                score, value = record.by_target(str(wanted)).get(cell, np.nan), np.nan
            low = str(cell) in flagged or score < level
            rows.append((model, cell.task, cell.language, score, level, value, low, alike.get(cell, none)))
    columns = [*BASELINE_COLUMNS[:5], "chance_p", "low", INDISTINCT]
    table = pd.DataFrame(rows, columns=columns).astype({"low": bool})
    key = ["model", "task", "language"]
    repeated = sorted(table.loc[table.duplicated(key), "model"].unique())
    note = f"Several baseline runs measured the same targets of {', '.join(repeated)}: the newest are shown."
    table = table.drop_duplicates(key, keep="last").sort_values(key).reset_index(drop=True)
    tested = compared_with_chance(table)
    tested["below_chance"] = tested["below_chance"].where(tested["chance_p"].notna(), table["low"]).astype(bool)
    return tested.assign(**{INDISTINCT: table[INDISTINCT]}), [note] if repeated else []


# --- one headline accuracy for each task of a study


ReadAccuracies = Callable[[str, str], Mapping[Cell, float]]


class MixedHeadlinesError(Refused):
    """Evaluations of a study took different accuracies for a task's score, and not all have both."""


def one_headline(
    observations: pd.DataFrame,
    evaluations: StoredRuns,
    baselines: Mapping[str, RunRecord],
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
    started = zip(evaluations.table["run_id"].to_pylist(), evaluations.table["started"].to_pylist(), strict=True)
    age = {run_id: place for place, run_id in enumerate(by_age(dict(started)))}
    own = _own(observations, tags)
    headlines: dict[str, str] = {}
    notes: list[str] = []
    result = observations.assign(
        **{accuracy: observations[accuracy].fillna(observations["score"].where(own == accuracy)) for accuracy in CHOSEN}
    )
    for task, names in own[own.notna()].groupby(observations["target_task"]):
        runs = observations.loc[names.index, "run_id"]
        headlines[str(task)] = chosen = names.loc[max(names.index, key=lambda row: age[runs[row]])]
        other = names.index[names != chosen]
        if len(other):
            result = _computed(result, other, chosen, tags, baselines, f"study {study!r}, task {task}", read)
            older = quantity(runs[other].nunique(), "evaluation run")
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
    baselines: Mapping[str, RunRecord],
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
