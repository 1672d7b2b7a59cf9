"""Erasing from a tracking server and from PostgreSQL: what a client can erase goes, and what remains is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.cli import cli
from mlflow.entities import ViewType
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from registry.erasure import erase
from registry.tracking.store import experiment_id, open_store
from tests.erasure.test_forget import SURE
from tests.runner.unreliable import server_on

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory) -> Iterator[str]:
    """A PostgreSQL server; a name stands in its address for the database."""
    pgserver = pytest.importorskip("pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("database") / "pg", cleanup_mode="delete")
    for name in ("first", "second"):
        server.psql(f"CREATE DATABASE {name}")
    yield server.get_uri(database="{}").replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture(params=["http", "postgresql"])
def uri(request, tmp_path, monkeypatch) -> Iterator[str]:
    """A store that is no SQLite file, its artifacts in ``artifacts``."""
    if request.param == "http":
        with server_on(tmp_path) as server:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
            yield server.address
    else:
        name = "first" if "erased" in request.node.name else "second"
        address = request.getfixturevalue("postgresql").format(name)
        for study in ("small", "other"):
            open_store(address).create_experiment(study, artifact_location=(tmp_path / "artifacts" / study).as_uri())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_study_is_erased_and_the_other_stays(client, fill, command, tmp_path, uri) -> None:
    stored = fill(client)
    ours = stored.runs("small") | {stored.adapters[key].model_id for key in ("a", "b")}
    theirs, number = stored.runs("other"), experiment_id(client, "small")
    kept = {name for name in files(tmp_path / "artifacts") if not any(one in name for one in ours)}
    code, output, errors = command("forget", "--study", "small")
    assert code == 0, errors
    assert all(one in output for one in ours)
    code, output, errors = command("forget", "--study", "small", *SURE, "small")
    assert code == 0, output + errors
    assert files(tmp_path / "artifacts") == kept
    assert kept
    assert stored.versions() == {"tiny--pair--tr/2"}
    assert stored.registered() == {"tiny--pair--tr"}
    assert client.get_experiment_by_name("small") is None
    assert {run.info.run_id for run in client.search_runs([experiment_id(client, "other")])} == theirs
    if uri.startswith("http"):
        assert (
            f"mlflow gc --backend-store-uri <its database> --tracking-uri <its address> --experiment-ids {number}"
            in output
        )
        arguments = ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--tracking-uri", uri]
        done = CliRunner().invoke(cli, ["gc", *arguments, "--experiment-ids", number])
        assert done.exit_code == 0, done.output
        assert experiment_id(client, "small") != number or not client.search_runs([number], "", ViewType.ALL)
    else:
        engine = create_engine(uri, poolclass=NullPool)
        with engine.connect() as connection:
            for table, column in {"runs": "run_uuid", "logged_models": "model_id", "tags": "run_uuid"}.items():
                there = set(connection.execute(text(f"SELECT {column} FROM {table}")).scalars())
                assert not there & ours


def test_one_that_was_broken_off_is_ended_by_the_same_command_and_the_study_begins_anew(
    client, fill, command, monkeypatch, uri
) -> None:
    stored = fill(client)

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erase, "erase_files", broken)
        assert command("forget", "--study", "small", *SURE, "small")[0] == 130
    code, output, errors = command("forget", "--study", "small", *SURE, "small")
    assert code == 0, output + errors
    assert stored.versions() == {"tiny--pair--tr/2"}
    assert client.search_runs([experiment_id(client, "small")], "", ViewType.ALL) == []
