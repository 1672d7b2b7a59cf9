"""The examination of stores of every kind, whole and broken."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest

from registry.doctor.findings import Finding, Level
from registry.doctor.store import check_store
from registry.tracking.recording import local_folder
from registry.tracking.store import open_store
from tests.mlflow_process import MlflowProcess, free_port

Page = tuple[int, bytes]


def fault(uri: str, study: str = "") -> Finding:
    """Return the one fault of a store; such a store has no client."""
    found, client = check_store(uri, study)
    (wrong,) = [finding for finding in found if finding.level is Level.WRONG]
    assert client is None
    return wrong


@pytest.fixture
def file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///"))


@pytest.fixture
def answering() -> Iterator:
    """Serve pages by path; what is not among them is not found."""
    started: list[ThreadingHTTPServer] = []

    def serve(pages: Mapping[str, Page]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content = pages.get(self.path.partition("?")[0], (404, b""))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in started:
        server.shutdown()
        server.server_close()


def test_a_whole_store_answers_and_takes_writes(uri: str) -> None:
    found, client = check_store(uri)
    assert [finding.level for finding in found] == [Level.GOOD] * 2
    assert client is not None
    assert "the store takes writes" in found[1].text


def test_where_a_studys_artifacts_lie_is_told(uri: str, tmp_path: Path) -> None:
    open_store(uri).create_experiment("small", artifact_location=(tmp_path / "kept").as_uri())
    found, _ = check_store(uri, "small")
    assert found[-1].text == f"artifacts lie in {tmp_path / 'kept'}"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found, client = check_store(f"sqlite:///{tmp_path}/no/mlflow.db")
    assert (client, [finding.level for finding in found]) == (None, [Level.NOTE])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    assert "MLflow refuses such stores" in fault(str(tmp_path)).text
    assert "MLflow refuses such stores" in fault(tmp_path.as_uri()).text


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    assert "does not answer: file is not a database" in fault(f"sqlite:///{tmp_path}/mlflow.db").text


def test_tables_of_another_mlflow_are_told(uri: str, file: Path) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '000000000000'")
    found = fault(uri)
    assert "has the tables of another MLflow (schema 000000000000, " in found.text
    assert f"mlflow db upgrade {uri}" in found.remedy


def test_a_locked_database_takes_no_writes(uri: str, file: Path, monkeypatch) -> None:
    monkeypatch.setattr("registry.doctor.store._PATIENCE", 0.2)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "the store takes no writes: database is locked" in fault(uri).text


def test_a_database_that_is_away_hides_its_password() -> None:
    found = fault(f"postgresql+psycopg://mlflow:geheim@127.0.0.1:{free_port()}/mlflow")
    assert "does not answer" in found.text
    assert "start the database" in found.remedy
    assert "geheim" not in found.text + found.remedy


def test_a_server_that_is_away_is_told_at_once() -> None:
    found = fault(f"http://127.0.0.1:{free_port()}")
    assert "does not answer: [Errno 111] Connection refused" in found.text
    assert found.remedy.startswith("start the server")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "export MLFLOW_TRACKING_USERNAME"), (403, "--allowed-hosts"), (500, "look into the server's log")],
)
def test_a_server_that_refuses_is_told_with_what_helps(answering, status: int, remedy: str) -> None:
    address = answering({"/version": (status, b"")})
    found = fault(address)
    assert f"{address} answers with HTTP {status}" in found.text
    assert remedy in found.remedy


def test_another_kind_of_server_is_told(answering) -> None:
    pages = {"/version": (200, b"1.0"), "/api/2.0/mlflow/experiments/search": (200, b"<html>")}
    assert "does not answer" in fault(answering(pages)).text


@pytest.mark.slow
def test_a_server_is_seen_to_answer_and_to_take_writes(new_store, tmp_path: Path) -> None:
    stores = ["--backend-store-uri", new_store(), "--artifacts-destination", str(tmp_path / "artifacts")]
    with MlflowProcess(["server", *stores, "--workers", "1"], tmp_path / "log") as server:
        client = open_store(server.address)
        run = client.create_run(client.create_experiment("small"), tags={"kind": "study"})
        client.set_terminated(run.info.run_id)
        found, _ = check_store(server.address, "small")
        assert [finding.level for finding in found] == [Level.GOOD] * 3
        assert found[0].text == f"{server.address} answers, MLflow {mlflow.__version__}"
        assert found[1].text == "the server takes writes"
        assert found[2].text.startswith("artifacts lie at mlflow-artifacts:/")


@pytest.mark.parametrize(
    ("location", "folder"),
    [("file:///a/b%20c", "/a/b c"), ("/a/b", "/a/b"), ("s3://bucket/a", None), ("mlflow-artifacts:/1", None)],
)
def test_folders_of_artifacts_are_told_from_addresses(location: str, folder: str | None) -> None:
    assert local_folder(location) == (Path(folder) if folder else None)
