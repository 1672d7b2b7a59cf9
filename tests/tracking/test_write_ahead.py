"""A new SQLite store keeps a write-ahead log: what a killed process committed is there; the file alone is a store."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from registry.project import PROJECT
from registry.tracking import write_ahead
from registry.tracking.store import experiment_id, open_store
from registry.tracking.write_ahead import made_with_log


def asked(file: Path, pragma: str) -> object:
    """Ask as MLflow does, by an engine of SQLAlchemy."""
    engine = create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        (found,) = connection.execute(text(f"PRAGMA {pragma}")).one()
    engine.dispose()
    return found


def write(file: Path, number: int) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS numbers (number)")
        database.execute("INSERT INTO numbers VALUES (?)", [number])


def test_a_store_that_is_made_here_keeps_one_and_commits_without_waiting(empty_database: Path) -> None:
    assert asked(empty_database, "journal_mode") == "wal"
    assert asked(empty_database, "synchronous") == 1  # NORMAL
    log = empty_database.with_name("mlflow.db-wal")
    assert not log.exists() or log.stat().st_size == 0


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    write(file, 1)
    with made_with_log(file):
        write(file, 2)
    assert asked(file, "journal_mode") == "delete"
    assert asked(file, "synchronous") == 2  # FULL, SQLite's own choice


def test_what_is_made_stands_in_the_file_though_others_have_it_open(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    with made_with_log(file):
        other = sqlite3.connect(file)
        write(file, 7)
        assert other.execute("SELECT number FROM numbers").fetchall() == [(7,)]
    shutil.copyfile(file, tmp_path / "copy.db")
    other.close()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT number FROM numbers").fetchall() == [(7,)]


@pytest.mark.parametrize(("kind", "mode"), [("nfs4", "delete"), ("fuse.sshfs", "delete"), ("ext4", "wal")])
def test_a_disk_of_several_machines_gets_none(tmp_path: Path, monkeypatch, kind: str, mode: str) -> None:
    mounts = [("/", "ext4"), (str(tmp_path), kind), (str(tmp_path / "other"), "ext4")]
    partitions = [type("Mount", (), {"mountpoint": where, "fstype": fstype}) for where, fstype in mounts]
    monkeypatch.setattr(write_ahead.psutil, "disk_partitions", lambda all: partitions)
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "new.db"
    with made_with_log(file):
        write(file, 1)
    assert asked(file, "journal_mode") == mode


KILLED = """
import os, signal, sys
from registry.tracking.store import experiment_id, open_store
client = open_store(sys.argv[1])
run = client.create_run(experiment_id(client, "small"))
client.log_metric(run.info.run_id, "score", 0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_recorded_is_there(uri: str) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, uri], cwd=PROJECT, env=os.environ, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL
    client = open_store(uri)
    (run,) = client.search_runs([experiment_id(client, "small")])
    assert run.data.metrics == {"score": 0.5}
