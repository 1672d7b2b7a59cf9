"""Rows of a database, erased in one transaction: a process that is killed leaves all of them, or none.

MLflow's own calls only mark what is deleted, and its command `gc` erases whatever else is marked in the store. The rows
that hang on others are found by the foreign keys of MLflow's tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlflow.store.model_registry.dbmodels.models
import mlflow.store.tracking.dbmodels.models  # noqa: F401  # both fill the list of tables
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.store.db.base_sql_model import Base
from sqlalchemy import ColumnElement, Connection, Table, and_, create_engine, event, select, tuple_
from sqlalchemy.pool import NullPool

from registry.erasure.inventory import Inventory
from registry.process import defer_signals
from registry.tracking.store import sqlite_file

__all__ = ["erase_rows"]

_AT_ONCE = 200  # values in one condition
_PATIENCE = 60  # seconds to wait for other writers of a SQLite file

_REDACTED = {
    "current_stage": STAGE_DELETED_INTERNAL,
    "description": None,
    "user_id": None,
    "source": "REDACTED-SOURCE-PATH",
    "run_id": "REDACTED-RUN-ID",
    "run_link": "REDACTED-RUN-LINK",
    "status_message": None,
    "storage_location": None,
}


def erase_rows(uri: str, found: Inventory) -> None:
    """Erase what an inventory lists from a database, all or nothing."""
    is_file = sqlite_file(uri) is not None
    engine = create_engine(uri, poolclass=NullPool, connect_args={"timeout": _PATIENCE} if is_file else {})
    if is_file:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    try:
        with defer_signals(), engine.begin() as connection:
            _erase(connection, found)
    finally:
        engine.dispose()


def _erase(connection: Connection, found: Inventory) -> None:
    tables = Base.metadata.tables
    whole = set(found.registered)
    for version in found.versions:
        if version.name not in whole:
            _redact(connection, version.name, int(version.version))
    for names in _parts(sorted(whole)):
        _delete(connection, tables["registered_models"], tables["registered_models"].c.name.in_(names))
    runs = [run.info.run_id for run in found.runs]
    models = list(found.models)
    for ids in _parts([*runs, *models]):
        inputs = tables["inputs"]
        _delete(connection, tables["input_tags"], tables["input_tags"].c.input_uuid.in_(
            select(inputs.c.input_uuid).where(inputs.c.source_id.in_(ids) | inputs.c.destination_id.in_(ids))
        ))  # fmt: skip
        _delete(connection, inputs, inputs.c.source_id.in_(ids) | inputs.c.destination_id.in_(ids))
    for ids in _parts(models):
        _delete(connection, tables["logged_models"], tables["logged_models"].c.model_id.in_(ids))
    for ids in _parts(runs):
        _delete(connection, tables["runs"], tables["runs"].c.run_uuid.in_(ids))
    for experiment in found.experiments:
        number = int(experiment.experiment_id)
        for table in tables.values():  # SQLite gives a number again, so nothing of it may be left anywhere
            if table.name != "experiments" and "experiment_id" in table.c:
                _delete(connection, table, table.c.experiment_id == number)
        _delete(connection, tables["experiments"], tables["experiments"].c.experiment_id == number)


def _redact(connection: Connection, name: str, number: int) -> None:
    """Empty a version's row as MLflow does. The row itself keeps the number from being given to another version."""
    tables = Base.metadata.tables
    for table, column in (("model_version_tags", "version"), ("registered_model_aliases", "version")):
        where = and_(tables[table].c.name == name, tables[table].c[column] == number)
        connection.execute(tables[table].delete().where(where))
    versions = tables["model_versions"]
    where = and_(versions.c.name == name, versions.c.version == number)
    connection.execute(versions.update().where(where).values(**_REDACTED))


def _delete(connection: Connection, table: Table, condition: ColumnElement[bool]) -> None:
    """Delete rows, and before them those of other tables whose foreign keys name them."""
    for child in Base.metadata.sorted_tables:
        for constraint in child.foreign_key_constraints:
            if constraint.referred_table is table and child is not table:
                own = [element.parent for element in constraint.elements]
                theirs = [element.column for element in constraint.elements]
                named = select(*theirs).where(condition)
                _delete(connection, child, _among(own, named))
    connection.execute(table.delete().where(condition))


def _among(columns: Sequence[Any], named: Any) -> ColumnElement[bool]:
    return columns[0].in_(named) if len(columns) == 1 else tuple_(*columns).in_(named)


def _parts(values: Iterable[str]) -> Iterator[list[str]]:
    listed = list(values)
    for start in range(0, len(listed), _AT_ONCE):
        yield listed[start : start + _AT_ONCE]
