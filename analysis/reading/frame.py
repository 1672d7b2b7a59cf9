"""Reading a study from the tracking server; nothing else in `analysis` does."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from analysis.measures.numerals import quantity
from analysis.reading.cache import retried
from analysis.reading.imported import read_import
from analysis.reading.observations import cells, copy_notes, coverage_notes, cut_notes, newest
from analysis.reading.run_record import InconsistentRunError, RunRecord
from analysis.reading.runs import StoredRuns, counting_runs, read_runs, readable_runs
from analysis.reading.tables import MixedHeadlinesError, baselines, observed, one_headline
from registry.errors import Refused
from registry.tracking.names import Kind, Tag
from registry.tracking.outcomes import recorded_accuracies
from registry.tracking.store import shown_uri

__all__ = [
    "EmptyStudyError", "Frame", "InconsistentRunError", "MixedHeadlinesError", "MixedPromptsError",
    "MixedStudyError", "cells", "load",
]  # fmt: skip

_log = logging.getLogger(__name__)

_PAGE = 1000


class EmptyStudyError(Refused):
    """The store has no finished evaluation of the study."""


class MixedStudyError(Refused):
    """The study holds evaluations of its own and imported ones."""


class MixedPromptsError(Refused):
    """Adapters were asked in another way than the base that they are measured against."""


@dataclass(frozen=True)
class Frame:
    """A study as recorded.

    Attributes
    ----------
    study, store
        Name of the study and address of the store it was read from, without any password.
    observations
        One row per (model, source, target, seed); columns in `registry.tracking.columns.OBSERVATION_COLUMNS`.
    baselines
        One row per (model, task, language): ``score`` and ``chance`` (proportions), ``below_chance``, and where it
        was tested, ``chance_p`` and ``chance_q``, adjusted over all rows. Unless it is an import's, ``indistinct``
        besides: the share of questions with options that are the same tokens to the model.
    notes
        Sentences on what a reader must know about the data: superseded runs, gaps, mixed protocols, unfinished runs.
    seed_averaged
        Whether the observations are an import's means over seeds: they have the columns `AVERAGED_COLUMNS` besides,
        and ``seed`` tells nothing.
    runs
        The evaluations and baselines of the study; None of an import.
    headlines
        Task → the accuracy that its score is, as far as its runs say it.
    left_out
        Those of the notes that say which runs do not count.
    """

    study: str
    store: str
    observations: pd.DataFrame
    baselines: pd.DataFrame
    notes: tuple[str, ...]
    seed_averaged: bool = False
    runs: StoredRuns | None = None
    headlines: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def load(client: MlflowClient, study: str, *, cache: Path | None = None) -> Frame:
    """Read every finished evaluation and baseline of a study, or the newest import it was made of.

    Parameters
    ----------
    cache
        Folder that caches what was read, e.g. `analysis.reading.cache.cache_root()`; the frame does not depend on it.

    Raises
    ------
    EmptyStudyError
        If the study has no experiment in the store, or neither a finished evaluation nor an import.
    MixedStudyError
        If it has both, which no average may mix.
    MixedHeadlinesError
        If evaluations took different accuracies for a task's score, and some did not record the one that is needed.
    MixedPromptsError
        If an evaluation that counts and its baseline had their questions put behind different chat headers.
    InconsistentRunError
        If a run's delta is not its score minus its baseline's to 1e-6 pp.
    ConflictError
        If runs that share a fingerprint differ in their results.
    """
    return retried(lambda: _load(client, study, cache), client, study, cache=cache)


def _load(client: MlflowClient, study: str, cache: Path | None) -> Frame:
    experiment = _experiment(client, study)
    runs, left_out = readable_runs(read_runs(client, str(experiment.experiment_id), cache=cache))
    counting, repetitions = counting_runs(client, study, runs)
    left_out += repetitions
    evaluations = counting.of(Kind.EVALUATE)
    imports = _search(client, experiment, Kind.IMPORT, "attributes.status = 'FINISHED'")
    if imports:
        return _imported(client, study, imports, len(evaluations))
    unfinished = _search(client, experiment, Kind.EVALUATE, "attributes.status != 'FINISHED'")
    if not len(evaluations):
        raise EmptyStudyError(_nothing(client, study, f"no finished evaluation{_statuses(unfinished)}", left_out))
    measured, unchecked = _measured_against(client, runs)
    recorded = observed(evaluations, {run_id: record.by_target("score") for run_id, record in measured.items()})
    if recorded.empty:
        raise EmptyStudyError(_nothing(client, study, "finished evaluations, but none has a delta"))
    observations, superseded = newest(recorded)
    _require_same_prompts(study, evaluations, observations, measured)
    observations, headlines, other = one_headline(
        observations, evaluations, measured, study, partial(recorded_accuracies, client)
    )
    for note in other:
        _log.warning("%s", note)
    used = {evaluations.tags[run].get(Tag.BASELINE_RUN, "") for run in observations["run_id"].unique()}
    table, baseline_notes = baselines(counting.of(Kind.BASELINE), headlines, used)
    left_out += superseded
    copies = copy_notes(evaluations.tags.values())
    cut = cut_notes(counting.of(Kind.BASELINE).records())
    notes = [*copies, *cut, *left_out, *other, *coverage_notes(observations), *baseline_notes, *unchecked]
    if unfinished:
        notes.append(f"Unfinished evaluations do not count: {_statuses(unfinished).strip(' ()')}.")
    return Frame(
        study,
        shown_uri(client.tracking_uri),
        observations,
        table,
        tuple(notes),
        runs=runs,
        headlines=headlines,
        left_out=tuple(left_out),
    )


# --- imports


def _imported(client: MlflowClient, study: str, imports: list[RunRecord], evaluations: int) -> Frame:
    """Return an imported study's frame."""
    if evaluations:
        ids = " ".join(record.run_id for record in imports)
        raise MixedStudyError(
            f"study {study!r} holds {quantity(evaluations, 'evaluation')} run here and an import, measured by "
            "different programs: no mean may mix them. Import under another name, and take what was imported into "
            f"this one out of the count: for run in {ids}; do mlflow runs delete --run-id $run; done "
            "(mlflow runs restore brings it back)"
        )
    found = read_import(client, imports)
    notes = (*found.notes, *coverage_notes(found.observations))
    store = shown_uri(client.tracking_uri)
    frame = Frame(study, store, found.observations, found.baselines, notes, found.seed_averaged)
    return replace(frame, headlines=found.headlines)


# --- finding runs


def _experiment(client: MlflowClient, study: str) -> Experiment:
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        raise EmptyStudyError(_nothing(client, study, "no experiment of that name"))
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise EmptyStudyError(
            _nothing(
                client,
                study,
                f"its experiment deleted; `mlflow experiments restore -x {experiment.experiment_id}` brings it back",
            )
        )
    return experiment


def _search(client: MlflowClient, experiment: Experiment, kind: Kind, condition: str) -> list[RunRecord]:
    """Return every run of a kind, page by page."""
    found: list[RunRecord] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id],
            f"tags.{Tag.KIND} = '{kind}' and {condition}",
            max_results=_PAGE,
            page_token=token,
        )
        found += map(_record, page)
        token = page.token
        if not token:
            return found


def _record(run: Run) -> RunRecord:
    info, data = run.info, run.data
    return RunRecord(info.run_id, info.run_name, info.status, info.start_time, data.tags, data.metrics)


def _nothing(client: MlflowClient, study: str, found: str, notes: Sequence[str] = ()) -> str:
    """Word the error for a study without results: where it was looked for, what is there, how to fill it."""
    present = sorted(experiment.name for experiment in client.search_experiments(max_results=_PAGE))
    near = difflib.get_close_matches(study, [name for name in present if name != study], n=3)
    lines = [f"nothing to analyse for study {study!r}: the store {shown_uri(client.tracking_uri)} has {found}."]
    if near:
        lines.append(f"Did you mean {' or '.join(map(repr, near))}?")
    elif study not in present:
        lines.append("No experiment has a similar name.")
    lines += notes
    lines.append(f"Experiments in this store: {', '.join(present) or 'none'}.")
    lines.append("To run a study: mlflow run . -e study --env-manager local -P study=<its name or file>")
    return "\n".join(lines)


def _statuses(records: list[RunRecord]) -> str:
    """Count runs by status, such as `` (FAILED 2, RUNNING 1)``; empty for no runs."""
    counts = Counter(record.status for record in records)
    return f" ({', '.join(f'{status} {counts[status]}' for status in sorted(counts))})" if counts else ""


# --- baselines


def _measured_against(client: MlflowClient, runs: StoredRuns) -> tuple[dict[str, RunRecord], list[str]]:
    """Return each needed baseline run, and a note on baselines that cannot be read."""
    records = {record.run_id: record for record in runs.of(Kind.BASELINE).records()}
    needed = [tags.get(Tag.BASELINE_RUN, "") for tags in runs.of(Kind.EVALUATE).tags.values()]
    for run_id in sorted(set(needed) - set(records) - {""}):
        # A baseline may have been recorded, and reused, under another study's experiment.
        if (record := _finished(client, run_id)) is not None:
            records[run_id] = record
    lost = sum(run_id not in records for run_id in needed)
    note = f"The baseline run of {quantity(lost, 'evaluation run')} cannot be read: these deltas are not checked."
    return records, [note] if lost else []


def _require_same_prompts(
    study: str, evaluations: StoredRuns, observations: pd.DataFrame, baselines: Mapping[str, RunRecord]
) -> None:
    """Refuse deltas between questions that were put in different ways; older runs do not say how theirs were."""
    counted_runs, wrong = set(observations["run_id"]), []
    for run_id, tags in evaluations.tags.items():
        baseline = baselines.get(tags.get(Tag.BASELINE_RUN, ""))
        own, theirs = tags.get(Tag.CHAT_HEADER), baseline.tags.get(Tag.CHAT_HEADER) if baseline else None
        if run_id in counted_runs and None not in (own, theirs) and own != theirs:
            wrong.append(run_id)
    if wrong:
        raise MixedPromptsError(
            f"{quantity(len(wrong), 'evaluation')} of study {study!r} used another chat header than the baseline "
            f"did (run {wrong[0]}{' and others' if wrong[1:] else ''}): these deltas compare two prompts. "
            "Run the study again under another name: mlflow run . -e study --env-manager local -P study=<its file>"
        )


def _finished(client: MlflowClient, run_id: str) -> RunRecord | None:
    """Return a run by its id, or None if it does not exist any more or is not finished."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return None
    usable = run.info.status == "FINISHED" and run.info.lifecycle_stage == LifecycleStage.ACTIVE
    return _record(run) if usable else None
