"""Which of a study's stored runs count: those that can be read, and of one fingerprint the first that is whole."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow import MlflowClient

from analysis.measures.numerals import counted
from analysis.reading.run_record import InconsistentRunError, Record
from analysis.reading.runs import StoredRuns
from registry.tracking.duplicates import (
    Conflict,
    Resolution,
    Result,
    refuse_conflicts,
    resolve,
    resolve_runs,
    result_values,
    same_results,
    shared_fingerprints,
)
from registry.tracking.names import Tag

__all__ = ["counting_runs", "readable_runs"]

_LISTED = 5  # how many runs a note spells out


def readable_runs(runs: StoredRuns) -> tuple[StoredRuns, list[str]]:
    """Return the runs that can be placed in a study, and a sentence on each kind of those that cannot."""
    faults = {run_id: fault for run_id, fault in runs.faults.items() if fault}
    if not faults:
        return runs, []
    listed = "; ".join(list(faults.values())[:_LISTED]) + ("; …" if len(faults) > _LISTED else "")
    return runs.without(faults), [f"Left out: {counted(len(faults), 'run')} not to be read as this study's ({listed})."]


def counting_runs(client: MlflowClient, study: str, runs: StoredRuns) -> tuple[StoredRuns, list[str]]:
    """Return the runs that count, and a sentence on each kind of those that do not.

    Raises
    ------
    ConflictError
        If runs of one fingerprint differ in their results.
    InconsistentRunError
        If they do only by what is kept of them on this machine.
    """
    found = _resolution(client, runs)
    if found.conflicts and not _is_in_store(client, found.conflicts[0]):
        raise InconsistentRunError(f"{found.conflicts[0]}; the store has the same results of both")
    refuse_conflicts(found.conflicts, f"study {study}")
    notes = []
    if found.duplicates:
        pairs = [f"{again} repeats {first}" for again, first in sorted(found.duplicates.items())]
        notes.append(
            f"Counted once: {counted(len(pairs), 'run')} with the fingerprint and the results of an earlier one "
            f"({_listed(pairs)})."
        )
    if found.incomplete:
        notes.append(
            f"Left out: {counted(len(found.incomplete), 'run')} without some results that another of the same "
            f"fingerprint has ({_listed(sorted(found.incomplete))})."
        )
    return runs.without({*found.duplicates, *found.incomplete}), notes


def _resolution(client: MlflowClient, runs: StoredRuns) -> Resolution:
    """Resolve the runs whose fingerprints are shared; the others need not be looked at."""
    kinds = runs.table["kind"].to_pylist()
    marks = [f"{kind} {tags.get(Tag.FINGERPRINT, '')}" for kind, tags in zip(kinds, runs.tags.values(), strict=True)]
    shared = shared_fingerprints(marks)
    if not shared:
        return Resolution()
    repeated = [run_id for run_id, mark in zip(runs.tags, marks, strict=True) if mark in shared]
    among = runs.only(repeated)
    rows = zip(among.records(), among.table["kind"].to_pylist(), among.table["ended"].to_pylist(), strict=True)
    results = [_result(record, kind, ended) for record, kind, ended in rows]
    return resolve(
        results,
        lambda first, second: same_results(client, client.get_run(first.run_id), client.get_run(second.run_id)),
    )


def _is_in_store(client: MlflowClient, conflict: Conflict) -> bool:
    """Whether a conflict is one of the runs themselves, and not of what is kept of them."""
    pair = [client.get_run(run_id) for run_id in (conflict.first, conflict.second)]
    return bool(resolve_runs(client, pair).conflicts)


def _result(record: Record, kind: str, ended: int) -> Result:
    return Result(record.run_id, kind, record.started, ended, record.tags, result_values(record.metrics))


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_LISTED]) + (", …" if len(texts) > _LISTED else "")
