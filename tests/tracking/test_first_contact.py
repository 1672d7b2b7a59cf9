"""Many processes that come first to an empty SQLite store at once: each time one schema, and no one fails."""

from __future__ import annotations

import multiprocessing
import sqlite3
from contextlib import closing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from registry.tracking.store import experiment_id, open_store

PROCESSES, REPETITIONS = 8, 20

#: What a contact needs, imported once; each process is forked from there, and so all come within a moment.
_IMPORTED = [
    "registry.tracking.store",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
]


def _come(uri: str, together: Barrier) -> None:
    together.wait()
    client = open_store(uri)
    client.create_run(experiment_id(client, "small"))


def _schema(file: Path) -> list[tuple[str, ...]]:
    """Every table and index, every column, and the version that MLflow's migrations left."""
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        # Not the statements that made them: MLflow writes the values that a column may have in any order.
        return [found for query in _SCHEMA for found in database.execute(query).fetchall()]


_SCHEMA = (
    "SELECT type, name, tbl_name FROM sqlite_master ORDER BY type, name",
    "SELECT made.name, columns.* FROM sqlite_master AS made, pragma_table_info(made.name) AS columns ORDER BY 1, 2",
    "SELECT version_num FROM alembic_version",
)


@pytest.mark.slow
def test_eight_processes_come_first_twenty_times(empty_database: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    alone = _schema(empty_database)
    for repetition in range(REPETITIONS):
        file, together = tmp_path / str(repetition) / "mlflow.db", context.Barrier(PROCESSES)
        uri = f"sqlite:///{file}"
        processes = [context.Process(target=_come, args=(uri, together)) for _ in range(PROCESSES)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=300)
        assert [process.exitcode for process in processes] == [0] * PROCESSES, f"repetition {repetition}"
        assert _schema(file) == alone
        with closing(sqlite3.connect(file)) as database:
            found = database.execute("SELECT experiment_id FROM experiments WHERE name = 'small'").fetchall()
            assert len(found) == 1
            runs = database.execute("SELECT experiment_id, count(*) FROM runs GROUP BY experiment_id").fetchall()
            assert runs == [(found[0][0], PROCESSES)]
