"""The entry point ``forget``: lists exactly what goes, erases that and nothing of others, and needs a last word."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner
from mlflow.cli import cli

from analysis.reading.cache import cache_folder, cache_root
from registry.erasure.files import Files, Journal
from registry.erasure.inventory import Subject
from registry.paths import checkpoint
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id
from tests.erasure.conftest import Stored

SURE = ("--dry-run", "false", "--confirm")


def rows(stored: Stored) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    with closing(sqlite3.connect(stored.folder / "mlflow.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: sorted(map(tuple, database.execute(f"SELECT * FROM {table}")), key=str) for table in tables}


def mentioning(stored: Stored, words: set[str]) -> list[tuple[str, object]]:
    """Rows of the database that hold any of some words."""
    found = rows(stored).items()
    return [(table, row) for table, held in found for row in held if any(word in str(row) for word in words)]


def test_a_dry_run_lists_everything_and_changes_nothing(stored, command) -> None:
    before, files = rows(stored), stored.files()
    code, output, _ = command("forget", "--study", "small")
    assert code == 0
    assert (rows(stored), stored.files()) == (before, files)
    for run in stored.runs("small"):
        assert run in output
    for run in stored.runs("other"):
        assert run not in output
    for key in ("a", "b"):
        assert stored.adapters[key].model_id in output
    assert "version            tiny--kind--en/1  (carries champion)" in output
    assert "registered model   tiny--kind--en" in output
    assert "registered model   tiny--pair--tr" not in output
    assert f"registered model   claims--experiment-{experiment_id(stored.client, 'small')}" in output
    assert str(checkpoint("tiny kind/en 17")) in output
    assert "in all             2 versions, 2 registered models, 2 logged models, 5 runs" in output
    assert "-P study=small -P dry_run=false -P confirm=small" in output


@pytest.mark.parametrize("confirm", ["", "smal", "other"])
def test_nothing_goes_without_the_last_word(stored, command, confirm: str) -> None:
    before = rows(stored)
    code, _, errors = command("forget", "--study", "small", *SURE, confirm)
    assert code == 2
    assert "nothing was erased" in errors
    assert rows(stored) == before


def test_a_study_is_erased_without_a_trace_and_the_other_stays(stored, command) -> None:
    ours = stored.runs("small") | {stored.adapters[key].model_id for key in ("a", "b")}
    theirs, files = stored.runs("other"), stored.files("other")
    cache = cache_folder(cache_root(), stored.client.tracking_uri, experiment_id(stored.client, "small"))
    cache.mkdir(parents=True)
    (cache / "runs.parquet").write_bytes(b"copies")
    code, output, errors = command("forget", "--study", "small", *SURE, "small")
    assert (code, errors) == (0, "")
    assert "erased: small" in output
    assert stored.client.get_experiment_by_name("small") is None
    assert mentioning(stored, ours | {"small", "a report"}) == []
    assert (stored.runs("other"), stored.files("other")) == (theirs, files)
    assert stored.files() == files
    assert not (stored.folder / "mlartifacts" / "small").exists()
    assert stored.versions() == {"tiny--pair--tr/2"}
    assert stored.registered() == {"tiny--pair--tr"}
    assert not cache.exists()
    assert not checkpoint("tiny kind/en 17").exists()
    assert checkpoint("tiny pair/tr 42").exists()
    assert not list(stored.folder.glob(".forget*"))
    code, _, errors = command("forget", "--study", "small")
    assert code == 2
    assert "there is no study 'small'" in errors


def test_the_number_of_an_erased_version_is_not_given_again(stored, register, command) -> None:
    command("forget", "--study", "other", *SURE, "other")
    assert stored.versions() == {"tiny--kind--en/1", "tiny--pair--tr/1"}
    assert register(43, study="third").version == "3"


def test_what_another_experiment_refers_to_stays_with_its_files(stored, command) -> None:
    adapter = stored.adapters["a"]
    third = experiment_id(stored.client, "third")
    with recorded(stored.client, third, kind=Kind.EVALUATE, name="theirs", tags=adapter.tags) as recording:
        pass
    training = stored.client.get_model_version(adapter.name, adapter.version).run_id
    code, output, _ = command("forget", "--study", "small", *SURE, "small")
    assert code == 0
    assert f"stays              version {adapter.name}/1: run {recording.run_id} of 'third' refers to it" in output
    assert stored.versions() == {"tiny--kind--en/1", "tiny--pair--tr/2"}
    assert stored.client.get_model_version_by_alias(adapter.name, "champion").version == 1
    assert stored.runs("small") == {training}
    assert {name.split("/")[3] for name in stored.files("small")} == {adapter.model_id}
    assert checkpoint("tiny kind/en 17").exists()


def test_one_version_goes_with_its_training_and_evaluations(stored, command) -> None:
    adapter = stored.adapters["a"]
    before = stored.runs("small")
    code, output, _ = command("forget", "--name", adapter.name, "--version", "1")
    assert code == 0
    assert f"-P name={adapter.name} -P version=1 -P dry_run=false -P confirm={adapter.name}/1" in output
    code, _, _ = command("forget", "--name", adapter.name, "--version", "1", *SURE, f"{adapter.name}/1")
    assert code == 0
    assert stored.versions() == {"tiny--pair--tr/1", "tiny--pair--tr/2"}
    assert adapter.name not in stored.registered()
    assert len(before - stored.runs("small")) == 2
    assert not [name for name in stored.files("small") if adapter.model_id in name]
    assert [name for name in stored.files("small") if stored.adapters["b"].model_id in name]


def test_what_mlflow_deleted_and_collected_before_is_found(stored, command, monkeypatch) -> None:
    """`mlflow experiments delete` and `mlflow gc` leave every registered version and its files."""
    uri = stored.client.tracking_uri
    number = experiment_id(stored.client, "small")
    stored.client.delete_experiment(number)
    done = CliRunner().invoke(cli, ["gc", "--backend-store-uri", uri, "--experiment-ids", number])
    assert done.exit_code == 0, done.output
    assert "tiny--kind--en/1" in stored.versions()
    assert [name for name in stored.files("small") if name.endswith("adapter_model.safetensors")]
    code, output, _ = command("forget", "--study", "small", *SURE, "small")
    assert code == 0, output
    assert stored.versions() == {"tiny--pair--tr/2"}
    assert stored.files() == stored.files("other")


def test_files_outside_the_stores_folder_are_not_erased(stored, command, tmp_path) -> None:
    """A copied store names the files of the original."""
    original = tmp_path / "original"
    (stored.folder / "mlartifacts" / "small").rename(original)
    with closing(sqlite3.connect(stored.folder / "mlflow.db")) as database, database:
        place = (stored.folder / "mlartifacts" / "small").as_uri()
        database.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", (place, original.as_uri()))
        columns = (place, original.as_uri())
        database.execute("UPDATE logged_models SET artifact_location = replace(artifact_location, ?, ?)", columns)
    before = sorted(path for path in original.rglob("*"))
    code, output, _ = command("forget", "--study", "small", *SURE, "small")
    assert code == 0
    assert "it is not in the store's folder, and may be another store's" in output
    assert sorted(path for path in original.rglob("*")) == before


def test_a_study_that_is_running_is_not_erased(stored, command) -> None:
    experiment = experiment_id(stored.client, "small")
    before = stored.versions()
    with recorded(stored.client, experiment, kind=Kind.EVALUATE, name="now", tags={Tag.STUDY: "small"}):
        code, _, errors = command("forget", "--study", "small", *SURE, "small")
    assert code == 2
    assert "small: 1 under way" in errors
    assert stored.versions() == before


@pytest.mark.parametrize("given", [(), ("--study", "small", "--name", "x"), ("--name", "x")])
def test_what_is_to_be_erased_must_be_named(stored, command, given: tuple[str, ...]) -> None:
    code, _, errors = command("forget", *given)
    assert code == 2
    assert "name what to erase" in errors


def test_a_journal_of_files_that_are_recorded_again_is_not_followed(stored, command) -> None:
    """A stale list, of an erasure that was killed before any record went, never costs files that are kept since."""
    command("forget", "--study", "other", *SURE, "other")
    adapter = stored.adapters["a"]
    place = stored.client.get_logged_model(adapter.model_id).artifact_location
    Journal.of(stored.client.tracking_uri, Subject("other")).write([Files(adapter.model_id, place)])
    before = stored.files()
    code, _, _ = command("forget", "--study", "other", *SURE, "other")
    assert code == 0
    assert stored.files() == before
