"""Copy a store's records into another, empty database: from a SQLite file into PostgreSQL, or into another file.

``python -m registry.tracking.move sqlite:////old/mlflow.db postgresql+psycopg://mlflow@localhost/mlflow``
"""

from __future__ import annotations

import argparse
import sys

import mlflow.store.model_registry.dbmodels.models
import mlflow.store.tracking.dbmodels.models  # noqa: F401  # both fill the list of tables
from mlflow.store.db.base_sql_model import Base
from sqlalchemy import Connection, Table, create_engine, func, inspect, select, text
from sqlalchemy.pool import NullPool

from registry.errors import Refused
from registry.masking import mask_uri
from registry.tracking.schema import require_own_schema
from registry.tracking.store import open_store, sqlite_file

__all__ = ["move_records"]

_AT_ONCE = 1000
#: Columns that hold addresses of files.
_ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def move_records(source: str, target: str, *, files: tuple[str, str] | None = None) -> int:
    """Copy every row of a store into an empty one, all or nothing, and return how many there are.

    Parameters
    ----------
    files
        Beginning of the addresses of files as it was and as it will be, such as ``file:///old/mlartifacts`` and
        ``mlflow-artifacts:``; None leaves them. The files themselves are copied by whoever moves them.

    Raises
    ------
    Refused
        If the source is of another MLflow, or the target has runs or registered models already.
    """
    require_own_schema(source, sqlite_file(source))
    open_store(target)  # makes the tables
    there, here = create_engine(source, poolclass=NullPool), create_engine(target, poolclass=NullPool)
    try:
        with there.connect() as reader, here.begin() as writer:
            _require_empty(writer, target)
            names = set(inspect(reader).get_table_names())
            tables = [table for table in Base.metadata.sorted_tables if table.name in names]
            for table in reversed(tables):  # the experiment Default, which the source has too
                writer.execute(table.delete())
            moved = sum(_copy(reader, writer, table, files) for table in tables)
            if writer.dialect.name == "postgresql":
                for table in tables:
                    _set_sequences(writer, table)
    finally:
        there.dispose()
        here.dispose()
    return moved


def _require_empty(writer: Connection, target: str) -> None:
    for name in ("runs", "registered_models", "logged_models"):
        if writer.execute(select(func.count()).select_from(Base.metadata.tables[name])).scalar():
            raise Refused(f"{mask_uri(target)} has {name.replace('_', ' ')} already; move into an empty database")


def _copy(reader: Connection, writer: Connection, table: Table, files: tuple[str, str] | None) -> int:
    count = 0
    for part in reader.execution_options(yield_per=_AT_ONCE).execute(select(table)).mappings().partitions(_AT_ONCE):
        rows = [dict(row) for row in part]
        for column in _ADDRESSES.get(table.name, ()) if files else ():
            for row in rows:
                if files and str(row[column] or "").startswith(files[0]):
                    row[column] = files[1] + row[column][len(files[0]) :]
        writer.execute(table.insert(), rows)
        count += len(rows)
    return count


def _set_sequences(writer: Connection, table: Table) -> None:
    """Have PostgreSQL count on from the numbers that were copied."""
    for column in table.primary_key.columns:
        name = writer.execute(
            text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
        ).scalar()
        newest = writer.execute(select(func.max(column))).scalar() if name else None
        if newest is not None:
            writer.execute(text("SELECT setval(:name, :newest)"), {"name": name, "newest": newest})


def main() -> None:
    """Parse, copy, say how many rows there are."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("source", help="address of the store as it is, sqlite:////…/mlflow.db")
    arguments.add_argument("target", help="address of an empty database")
    arguments.add_argument(
        "--files",
        nargs=2,
        metavar=("OLD", "NEW"),
        help="beginning of the addresses of files, as it was and as it will be",
    )
    given = arguments.parse_args()
    try:
        moved = move_records(given.source, given.target, files=tuple(given.files) if given.files else None)
    except Refused as error:
        sys.exit(f"error: {error}")
    print(f"{moved:,} rows copied; the source is as it was")


if __name__ == "__main__":
    main()
