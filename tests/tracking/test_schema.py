"""Stores of other versions of MLflow: refused with the commands that upgrade them, and not changed by a look."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import optuna
import pytest
from alembic import command as alembic_command
from alembic.config import Config
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from registry.errors import Refused
from registry.tracking.schema import newest_revision, require_own_schema
from registry.tracking.store import open_store

#: The last revisions of MLflow 2.22 and of one between.
OLD = {"2.22": "0584bdc529eb", "3.10": "2c33131f4dae"}


def make_old(engine: Engine, revision: str) -> None:
    """Make the tables that an earlier MLflow had."""
    Base.metadata.create_all(engine)
    config = Config()
    config.set_main_option("script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    config.set_main_option("sqlalchemy.url", engine.url.render_as_string(hide_password=False).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic_command.upgrade(config, revision)


@pytest.fixture(scope="session", params=OLD)
def old_file(request, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("old") / "mlflow.db"
    engine = create_engine(f"sqlite:///{file}", poolclass=NullPool)
    make_old(engine, OLD[request.param])
    engine.dispose()
    return file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_older_store_is_refused_unchanged_and_upgraded_by_the_command_that_is_told(old_file, tmp_path) -> None:
    before, uri = digest(old_file), f"sqlite:///{old_file}"
    with pytest.raises(Refused) as refusal:
        open_store(uri)
    assert digest(old_file) == before
    message, commands = str(refusal.value).split("\n")
    assert "it was not changed. Back it up, then upgrade it:" in message
    backup, upgrade = commands.split(" && ")
    assert shlex.split(backup) == ["sqlite3", str(old_file), f".backup '{old_file}.before-upgrade'"]
    assert shlex.split(upgrade) == ["mlflow", "db", "upgrade", uri]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("pull", ("--name", "x", "--version", "1")),
        ("recommend", ("--study", "small", "--want", "kind/en")),
        ("analyze", ("--study", "small")),
        ("doctor", ()),
    ],
)
def test_no_command_that_reads_migrates_a_store(command, monkeypatch, old_file, name, arguments, tmp_path) -> None:
    before = digest(old_file)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{old_file}")
    monkeypatch.chdir(tmp_path)
    code, output, errors = command(name, *arguments)
    assert code == (1 if name == "doctor" else 2)
    assert f"mlflow db upgrade sqlite:///{old_file}" in output + errors
    assert digest(old_file) == before


def test_a_newer_store_and_that_of_another_program_are_refused_unchanged(new_store, tmp_path) -> None:
    uri = new_store()
    file = Path(uri.removeprefix("sqlite:///"))
    engine = create_engine(uri, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffffffffffff'"))
    before = digest(file)
    with pytest.raises(Refused, match="of a newer MLflow than"):
        open_store(uri)
    assert digest(file) == before
    tune = tmp_path / "tune.db"
    optuna.create_study(storage=f"sqlite:///{tune}")
    with pytest.raises(Refused, match="or of another program"):
        open_store(f"sqlite:///{tune}")
    other = tmp_path / "other.db"
    engine = create_engine(f"sqlite:///{other}", poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (name TEXT)"))
    before = digest(other)
    with pytest.raises(Refused, match=r"other\.db is a database of another program, and was not changed"):
        open_store(f"sqlite:///{other}")
    assert digest(other) == before


def test_looking_does_not_make_a_file(tmp_path) -> None:
    require_own_schema(f"sqlite:///{tmp_path}/new.db", tmp_path / "new.db")
    assert list(tmp_path.iterdir()) == []


def test_the_newest_revision_is_that_which_mlflow_leaves(client) -> None:
    with create_engine(client.tracking_uri, poolclass=NullPool).connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == newest_revision()


@pytest.mark.slow
def test_an_older_postgresql_is_refused_and_upgraded_by_the_command(tmp_path) -> None:
    pgserver = pytest.importorskip("pgserver")
    server = pgserver.get_server(tmp_path / "pg", cleanup_mode="delete")
    try:
        uri = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        engine = create_engine(uri, poolclass=NullPool)
        make_old(engine, OLD["2.22"])
        with pytest.raises(Refused) as refusal:
            open_store(uri)
        command = str(refusal.value).split("\n")[1].partition("#")[0]
        assert shlex.split(command) == ["mlflow", "db", "upgrade", uri]
        subprocess.run([sys.executable, "-m", *shlex.split(command)], check=True, capture_output=True)
        open_store(uri).create_experiment("small")
    finally:
        server.cleanup()


@pytest.mark.slow
def test_a_file_of_2_22_is_upgraded_by_the_command(old_file) -> None:
    subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{old_file}"], check=True)
    open_store(f"sqlite:///{old_file}").search_experiments()


@contextmanager
def server_of(version: str, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A server that tells its version and otherwise has nothing; what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(version.encode() if self.path.endswith("/version") else b"{}")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    yield
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.mark.parametrize("version", ["2.22.0", "1.30.1"])
def test_a_server_before_3_is_refused_before_any_work(version: str) -> None:
    with server_of(version) as (address, asked), pytest.raises(Refused, match="version 3 or newer is needed") as told:
        open_store(address)
    assert f"{address} is a server of MLflow {version}" in str(told.value)
    assert {path.rpartition("/")[2] for path in asked} <= {"search", "version"}


@pytest.mark.parametrize(
    ("version", "told"),
    [("3.0.1", "older than"), ("4.1.0", "newer than"), (mlflow.__version__, None), ("<html>", None)],
)
def test_a_server_of_another_version_is_told(caplog, version: str, told: str | None) -> None:
    with server_of(version) as (address, _):
        open_store(address)
    said = [record.getMessage() for record in caplog.records if "the server is MLflow" in record.getMessage()]
    assert len(said) == (told is not None)
    assert all(str(told) in one for one in said)
