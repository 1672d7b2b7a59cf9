"""A new SQLite store keeps a write-ahead log: what a killed process committed is there; the file alone is a store."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import create_engine, text

from registry.doctor.findings import Level
from registry.doctor.store import check_store
from registry.paths import PROJECT
from registry.tracking import sqlite
from registry.tracking.sqlite import make_database, shared_log
from registry.tracking.store import experiment_id, open_store
from tests.closed_stores import close_store


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


def test_a_store_that_is_made_here_keeps_one(empty_database: Path) -> None:
    assert asked(empty_database, "journal_mode") == "wal"
    log = empty_database.with_name("mlflow.db-wal")
    assert not log.exists() or log.stat().st_size == 0


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    write(file, 1)
    make_database(file, lambda _: pytest.fail("made again"))
    assert asked(file, "journal_mode") == "delete"
    assert asked(file, "synchronous") == 2  # FULL, SQLite's own choice


LOCKED = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"


def test_looking_at_a_file_lets_go_of_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    write(file, 1)
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        make_database(file, lambda _: pytest.fail("made again"))
        other = subprocess.run([sys.executable, "-c", LOCKED, str(file)], capture_output=True, text=True)
    assert "database is locked" in other.stderr


def test_what_is_made_stands_in_the_file_alone_and_leaves_no_other(tmp_path: Path) -> None:
    make_database(tmp_path / "new.db", lambda file: write(file, 7))
    assert [path.name for path in tmp_path.iterdir()] == ["new.db"]
    with closing(sqlite3.connect(tmp_path / "new.db")) as made:
        assert made.execute("SELECT number FROM numbers").fetchall() == [(7,)]


@pytest.mark.parametrize(("kind", "mode"), [("nfs4", "delete"), ("fuse.sshfs", "delete"), ("ext4", "wal")])
def test_a_disk_of_several_machines_gets_none(tmp_path: Path, monkeypatch, kind: str, mode: str) -> None:
    mounts = [("/", "ext4"), (str(tmp_path), kind), (str(tmp_path / "other"), "ext4")]
    partitions = [type("Mount", (), {"mountpoint": where, "fstype": fstype}) for where, fstype in mounts]
    monkeypatch.setattr(sqlite.psutil, "disk_partitions", lambda all: partitions)
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "new.db"
    make_database(file, lambda new: write(new, 1))
    assert asked(file, "journal_mode") == mode


KILLED = """
import os, signal, sys
from registry.tracking.store import experiment_id, open_store
client = open_store(sys.argv[1])
run = client.create_run(experiment_id(client, "small"))
client.log_metric(run.info.run_id, "score", 0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_a_store_whose_making_was_killed_is_made_anew(tmp_path: Path, seconds: float) -> None:
    file = tmp_path / "mlflow.db"
    script = f"from registry.tracking.store import open_store; open_store('sqlite:///{file}')"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT)
    deadline = time.monotonic() + 120
    while not file.with_name("mlflow.db.new").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(seconds)
    process.kill()
    process.wait()
    client = open_store(f"sqlite:///{file}")
    client.create_run(experiment_id(client, "small"))
    assert not file.with_name("mlflow.db.new").exists()


def test_what_a_killed_process_recorded_is_there(uri: str) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, uri], cwd=PROJECT, env=os.environ, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL
    client = open_store(uri)
    (run,) = client.search_runs([experiment_id(client, "small")])
    assert run.data.metrics == {"score": 0.5}


def test_a_log_on_a_network_file_system_is_told(client, uri, monkeypatch, caplog) -> None:
    file = Path(uri.removeprefix("sqlite:///"))
    mounts = {"/": "ext4", str(file.parent): "nfs4"}
    partitions = [SimpleNamespace(mountpoint=where, fstype=kind) for where, kind in mounts.items()]
    assert shared_log(file) is None
    monkeypatch.setattr(sqlite.psutil, "disk_partitions", lambda all: partitions)
    assert shared_log(file) == "nfs4"
    open_store(uri)
    (told,) = [record.getMessage() for record in caplog.records if "write-ahead log" in record.getMessage()]
    assert f"{file} keeps a write-ahead log on nfs4" in told
    assert f"sqlite3 {file} 'PRAGMA journal_mode = DELETE'" in told
    (found,) = [one for one in check_store(uri)[0] if "write-ahead" in one.text]
    assert found.level is Level.WRONG
    close_store(client)
    caplog.clear()
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    open_store(uri)
    assert not [record for record in caplog.records if "write-ahead log" in record.getMessage()]
