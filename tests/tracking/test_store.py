"""The store: found, made once however many come first, its password never shown."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, make_url, text

from registry.errors import Refused
from registry.paths import PROJECT
from registry.tracking import client as patience
from registry.tracking.store import (
    all_runs,
    experiment_id,
    open_store,
    shown_uri,
    sqlite_file,
    sqlite_uri,
    tracking_uri,
)
from registry.tuning.storage import storage_url


def test_the_store_is_the_one_asked_for_or_the_embedded_one(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri() == "http://server:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri() == sqlite_uri(PROJECT / "mlflow.db")
    assert Path(__file__).resolve().parents[2] == PROJECT


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:s3cret@db:5432/mlflow", "postgresql://me:***@db:5432/mlflow"),
        ("https://me:s3cret@tracking.example/path?a=b", "https://me:***@tracking.example/path?a=b"),
        ("postgresql+psycopg2://me:s3:cr%40t@db/mlflow", "postgresql+psycopg2://me:***@db/mlflow"),
        ("postgresql://me:me@db/me", "postgresql://me:***@db/me"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("sqlite:////tmp/a/mlflow.db", "sqlite:////tmp/a/mlflow.db"),
    ],
)
def test_a_password_is_never_shown(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////a/b.db", Path("/a/b.db")),
        ("sqlite:///b.db", Path("b.db").absolute()),
        ("sqlite+pysqlite:////a/b.db", Path("/a/b.db")),
        ("sqlite:////a/b.db?timeout=60", Path("/a/b.db")),
        ("sqlite:////a%20b/100%25%3F%23.db?timeout=60&check_same_thread=false", Path("/a b/100%?#.db")),
        ("sqlite:////a b/100% é#.db", Path("/a b/100% é#.db")),
        ("sqlite:///file:/a/b%20c.db?mode=rw&uri=true", Path("/a/b c.db")),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("postgresql://db/mlflow", None),
        ("http://localhost:5000", None),
    ],
)
def test_the_file_of_a_store_is_known_where_there_is_one(uri: str, file: Path | None) -> None:
    assert sqlite_file(uri) == file


@pytest.mark.parametrize(
    "name", ["plain", "with space", "100%", "a%20b", "which?", "c#", "é ü 日本", "a&b=c+d;e", "'q'"]
)
def test_the_address_of_a_file_names_that_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "mlflow.db"
    file.parent.mkdir()
    assert sqlite_file(sqlite_uri(file)) == file
    assert make_url(sqlite_uri(file)).database == str(file)
    with create_engine(sqlite_uri(file)).connect() as connection:
        connection.execute(text("CREATE TABLE it (number INTEGER)"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert file.is_file()


def test_the_embedded_store_of_a_project_with_any_name_is_in_its_folder(tmp_path: Path, monkeypatch) -> None:
    project = tmp_path / "100% of a%20b?c#d"
    project.mkdir()
    (project / "MLproject").touch()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("registry.paths.PROJECT", project)
    assert sqlite_file(tracking_uri()) == project / "mlflow.db"
    assert sqlite_file(storage_url(tracking_uri())) == project / "tune.db"
    monkeypatch.setattr("registry.paths.PROJECT", tmp_path)  # an installed package, without its project
    monkeypatch.chdir(project)
    assert sqlite_file(tracking_uri()) == project / "mlflow.db"


def test_what_an_address_asks_of_sqlite_is_kept(tmp_path: Path, empty_database: Path) -> None:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    client = open_store(f"sqlite:///{tmp_path}/mlflow.db?timeout=60")
    assert client.tracking_uri.endswith("?timeout=60")
    run = client.create_run(experiment_id(client, "small"))
    client.log_text(run.info.run_id, "text", "it.txt")
    assert (tmp_path / "mlartifacts" / "small" / run.info.run_id / "artifacts" / "it.txt").is_file()
    assert {path.name for path in tmp_path.iterdir()} <= {
        "mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlflow.db.lock", "mlartifacts",
    }  # fmt: skip


def test_an_embedded_store_keeps_its_artifacts_beside_the_database(client, uri) -> None:
    experiment = client.get_experiment(experiment_id(client, "small"))
    location = Path(url2pathname(urlsplit(experiment.artifact_location).path))
    assert location == Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / "small"


def test_every_call_of_the_store_is_asked_again_while_it_is_locked(client) -> None:
    used = {
        node.attr
        for folder in ("registry", "analysis", "entrypoints")
        for file in (PROJECT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("client")
    }
    calls = {name for name in used if callable(getattr(MlflowClient, name, None)) and name[0] != "_"}
    calls -= {"download_artifacts"}
    assert {"create_run", "delete_model_version_tag", "search_runs"} <= calls
    assert {name for name in calls if name not in vars(type(client))} == set()


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The address that MLflow remembers is forgotten again."""
    yield
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.mark.usefixtures("forgotten")
def test_a_store_that_cannot_be_opened_is_told_with_what_helps(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(patience, "_PAUSES", (0.01,))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # what MLflow itself writes there is taken back
    (tmp_path / "text.db").write_text("no database")
    for uri, told in {
        str(tmp_path): "is a folder",
        f"file:{tmp_path}": "is a folder",
        f"sqlite:///{tmp_path}/text.db": "file is not a database",
        "postgresql+psycopg://me:secret@127.0.0.1:9/mlflow": "me:***@127.0.0.1:9/mlflow cannot be opened: connection",
    }.items():
        with pytest.raises(Refused, match=r"entrypoints\.doctor") as refusal:
            open_store(uri)
        assert told in str(refusal.value)
        assert "secret" not in str(refusal.value)


def test_an_experiment_is_made_once_and_comes_back_when_it_was_deleted(client) -> None:
    identity = experiment_id(client, "small")
    assert experiment_id(client, "small") == identity
    client.delete_experiment(identity)
    assert experiment_id(client, "small") == identity
    assert client.get_experiment(identity).lifecycle_stage == "active"


def test_every_page_of_runs_is_read(client, monkeypatch) -> None:
    identity = experiment_id(client, "small")
    made = {client.create_run(identity, tags={"kind": "evaluate"}).info.run_id for _ in range(7)}
    client.create_run(identity, tags={"kind": "baseline"})
    search = client.search_runs
    monkeypatch.setattr(client, "search_runs", lambda *a, max_results, **k: search(*a, max_results=3, **k))
    found = all_runs(client, [identity], "tags.kind = 'evaluate'")
    assert len(found) == 7
    assert {run.info.run_id for run in found} == made


FIRST_CONTACT = """
import sys
from registry.tracking.store import experiment_id, open_store
print("ready", flush=True)
sys.stdin.readline()
client = open_store(sys.argv[1])
identity = experiment_id(client, "small")
client.create_run(identity)
"""


@pytest.mark.slow
def test_four_processes_may_come_first_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", FIRST_CONTACT, uri]
    processes = [subprocess.Popen(command, cwd=PROJECT, **pipes) for _ in range(4)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [(process.communicate(timeout=120)[1][-2000:], process.returncode) for process in processes]
    assert [code for _, code in ends] == [0, 0, 0, 0], ends
    client = open_store(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "small"]
    assert len(client.search_runs([experiment.experiment_id])) == 4
