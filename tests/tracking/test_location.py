"""A store that was moved or copied: recognised, refused with the command that repairs it, and repaired."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.doctor.findings import Level
from registry.doctor.store import check_store
from registry.errors import Refused
from registry.tracking.location import REPAIR
from registry.tracking.recording import local_folder, store_folder
from registry.tracking.store import displacement, experiment_id, open_store, sqlite_uri
from tests.closed_stores import close_store

#: Names that mean something in an address: each must be only a name.
STRANGE = "a b%20c?d#e é 100% +&="


@pytest.fixture
def make_project(empty_database: Path) -> Callable[[Path], Path]:
    """Make a project's folder with a store that holds one study: a run, a logged model and its version."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True)
        shutil.copyfile(empty_database, folder / "mlflow.db")
        client = opened(folder)
        identity = experiment_id(client, "small")
        run = client.create_run(identity)
        client.log_text(run.info.run_id, "answers", "outcomes.txt")
        model = client.create_logged_model(identity, name="adapter", source_run_id=run.info.run_id)
        (folder / "peft").mkdir()
        (folder / "peft" / "adapter_model.safetensors").write_bytes(b"weights")
        store_folder(client, model.artifact_location, folder / "peft")
        client.create_registered_model("adapter")
        client.create_model_version("adapter", f"models:/{model.model_id}", run.info.run_id, model_id=model.model_id)
        close_store(client)
        return folder

    return make


@pytest.fixture(params=["project", STRANGE])
def project(request, tmp_path: Path, make_project) -> Path:
    return make_project(tmp_path / "first" / request.param)


def opened(folder: Path, *, displaced: bool = False) -> MlflowClient:
    return open_store(sqlite_uri(folder / "mlflow.db"), displaced=displaced)


def everything(folder: Path) -> dict[str, bytes]:
    """Every file of a folder's artifacts, with its content."""
    files = (path for path in (folder / "mlartifacts").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read_back(folder: Path) -> None:
    """Fail unless every file that the store names is in its own folder, found by each way there is."""
    client = opened(folder)
    (run,) = client.search_runs([experiment_id(client, "small")])
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["outcomes.txt"]
    assert local_folder(run.info.artifact_uri) == folder / "mlartifacts" / "small" / run.info.run_id / "artifacts"
    (version,) = client.search_model_versions("name = 'adapter'")
    where = client.get_model_version_download_uri("adapter", version.version)
    model = client.get_logged_model((version.source or "").removeprefix("models:/"))
    for place in (model.artifact_location, where):
        found = local_folder(place)
        assert found is not None
        assert found.is_relative_to(folder)
        assert (found / "adapter_model.safetensors").read_bytes() == b"weights"
    close_store(client)


def repaired(folder: Path) -> str:
    client = opened(folder, displaced=True)
    found = displacement(client)
    assert found is not None
    close_store(client)
    return found.repair()


def test_a_store_where_it_was_made_is_at_home_by_every_path_to_it(project: Path, tmp_path: Path) -> None:
    read_back(project)
    (tmp_path / "link").symlink_to(project.parent, target_is_directory=True)
    client = opened(tmp_path / "link" / project.name)
    assert displacement(client) is None
    (run,) = client.search_runs([experiment_id(client, "small")])
    assert client.list_artifacts(run.info.run_id)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mlflow.db").symlink_to(project / "mlflow.db")
    assert displacement(opened(tmp_path / "other")) is None


def test_a_moved_store_is_refused_and_found_again_after_its_repair(project: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / project.name
    shutil.move(project, moved)
    with pytest.raises(Refused, match="was moved") as refusal:
        opened(moved)
    assert str(refusal.value).endswith(REPAIR)
    assert str(project) in str(refusal.value)
    said = repaired(moved)
    read_back(moved)
    assert not project.exists()
    (backup,) = moved.glob("mlflow.db.backup-*")
    assert str(backup) in said
    with closing(sqlite3.connect(backup)) as database:
        assert project.as_uri() in database.execute("SELECT artifact_uri FROM runs").fetchone()[0]
    # …and once more, to where it was.
    shutil.move(moved, project)
    repaired(project)
    read_back(project)


def test_a_copy_is_refused_and_writes_into_its_own_folder_after_its_repair(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    before = everything(project)
    with pytest.raises(Refused, match="is a copy") as refusal:
        opened(copy)
    assert str(refusal.value).endswith(REPAIR)
    repaired(copy)
    read_back(copy)
    client = opened(copy)
    run = client.create_run(experiment_id(client, "small"))
    client.log_text(run.info.run_id, "new", "new.txt")
    assert (copy / "mlartifacts" / "small" / run.info.run_id / "artifacts" / "new.txt").is_file()
    assert everything(project) == before
    read_back(project)


def test_what_a_copy_lacks_is_taken_from_the_original(make_project, tmp_path: Path) -> None:
    project, copy = make_project(tmp_path / "project"), tmp_path / "copy"
    shutil.copytree(project, copy)
    before = everything(project)
    shutil.rmtree(next((copy / "mlartifacts" / "small").glob("[!m]*")))
    assert "1 folders were copied" in repaired(copy)
    read_back(copy)
    assert everything(project) == before


def test_a_copied_database_without_files_names_the_command_that_copies_them(make_project, tmp_path: Path) -> None:
    project, copy = make_project(tmp_path / "project"), tmp_path / "copy"
    copy.mkdir()
    shutil.copyfile(project / "mlflow.db", copy / "renamed.db")
    names = sorted(path.name for path in project.iterdir())
    with pytest.raises(Refused, match="without its files") as refusal:
        open_store(sqlite_uri(copy / "renamed.db"))
    assert f"cp -R {project}/mlartifacts {copy}/ && {REPAIR}" in str(refusal.value)
    (finding,) = [one for one in check_store(sqlite_uri(copy / "renamed.db"))[0] if one.level is Level.WRONG]
    assert finding.repair is None
    shutil.copytree(project / "mlartifacts", copy / "mlartifacts")
    (finding,) = [one for one in check_store(sqlite_uri(copy / "renamed.db"))[0] if one.level is Level.WRONG]
    assert finding.repair is not None
    finding.repair()
    assert displacement(open_store(sqlite_uri(copy / "renamed.db"))) is None
    assert sorted(path.name for path in project.iterdir()) == names


def test_artifacts_put_elsewhere_on_purpose_are_no_move(make_project, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    shutil.move(project / "mlflow.db", tmp_path / "mlflow.db")  # alone: its files are found where they were
    client = opened(tmp_path)
    client.create_experiment("large", artifact_location=(tmp_path / "disk" / "large").as_uri())
    client.create_experiment("bucket", artifact_location="s3://bucket/mlartifacts/bucket")
    assert displacement(opened(tmp_path)) is None


def test_studies_of_two_places_in_one_moved_store_all_come_home(make_project, tmp_path: Path) -> None:
    # As the version before left it: moved once, and a second study recorded since.
    project, second = make_project(tmp_path / "first"), tmp_path / "second"
    shutil.move(project, second)
    client = opened(second, displaced=True)
    run = client.create_run(experiment_id(client, "later"))
    client.log_text(run.info.run_id, "answers", "later.txt")
    close_store(client)
    third = tmp_path / "third"
    shutil.move(second, third)
    found = displacement(opened(third, displaced=True))
    assert found is not None
    assert found.homes == (project, second)
    found.repair()
    read_back(third)
    assert [file.path for file in opened(third).list_artifacts(run.info.run_id)] == ["later.txt"]


def test_a_database_moved_without_its_files_advises_to_bring_them(make_project, tmp_path: Path) -> None:
    project, moved = make_project(tmp_path / "project"), tmp_path / "moved"
    shutil.move(project, moved)
    shutil.move(moved / "mlartifacts", tmp_path / "kept")
    findings, client = check_store(sqlite_uri(moved / "mlflow.db"))
    assert client is None
    (finding,) = [one for one in findings if one.level is Level.WRONG]
    assert "without its files" in finding.text
    assert finding.remedy.startswith("bring mlartifacts back")
    shutil.move(tmp_path / "kept", moved / "mlartifacts")
    repaired(moved)
    read_back(moved)


def test_a_repair_that_breaks_off_leaves_every_address(make_project, tmp_path: Path, monkeypatch) -> None:
    project, copy = make_project(tmp_path / "project"), tmp_path / "copy"
    shutil.copytree(project, copy)
    client = opened(copy, displaced=True)
    shutil.rmtree(copy / "mlartifacts" / "small" / "models")
    monkeypatch.setattr(shutil, "copytree", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    found = displacement(client)
    assert found is not None
    with pytest.raises(OSError, match="the disk is full"):
        found.repair()
    with closing(sqlite3.connect(copy / "mlflow.db")) as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            addresses = [row[0] for row in database.execute(f"SELECT {column} FROM {table}")]
            assert not [address for address in addresses if str(copy) in address]
