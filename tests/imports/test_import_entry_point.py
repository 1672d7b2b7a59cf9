"""The `import` entry point: what a user types, and what is answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.reading.frame import load
from registry.imports import study_name
from registry.paths import PROJECT
from registry.tracking.duplicates import ConflictError
from registry.tracking.names import Artifact, Kind, Tag


@pytest.fixture
def file(tmp_path: Path, small_table) -> Path:
    path = tmp_path / "my cells.csv"
    table = small_table()
    mmlu = (table["eval_dataset"] == "global_mmlu") & (table["model_name"] == table["model_name"].iloc[0])
    for name in ("", "norm_"):
        moved = table.loc[mmlu, f"score_{name}mean"] - table.loc[mmlu, f"score_{name}base_mean"]
        table.loc[mmlu, f"score_{name}base_mean"] = 0.15
        table.loc[mmlu, f"score_{name}mean"] = 0.15 + moved
    table.to_csv(path, index=False)
    return path


def test_it_says_where_the_study_is_and_what_to_run_next(command, client, file: Path, tmp_path: Path) -> None:
    code, output, errors = command("import", "--source", file, "--study", "theirs", "--output", tmp_path / "out")
    assert code == 0
    lines = output.splitlines()
    assert lines[0] == "imported: 32 cells of 2 models: 4 sources on 4 targets, 8 baselines"
    assert lines[-1] == "next:    mlflow run . -e analyze --env-manager local -P study=theirs"
    assert any(line.startswith("look:") for line in lines)
    assert "2 of 8 baselines are below chance (exact one-sided tests, q ≤ 0.05)" in errors
    assert len(errors.splitlines()) == 1
    assert len(pd.read_parquet(tmp_path / "out" / Artifact.OBSERVATIONS)) == 32
    experiment = client.get_experiment_by_name("theirs")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags[Tag.KIND] == Kind.IMPORT
    assert run.info.run_id in output
    again = command("import", "--source", file, "--study", "theirs")
    assert again[0] == 0
    assert again[1].startswith("already imported: ")
    assert run.info.run_id in again[1]


def test_the_study_is_named_after_its_source(tmp_path: Path) -> None:
    folder = tmp_path / "arc.v2"
    folder.mkdir()
    assert study_name("", tmp_path / "cells.csv") == "cells"
    assert study_name("", folder) == "arc.v2"
    assert study_name("", folder / "manifest.yaml") == "arc.v2"
    assert study_name("mine", folder) == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "source is missing"),
        (("--source", "nowhere.csv"), "source='nowhere.csv' is not there"),
        (("--source", "FILE"), "'s name is letters"),
        (("--source", "FILE", "--study", "a/b"), "study='a/b' is not usable"),
        (("--source", "FILE", "--study", "<b>"), "study='<b>' is not usable"),
        (("--source", "FILE", "--study", "s", "--format", "lmeval"), "no format 'lmeval'; nearest: lm_eval"),
        (("--source", "FILE", "--study", "s", "--families", "one"), "families: 'one' is not usable"),
        (("--source", "FOLDER", "--study", "s"), "holds no manifest.yaml"),
        (("--source", "FOLDER", "--study", "s", "--format", "published"), "is a folder; format=published reads one"),
        (("--source", "FILE", "--study", "s", "--format", "lm_eval"), "there is no key 'model_name'"),
    ],
)
def test_a_mistake_is_answered_before_the_store_is_touched(
    command, monkeypatch, file: Path, tmp_path: Path, arguments, told: str
) -> None:
    store, folder = tmp_path / "nothing" / "mlflow.db", tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    code, output, errors = command("import", *({"FILE": file, "FOLDER": folder}.get(part, part) for part in arguments))
    assert (code, output) == (2, "")
    assert told in errors
    assert "Traceback" not in errors
    assert not store.exists()


LIGHT = """
import sys
import entrypoints.import_results
assert not {"torch", "transformers", "mlflow", "pandas"} & set(sys.modules)
import registry.imports
assert not {"torch", "transformers", "peft"} & set(sys.modules), sorted(sys.modules)
"""


def test_importing_does_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_import_takes_the_name_of_a_file(command, client, tmp_path: Path, small_table) -> None:
    small_table().to_csv(tmp_path / "cells.csv", index=False)
    (tmp_path / "theirs.yaml").write_text("extends: demo\nname: published\n", encoding="utf-8")
    code, output, _ = command("import", "--source", tmp_path / "cells.csv", "--study", tmp_path / "theirs.yaml")
    assert code == 0
    assert "in experiment 'published' of" in output


def test_of_imports_of_one_file_the_first_counts_and_another_result_is_a_conflict(command, client, file, tmp_path):
    assert command("import", "--source", file, "--study", "theirs")[0] == 0
    experiment = client.get_experiment_by_name("theirs").experiment_id
    (first,) = client.search_runs([experiment])
    expected = load(client, "theirs").observations

    def record_twin(table: pd.DataFrame) -> str:
        twin = client.create_run(experiment, tags=first.data.tags).info.run_id
        for name in (Artifact.BASELINES, Artifact.ABOUT):
            client.log_artifact(twin, client.download_artifacts(first.info.run_id, name, str(tmp_path)))
        table.to_parquet(tmp_path / Artifact.OBSERVATIONS, index=False)
        client.log_artifact(twin, str(tmp_path / Artifact.OBSERVATIONS))
        client.set_terminated(twin)
        return twin

    stored = pd.read_parquet(client.download_artifacts(first.info.run_id, Artifact.OBSERVATIONS, str(tmp_path)))
    record_twin(stored)
    pd.testing.assert_frame_equal(load(client, "theirs").observations, expected)
    invented = record_twin(stored.assign(delta=stored["delta"] + 48))
    with pytest.raises(ConflictError, match=f"import runs {first.info.run_id} and {invented} share a fingerprint"):
        load(client, "theirs")
