"""The finished evaluations and baselines of an experiment, as columns: kept on this machine, brought up to date."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from mlflow import MlflowClient

from analysis.measures.numerals import quantity
from analysis.reading.cache import CachedTable, cache_folder
from analysis.reading.over_api import changes_over_api
from analysis.reading.over_sql import SchemaError, changes_over_sql
from analysis.reading.run_record import (
    InconsistentRunError,
    KnownRun,
    RunRecord,
    RunState,
    StoreChanges,
    observations_of,
)
from registry.cells import Cell, Regime
from registry.tracking import metric_names
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
from registry.tracking.names import Kind, Tag
from registry.tracking.store import is_database

__all__ = ["StoredRuns", "counting_runs", "read_runs", "readable_runs"]

_log = logging.getLogger(__name__)

#: Raise it when a column comes to mean something else, or when runs that were refused are accepted.
_VERSION = "4"

_NUMBERS = ("score", "acc", "acc_norm", "chance", "chance_p", "delta")

#: One row per run; a list holds one value per target, NaN where the run has no such metric.
_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("started", pa.int64()),
        ("ended", pa.int64()),
        ("state", pa.string()),
        ("artifacts", pa.string()),
        ("tags", pa.string()),
        ("fault", pa.string()),
        ("task", pa.list_(pa.string())),
        ("language", pa.list_(pa.string())),
        ("regime", pa.list_(pa.string())),
        *((number, pa.list_(pa.float64())) for number in _NUMBERS),
    ]
)


@dataclass(frozen=True)
class StoredRuns:
    """Finished evaluations and baselines of an experiment, the oldest first.

    Attributes
    ----------
    table
        One row per run: ``run_id``, ``name``, ``kind``, ``started`` (milliseconds since the epoch), ``artifacts``
        (address), ``tags`` (JSON), ``fault`` (why it cannot be read; empty for a run that can), and lists over its
        targets: ``task``, ``language``, ``regime``, ``score``, ``acc``, ``acc_norm``, ``chance`` (proportions),
        ``chance_p`` (p-values) and ``delta`` (pp).
    """

    table: pa.Table

    @cached_property
    def tags(self) -> dict[str, dict[str, str]]:
        """Tags by run."""
        texts = zip(self.table["run_id"].to_pylist(), self.table["tags"].to_pylist(), strict=True)
        return {run_id: json.loads(text) for run_id, text in texts}

    @cached_property
    def folders(self) -> dict[str, str]:
        """Where the artifacts of each run are."""
        return dict(zip(self.table["run_id"].to_pylist(), self.table["artifacts"].to_pylist(), strict=True))

    @cached_property
    def faults(self) -> dict[str, str]:
        """Why a run cannot be read, by run; empty for one that can."""
        return dict(zip(self.table["run_id"].to_pylist(), self.table["fault"].to_pylist(), strict=True))

    def only(self, run_ids: Collection[str]) -> StoredRuns:
        """Return some of the runs."""
        return StoredRuns(self.table.filter(pc.is_in(self.table["run_id"], pa.array(sorted(run_ids), pa.string()))))

    def without(self, run_ids: Collection[str]) -> StoredRuns:
        """Return the others."""
        return self.only(set(self.tags) - set(run_ids))

    def of(self, kind: Kind) -> StoredRuns:
        """Return the runs of a kind."""
        return StoredRuns(self.table.filter(pc.equal(self.table["kind"], str(kind))))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def records(self) -> list[RunRecord]:
        """Return the runs one by one, with the metrics kept of them."""
        return [self._record(row) for row in self.table.to_pylist()]

    def record(self, run_id: str) -> RunRecord:
        """Return one run."""
        (found,) = StoredRuns(self.table.filter(pc.equal(self.table["run_id"], run_id))).records()
        return found

    def targets(self) -> pd.DataFrame:
        """Return one row per run and target: ``run_id``, ``task``, ``language``, ``regime`` and the numbers."""
        lists = self.table.select(["task", "language", "regime", *_NUMBERS]).combine_chunks()
        columns = {name: lists[name].combine_chunks().flatten() for name in lists.column_names}
        counts = pc.list_value_length(self.table["task"]).to_numpy()
        run_ids = self.table["run_id"].to_pandas().repeat(counts).reset_index(drop=True)
        return pd.concat([run_ids, pa.table(columns).to_pandas()], axis=1)

    @staticmethod
    def _record(row: Mapping[str, Any]) -> RunRecord:
        metrics: dict[str, float] = {}
        for place, (task, language, regime) in enumerate(zip(row["task"], row["language"], row["regime"], strict=True)):
            target = Cell(task, language)
            spelled = {quantity: metric_names.on_target(quantity, target) for quantity in _NUMBERS}
            if regime:
                spelled["delta"] = metric_names.delta(Regime(regime), target)
            metrics |= {spelled[q]: row[q][place] for q in _NUMBERS if not math.isnan(row[q][place])}
        return RunRecord(row["run_id"], row["name"], "FINISHED", row["started"], json.loads(row["tags"]), metrics)


def read_runs(client: MlflowClient, experiment_id: str, *, cache: Path | None = None) -> StoredRuns:
    """Read the finished evaluations and baselines of an experiment.

    Parameters
    ----------
    cache
        Root of the folders that keep what was read; None reads everything and keeps nothing.

    A run that lacks a tag, or whose tags and metrics contradict each other, is there with its ``fault``.
    """
    kept = None
    if cache is not None:
        folder = cache_folder(cache, client.tracking_uri, experiment_id)
        kept = CachedTable(folder / "runs.parquet", _SCHEMA, _VERSION)
    table = _SCHEMA.empty_table() if kept is None else kept.read()
    changes = _changes(client, experiment_id, _known(table))
    updated = _updated(table, changes)
    if kept is not None and changes:
        kept.write(updated)
    return StoredRuns(updated)


def _changes(client: MlflowClient, experiment_id: str, known: Mapping[str, KnownRun]) -> StoreChanges:
    """Ask a database itself where the store is one, else the server."""
    if is_database(client.tracking_uri):
        try:
            return changes_over_sql(client.tracking_uri, experiment_id, known)
        except SchemaError as error:
            _log.warning("%s; the store is read through MLflow's client, which takes longer", error)
    return changes_over_api(client, experiment_id, known)


def _known(table: pa.Table) -> dict[str, KnownRun]:
    columns = [table[name].to_pylist() for name in ("run_id", "kind", "ended", "state")]
    return {run_id: KnownRun(Kind(kind), *rest) for run_id, kind, *rest in zip(*columns, strict=True)}


def _updated(table: pa.Table, changes: StoreChanges) -> pa.Table:
    """Return the table without the runs that are gone or read anew, with those read, the oldest run first."""
    if not changes:
        return table
    read = {stated.record.run_id for stated in changes.read}
    old = [run_id not in read and run_id not in changes.gone for run_id in table["run_id"].to_pylist()]
    kept = table.filter(pa.array(old, pa.bool_()))
    new = pa.Table.from_pylist([_row(stated) for stated in changes.read], _SCHEMA)
    # Rows are as they came from the server or from the file; only with one order are both the same table.
    return pa.concat_tables([kept, new]).sort_by([("started", "ascending"), ("run_id", "ascending")]).combine_chunks()


def _row(stated: RunState) -> dict[str, Any]:
    record, fault = stated.record, ""
    try:
        targets = _evaluated(record) if stated.kind is Kind.EVALUATE else _baseline(record)
    except ValueError as error:  # whoever recorded it, it is no run of a study
        targets, fault = [], str(error) if isinstance(error, InconsistentRunError) else f"{record}: {error}"
    columns = zip(*targets, strict=True) if targets else ([] for _ in range(3 + len(_NUMBERS)))
    return {
        "run_id": record.run_id,
        "name": record.name,
        "kind": str(stated.kind),
        "started": record.started,
        "ended": stated.ended,
        "state": stated.state,
        "artifacts": stated.artifacts,
        "tags": json.dumps(dict(sorted(record.tags.items())), ensure_ascii=False),
        "fault": fault,
        **dict(zip(("task", "language", "regime", *_NUMBERS), map(list, columns), strict=True)),
    }


def _evaluated(record: RunRecord) -> list[tuple[Any, ...]]:
    """Return an evaluation's targets, checked but for their baselines."""
    return [
        (
            found["target_task"],
            found["target_language"],
            found["regime"],
            *(found[name] for name in ("score", "acc", "acc_norm")),
            math.nan,
            math.nan,
            found["delta"],
        )
        for found in observations_of(record, None)
    ]


def _baseline(record: RunRecord) -> list[tuple[Any, ...]]:
    """Return a baseline's targets."""
    record.tag(Tag.BASE_MODEL)
    others = [record.by_target(name) for name in ("acc", "acc_norm", "chance", "chance_p")]
    return [
        (target.task, target.language, "", score, *(values.get(target, math.nan) for values in others), math.nan)
        for target, score in record.by_target("score").items()
    ]


# --- which runs count: those that can be read, and of equal fingerprints the first complete one


_LISTED = 5  # how many runs a note spells out


def readable_runs(runs: StoredRuns) -> tuple[StoredRuns, list[str]]:
    """Return the runs that can be placed in a study, and a sentence on each kind of those that cannot."""
    faults = {run_id: fault for run_id, fault in runs.faults.items() if fault}
    if not faults:
        return runs, []
    listed = "; ".join(list(faults.values())[:_LISTED]) + ("; …" if len(faults) > _LISTED else "")
    return runs.without(faults), [
        f"Left out: {quantity(len(faults), 'run')} that cannot be read as runs of this study ({listed})."
    ]


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
            f"Counted once: {quantity(len(pairs), 'run')} with the fingerprint and the results of an earlier one "
            f"({_listed(pairs)})."
        )
    if found.incomplete:
        notes.append(
            f"Left out: {quantity(len(found.incomplete), 'run')} without some results that another of the same "
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
        results, lambda first, second: same_results(client, client.get_run(first.run_id), client.get_run(second.run_id))
    )


def _is_in_store(client: MlflowClient, conflict: Conflict) -> bool:
    """Whether a conflict is one of the runs themselves, and not of what is kept of them."""
    pair = [client.get_run(run_id) for run_id in (conflict.first, conflict.second)]
    return bool(resolve_runs(client, pair).conflicts)


def _result(record: RunRecord, kind: str, ended: int) -> Result:
    return Result(record.run_id, kind, record.started, ended, record.tags, result_values(record.metrics))


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_LISTED]) + (", …" if len(texts) > _LISTED else "")
