"""A full or read-only disk, told in words by whichever library it comes."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from safetensors import SafetensorError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from registry.errors import Refused
from registry.files.disks import disk_problem


def of_disk(code: int, path: str = "/data/x.parquet") -> OSError:
    return OSError(code, os.strerror(code), path)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (of_disk(errno.ENOSPC), "the disk is full, or a quota used up: /data/x.parquet could not be written"),
        (of_disk(errno.EDQUOT), "the disk is full, or a quota used up"),
        (of_disk(errno.EROFS), "/data/x.parquet is read-only"),
        (of_disk(errno.EACCES), "/data/x.parquet may not be opened or written by this user"),
        (of_disk(errno.EIO), "the disk reports an error"),
        (pa.ArrowException("[Errno 28] Error writing bytes to file: No space left on device"), "the disk is full"),
        (SafetensorError('IoError(Os { code: 28, message: "No space left on device" })'), "the disk is full"),
        (OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full")), "the disk is full"),
        (MlflowException("attempt to write a readonly database", TEMPORARILY_UNAVAILABLE), "is read-only"),
        (MlflowException('could not extend file "base/1": No space left on device'), "the disk is full"),
    ],
)
def test_what_is_wrong_with_a_disk_is_told_with_what_helps(error: Exception, told: str) -> None:
    words = disk_problem(error)
    assert words is not None
    assert told in words
    assert words.count("\n") == 1
    assert all(len(line) < 200 for line in words.split("\n"))
    assert not any(word in words for word in ("delete", "rm ", "train"))


def test_a_disk_is_found_behind_other_errors() -> None:
    try:
        try:
            raise of_disk(errno.ENOSPC)
        except OSError as error:
            raise MlflowException("the artifact was not stored") from error
    except MlflowException as error:
        assert "/data/x.parquet" in str(disk_problem(error))


@pytest.mark.parametrize(
    "error", [ValueError("no"), FileNotFoundError(2, "no", "/x"), Refused("x"), MlflowException("database is locked")]
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert disk_problem(error) is None


def test_sqlite_itself_says_so(tmp_path: Path) -> None:
    """The words are those of SQLite, with a database that may have no more pages."""
    engine = create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=NullPool)
    with pytest.raises(OperationalError) as raised, engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 2"))
        connection.execute(text("CREATE TABLE a (b TEXT)"))
        connection.execute(text("INSERT INTO a VALUES (:b)"), {"b": "x" * 100_000})
    assert "the disk is full" in str(disk_problem(raised.value))


@pytest.mark.parametrize("name", ["analyze", "tune", "import"])
def test_an_entry_point_tells_it_without_a_traceback(command, monkeypatch, name: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise MlflowException("not stored") from of_disk(errno.ENOSPC, "/data/mlflow.db")

    monkeypatch.setattr("registry.tracking.runs.launching_run", full)
    monkeypatch.setattr("registry.imports.read_source", full)
    code, output, errors = command(name, *(("--source", "x.csv") if name == "import" else ()))
    assert (code, output) == (1, "")
    assert errors.startswith("error: the disk is full, or a quota used up: /data/mlflow.db could not be written")
    assert "Traceback" not in errors
