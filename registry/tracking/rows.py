"""How a run's rows get into the tables of a database: by plain inserts, where MLflow takes its ORM.

MLflow makes one to three objects of every value, writes a batch in four transactions that each read the run again, and
reads all of a run once more when it begins and when it ends. That is 40 ms for an evaluation of 44 targets, nearly all
of it Python's; what is here writes the same rows into the same tables in a fifth of it. A batch is one transaction: all
of it is in the store, or nothing. What is there already is left to MLflow, which compares and updates.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunStatus,
    RunTag,
    SourceType,
    ViewType,
)
from mlflow.store.tracking.dbmodels.models import (
    SqlLatestMetric,
    SqlLoggedModelMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from mlflow.utils.uri import append_to_uri_path
from mlflow.utils.validation import (
    _validate_batch_log_data,
    _validate_batch_log_limits,
    _validate_param_keys_unique,
)
from sqlalchemy import delete, insert
from sqlalchemy.exc import IntegrityError

__all__ = ["write_plainly"]

Row = dict[str, Any]


def write_plainly(client: MlflowClient) -> None:
    """Have a database's client begin, fill and end runs in this way; a server's client stays as it is."""
    store = client._tracking_client.store
    if type(store) is SqlAlchemyStore:  # one that keeps workspaces apart writes more than this
        for call in (_create_run, _log_batch, _update_run_info):
            setattr(store, call.__name__.removeprefix("_"), partial(call, store))


def _create_run(
    store: Any, experiment_id: str, user_id: str, start_time: int, tags: Sequence[RunTag], run_name: str | None
) -> Run:
    if not run_name or RunTag(MLFLOW_RUN_NAME, run_name) not in tags:
        made: Run = SqlAlchemyStore.create_run(store, experiment_id, user_id, start_time, tags, run_name)
        return made
    run_id = uuid.uuid4().hex
    with store.ManagedSessionMaker(read_only=False) as session:
        experiment = store._get_experiment(session, experiment_id, ViewType.ALL)
        store._check_experiment_is_active(experiment)
        row = {
            "run_uuid": run_id,
            "name": run_name,
            "experiment_id": experiment.experiment_id,
            "user_id": user_id,
            "status": RunStatus.to_string(RunStatus.RUNNING),
            "start_time": start_time,
            "end_time": None,
            "deleted_time": None,
            "lifecycle_stage": LifecycleStage.ACTIVE,
            "artifact_uri": append_to_uri_path(
                experiment.artifact_location, run_id, SqlAlchemyStore.ARTIFACTS_FOLDER_NAME
            ),
            "source_type": SourceType.to_string(SourceType.UNKNOWN),
            "source_name": "",
            "entry_point_name": "",
            "source_version": "",
        }
        _insert(session, {SqlRun: [row], SqlTag: _keyed(run_id, tags)})
    return Run(_info(SqlRun(**row)), RunData(tags=list(tags)), RunInputs(dataset_inputs=[]))


def _update_run_info(
    store: Any, run_id: str, run_status: int | None, end_time: int | None, run_name: str | None
) -> RunInfo:
    if run_name:
        renamed: RunInfo = SqlAlchemyStore.update_run_info(store, run_id, run_status, end_time, run_name)
        return renamed
    with store.ManagedSessionMaker(read_only=False) as session:
        run = store._get_run(run_uuid=run_id, session=session)
        store._check_run_is_active(run)
        if run_status is not None:
            run.status = RunStatus.to_string(run_status)
        if end_time is not None:
            run.end_time = end_time
        return _info(run)


def _info(run: Any) -> RunInfo:
    """What MLflow tells of a run's row, without its metrics, parameters and tags."""
    return RunInfo(
        run_id=run.run_uuid,
        run_name=run.name,
        experiment_id=str(run.experiment_id),
        user_id=run.user_id,
        status=run.status,
        start_time=run.start_time,
        end_time=run.end_time,
        lifecycle_stage=run.lifecycle_stage,
        artifact_uri=run.artifact_uri,
    )


def _log_batch(
    store: Any, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
) -> None:
    renames = any(tag.key == MLFLOW_RUN_NAME for tag in tags)  # a name stands in the run's own row, too
    if renames or not _inserted(store, run_id, metrics, params, tags):
        SqlAlchemyStore.log_batch(store, run_id, metrics, params, tags)


def _inserted(
    store: Any, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
) -> bool:
    """Insert a batch, or nothing if any but a tag is there already."""
    metrics, params, tags = _validate_batch_log_data(metrics, params, tags)
    _validate_batch_log_limits(metrics, params, tags)
    _validate_param_keys_unique(params)
    with store.ManagedSessionMaker(read_only=False) as session:
        run = store._get_run(run_uuid=run_id, session=session)
        store._check_run_is_active(run)
        rows = _of_metrics(store, run, metrics)
        rows |= {SqlParam: _keyed(run_id, params), SqlTag: _keyed(run_id, tags)}
        if tags:
            session.execute(delete(SqlTag).where(SqlTag.run_uuid == run_id, SqlTag.key.in_([tag.key for tag in tags])))
        try:
            _insert(session, rows)
        except IntegrityError:
            session.rollback()
            return False
    return True


def _insert(session: Any, rows: Mapping[Any, list[Row]]) -> None:
    """Insert rows into the tables of MLflow's classes."""
    for mapped, of_table in rows.items():
        if of_table:
            session.connection().execute(insert(mapped.__table__), of_table)


def _keyed(run_id: str, entries: Iterable[Param | RunTag]) -> list[Row]:
    """Rows of parameters or tags; of a tag that is given twice the last, as MLflow takes it."""
    return [
        {"run_uuid": run_id, "key": key, "value": value} for key, value in {e.key: e.value for e in entries}.items()
    ]


def _of_metrics(store: Any, run: Any, metrics: Iterable[Metric]) -> dict[Any, list[Row]]:
    """Rows of metrics: of all, of the latest of each name, and of those that are linked to a model."""
    logged: list[Row] = []
    latest: dict[str, Row] = {}
    of_models: list[Row] = []
    for metric in dict.fromkeys(metrics):
        is_nan, value = store.sanitize_metric_value(metric.value)
        row = {
            "run_uuid": run.run_uuid,
            "key": metric.key,
            "value": value,
            "timestamp": metric.timestamp,
            "step": metric.step,
            "is_nan": is_nan,
        }
        logged.append(row)
        if metric.key not in latest or _age(row) > _age(latest[metric.key]):
            latest[metric.key] = row
        if metric.model_id is not None:
            of_models.append(_of_model(metric, value, run))
    return {SqlMetric: logged, SqlLatestMetric: list(latest.values()), SqlLoggedModelMetric: of_models}


def _age(row: Row) -> tuple[int, int, float]:
    """What MLflow compares to tell the latest of a metric's values."""
    return row["step"], row["timestamp"], row["value"]


def _of_model(metric: Metric, value: float, run: Any) -> Row:
    return {
        "model_id": metric.model_id,
        "metric_name": metric.key,
        "metric_timestamp_ms": metric.timestamp,
        "metric_step": metric.step,
        "metric_value": value,
        "experiment_id": run.experiment_id,
        "run_id": run.run_uuid,
        "dataset_uuid": None,
        "dataset_name": metric.dataset_name,
        "dataset_digest": metric.dataset_digest,
    }
