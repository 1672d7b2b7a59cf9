"""What changed in a store that is a database, asked in SQL: a digest of every run, and the rows of those that differ.

`MlflowClient.search_runs` makes an object of every metric and takes some thirty times as long as the rows themselves.
Tables and columns are those of MLflow 3; where a database has others, the caller asks through MlflowClient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from analysis.reading.run_record import KINDS, KnownRun, RunRecord, RunState, StoreChanges, digest, own_tags
from registry.tracking.names import Kind, Tag

__all__ = ["SchemaError", "changes_over_sql"]

_AT_ONCE = 500  # run ids in one query; SQLite admits 32,766 values

#: Finished runs of the kinds that are read; every query below starts from these.
_RUNS = """
    FROM runs JOIN tags AS kinds ON kinds.run_uuid = runs.run_uuid AND kinds.key = :kind
    WHERE runs.experiment_id = :experiment AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
      AND kinds.value IN :kinds
"""
_LISTED = f"""
    SELECT runs.run_uuid, runs.name, runs.start_time, runs.end_time, runs.artifact_uri, kinds.value {_RUNS}
"""
_TAGS = f"SELECT run_uuid, key, value FROM tags WHERE run_uuid IN (SELECT runs.run_uuid {_RUNS})"
# An edited metric has another value, or at least another time.
_METRICS = f"""
    SELECT run_uuid, count(*), max(timestamp), sum(step), sum(value), sum(value * value)
    FROM latest_metrics WHERE run_uuid IN (SELECT runs.run_uuid {_RUNS}) GROUP BY run_uuid
"""
_VALUES = "SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN :ids"


class SchemaError(Exception):
    """The database does not have the tables or columns asked for."""


def changes_over_sql(uri: str, experiment_id: str, known: Mapping[str, KnownRun]) -> StoreChanges:
    """Compare every finished run of an experiment with its known state, and read those that differ.

    Raises
    ------
    SchemaError
        If the database answers that it lacks what was asked for.
    """
    engine = create_engine(uri, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            states = _states(connection, experiment_id)
            differing = [run_id for run_id in states if run_id not in known or known[run_id].state != states[run_id][0]]
            metrics = _values(connection, differing)
    except (OperationalError, ProgrammingError) as error:
        raise SchemaError(f"the database does not answer as expected ({error.orig})") from error
    finally:
        engine.dispose()
    read = tuple(_stated(run_id, *states[run_id], metrics.get(run_id, {})) for run_id in differing)
    return StoreChanges(frozenset(known) - frozenset(states), read)


_State = tuple[str, str, int, int, str, str, dict[str, str]]


def _states(connection: Connection, experiment_id: str) -> dict[str, _State]:
    """Return the digest of each finished run, with its name, start, end, artifacts, kind and tags."""
    asked = {"kind": Tag.KIND, "experiment": int(experiment_id), "kinds": [str(kind) for kind in KINDS]}
    listed, tags, metrics = (
        connection.execute(text(query).bindparams(bindparam("kinds", expanding=True)), asked).all()
        for query in (_LISTED, _TAGS, _METRICS)
    )
    tags_of: dict[str, dict[str, str]] = {}
    for run_id, key, value in tags:
        tags_of.setdefault(run_id, {})[key] = value
    sums = {run_id: _sums(*numbers) for run_id, *numbers in metrics}
    states: dict[str, _State] = {}
    for run_id, name, started, ended, artifacts, kind in listed:
        if run_id not in tags_of:  # deleted since it was listed
            continue
        own = dict(sorted(own_tags(tags_of[run_id]).items()))
        state = digest("sql", name, started, ended, artifacts, own, sums.get(run_id))
        states[run_id] = (state, name or "", started, ended or 0, artifacts, kind, own)
    return states


def _sums(count: int, newest: int, steps: int, *values: float) -> tuple[object, ...]:
    # Some databases add in any order, which may change a sum's last digits.
    return int(count), int(newest), int(steps), *(f"{value:.10g}" for value in values)


def _values(connection: Connection, run_ids: list[str]) -> dict[str, dict[str, float]]:
    query = text(_VALUES).bindparams(bindparam("ids", expanding=True))
    found: dict[str, dict[str, float]] = {}
    for start in range(0, len(run_ids), _AT_ONCE):
        for run_id, key, value, is_nan in connection.execute(query, {"ids": run_ids[start : start + _AT_ONCE]}):
            found.setdefault(run_id, {})[key] = math.nan if is_nan else value
    return found


def _stated(
    run_id: str,
    state: str,
    name: str,
    started: int,
    ended: int,
    artifacts: str,
    kind: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> RunState:
    return RunState(Kind(kind), RunRecord(run_id, name, "FINISHED", started, tags, metrics), ended, artifacts, state)
