"""Records moved from a SQLite file into another database: every row, and what follows counts on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from registry.errors import Refused
from registry.tracking.move import move_records
from registry.tracking.names import Kind
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id, open_store


def fill(client) -> str:
    experiment = experiment_id(client, "small")
    with recorded(client, experiment, kind=Kind.EVALUATE, name="x", tags={"a": "b"}, params={"p": 1}) as recording:
        recording.metrics({"score": 0.5, "nan": float("nan")})
        with recording.folder() as folder:
            (folder / "report.html").write_text("a report")
    client.create_registered_model("model")
    client.create_model_version("model", "claim:/none", tags={"fingerprint": "f"})
    return str(recording.run_id)


def assert_moved(client, target: str, run_id: str) -> None:
    there, here = client.get_run(run_id), open_store(target).get_run(run_id)
    assert here.data.tags == there.data.tags
    assert here.data.params == there.data.params
    assert here.data.metrics["score"] == 0.5
    moved = open_store(target)
    (version,) = moved.search_model_versions("name = 'model'")
    assert version.tags == {"fingerprint": "f"}
    assert int(moved.create_model_version("model", "claim:/none").version) == 2
    assert int(moved.create_experiment("new")) > int(there.info.experiment_id)
    moved.create_run(there.info.experiment_id)


def test_a_file_is_moved_into_another_with_the_addresses_of_its_files(client, uri, new_store) -> None:
    run_id, target = fill(client), new_store()
    folder = Path(uri.removeprefix("sqlite:///")).parent.as_uri()
    move_records(uri, target, files=(f"{folder}/mlartifacts", "mlflow-artifacts:"))
    assert_moved(client, target, run_id)
    assert open_store(target).get_run(run_id).info.artifact_uri == f"mlflow-artifacts:/small/{run_id}/artifacts"
    assert client.get_run(run_id).info.artifact_uri.startswith(folder)
    with pytest.raises(Refused, match="has runs already; move into an empty database"):
        move_records(uri, target)


@pytest.mark.slow
def test_a_file_is_moved_into_postgresql(client, uri, tmp_path) -> None:
    pgserver = pytest.importorskip("pgserver")
    run_id = fill(client)
    server = pgserver.get_server(tmp_path / "pg", cleanup_mode="delete")
    try:
        target = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        move_records(uri, target)
        engine = create_engine(target, poolclass=NullPool)
        with engine.connect() as connection, closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as before:
            for table in ("metrics", "tags", "params", "latest_metrics"):
                (count,) = before.execute(f"SELECT count(*) FROM {table}").fetchone()
                assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == count
        assert_moved(client, target, run_id)
    finally:
        server.cleanup()
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
