"""Evaluations of registered adapters that can be believed: of the version they name, in its study, once each.

Anybody may write runs into a shared store. One counts here only if it stands in the experiment of the version's own
study, or in that of a study that was named, says of base, source and seed what its version says, and gives a number
for every target it scored. What does not is left out with a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from registry.cells import Cell, regime_of
from registry.tracking import metric_names
from registry.tracking.duplicates import Conflict, resolve_runs
from registry.tracking.names import Kind, Tag
from registry.tracking.outcomes import recorded_scores
from registry.tracking.store import all_runs, pages, quoted, studies

__all__ = ["Evaluation", "Evaluations", "evaluations", "evaluations_of"]

#: Tags that an evaluation and the version it scored have in common.
_SHARED = (Tag.BASE_MODEL, Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE, Tag.SEED)
_FINISHED = f"tags.{Tag.KIND} = '{Kind.EVALUATE}' AND attributes.status = 'FINISHED'"
_LISTED = 5
_ENDLESS = 1e300


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation of an adapter.

    Attributes
    ----------
    version
        Written ``name/number``; it may have been deleted since.
    scores, deltas
        By target: a proportion, and percentage points against the untouched base.
    """

    run: Run
    version: str
    source: Cell
    scores: Mapping[Cell, float]
    deltas: Mapping[Cell, float]


@dataclass(frozen=True)
class Evaluations:
    """What was found, the oldest first, and what was not taken.

    Attributes
    ----------
    conflicts
        Runs of one fingerprint that differ in their results; the first of them is among ``found``.
    notes
        Which runs were left out, and why.
    """

    found: tuple[Evaluation, ...]
    conflicts: tuple[Conflict, ...]
    notes: tuple[str, ...]


def evaluations(client: MlflowClient, *, study: str = "", model: str = "") -> Evaluations:
    """Return the evaluations of adapters, of one study's or of one base's where these are named.

    Raises
    ------
    Refused
        If there is no such study.
    """
    of_study = studies(client, study)
    condition = f" AND tags.{Tag.BASE_MODEL} = {quoted(model)}" if model else ""
    runs = all_runs(client, list(of_study), _FINISHED + condition)
    # Those that name no version scored full fine-tunes.
    runs = [run for run in runs if Tag.MODEL_VERSION in run.data.tags]
    every = pages(lambda token: client.search_model_versions("", max_results=1000, page_token=token))
    versions = {f"{version.name}/{version.version}": version for version in every} if runs else {}
    return _believed(client, runs, versions, of_study, named=bool(study))


def evaluations_of(client: MlflowClient, version: ModelVersion, *, study: str = "") -> Evaluations:
    """Return the evaluations of one version, by default in its own study."""
    of_study = studies(client, study) if study else _own(client, version)
    if not of_study:
        return Evaluations((), (), ())
    name = f"{version.name}/{version.version}"
    runs = all_runs(client, list(of_study), f"{_FINISHED} AND tags.{Tag.MODEL_VERSION} = {quoted(name)}")
    believed = _believed(client, runs, {name: version}, of_study, named=bool(study))
    marks = {one.run.data.tags.get(Tag.FINGERPRINT, "") for one in believed.found} - {""}
    # A twin may name another version.
    twins = [
        run
        for mark in sorted(marks)
        for run in all_runs(client, list(of_study), f"{_FINISHED} AND tags.{Tag.FINGERPRINT} = {quoted(mark)}")
    ]
    return Evaluations(believed.found, resolve_runs(client, twins).conflicts, believed.notes)


def _own(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    """Return id and name of the experiment of a version's study; empty where it is gone."""
    experiment = client.get_experiment_by_name(version.tags[Tag.STUDY]) if version.tags.get(Tag.STUDY) else None
    return {} if experiment is None else {experiment.experiment_id: experiment.name}


def _believed(
    client: MlflowClient,
    runs: Sequence[Run],
    versions: Mapping[str, ModelVersion],
    of_study: Mapping[str, str],
    *,
    named: bool,
) -> Evaluations:
    """Check runs one by one, then resolve those of one fingerprint experiment by experiment."""
    there, faults = [], dict[str, str]()
    for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)):
        version = versions.get(run.data.tags[Tag.MODEL_VERSION])
        try:
            _check_place(run, version, of_study[run.info.experiment_id], named=named)
            there.append(_read(run))
        except ValueError as error:
            faults[run.info.run_id] = str(error)
    conflicts: list[Conflict] = []
    left = set[str]()
    for experiment in of_study:
        found = resolve_runs(client, [one.run for one in there if one.run.info.experiment_id == experiment])
        conflicts += found.conflicts
        left |= {*found.duplicates, *found.incomplete, *(conflict.second for conflict in found.conflicts)}
    counting = tuple(one for one in there if one.run.info.run_id not in left)
    return Evaluations(counting, tuple(conflicts), tuple(_notes(faults)))


def _check_place(run: Run, version: ModelVersion | None, study: str, *, named: bool) -> None:
    """Raise unless a run stands where results of its version may stand, and says what the version says."""
    tags = run.data.tags
    lacking = [tag for tag in _SHARED if not tags.get(tag)]
    if lacking:
        raise ValueError(f"no tag {', '.join(lacking)}")
    own = (tags if version is None else version.tags).get(Tag.STUDY, "")
    if not named and own != study:
        raise ValueError(f"in experiment {study!r}, its version is of study {own!r}")
    if version is None:
        return
    for tag in _SHARED:
        if version.tags.get(tag) != tags[tag]:
            raise ValueError(f"{tag} {tags[tag]!r}, its version's is {version.tags.get(tag)!r}")
    model_id = (version.source or "").removeprefix("models:/")
    if tags.get(Tag.MODEL_ID, model_id) != model_id:
        raise ValueError(f"{Tag.MODEL_ID} {tags[Tag.MODEL_ID]!r}, its version's is {model_id!r}")


def _read(run: Run) -> Evaluation:
    """Read an evaluation; raise ValueError where it lacks a number."""
    tags, metrics = run.data.tags, run.data.metrics
    source, scores = Cell(tags[Tag.SOURCE_TASK], tags[Tag.SOURCE_LANGUAGE]), recorded_scores(run)
    deltas = {}
    for target, score in scores.items():
        metric = metric_names.delta(regime_of(source, target), target)
        deltas[target] = metrics.get(metric, math.nan)
        # Written as "not within" so that NaN fails too; databases keep infinity as their largest number.
        if not (abs(score) < _ENDLESS and abs(deltas[target]) < _ENDLESS):
            raise ValueError(f"score {score:.6g} and {metric} {deltas[target]:.6g}")
    if not scores:
        raise ValueError("no score")
    return Evaluation(run, tags[Tag.MODEL_VERSION], source, scores, deltas)


def _notes(faults: Mapping[str, str]) -> Iterable[str]:
    if faults:
        listed = "; ".join(f"{run_id}: {fault}" for run_id, fault in list(faults.items())[:_LISTED])
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        yield f"evaluation runs left out: {listed}{more}"
