"""Where the user stands: found through `mlflow run`, taken for relative paths, and for the lines to paste."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from entrypoints import caller
from entrypoints.caller import _address, project_address, runnable_here
from registry.paths import PROJECT, resolved_path
from registry.tracking.store import all_runs, experiment_id, open_store, sqlite_uri

#: What `mlflow run` does: starts a shell in the project's folder with a run's id in its environment.
LAUNCH = """
import os, subprocess, sys
child = "from entrypoints.caller import find_launcher; print(find_launcher())"
environment = os.environ | {"MLFLOW_RUN_ID": "f" * 32, "MLFLOW_TRACKING_URI": sys.argv[2]}
command = f"'{sys.executable}' -c '{child}' && true"
done = subprocess.run(["bash", "-c", command], cwd=sys.argv[1], env=environment, capture_output=True, text=True)
print(done.stdout + done.stderr)
"""

STUDY = """\
name: small
benchmark: demo
tasks: [kind]
languages: [en]
models: [demo-deep]
seeds: [17]
split: {train: 8, test: 8}
recipe: {epochs: 1, batch_size: 4, learning_rate: 5.0e-2, validation: 0, lora: {rank: 4, alpha: 8}}
"""


@pytest.mark.parametrize("named", [False, True])
def test_the_caller_of_mlflow_run_is_found(tmp_path: Path, monkeypatch, named: bool) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    environment = os.environ | ({"MLFLOW_TRACKING_URI": "http://server:5000"} if named else {})
    command = [sys.executable, "-c", LAUNCH, str(PROJECT), "http://server:5000"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f"folder={tmp_path!r}" in done.stdout, done.stdout + done.stderr
    assert f"chose_store={named}" in done.stdout


def test_a_command_without_mlflow_run_stays_where_it_is(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    caller.enter_caller_folder()
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("python /bin/mlflow run . -e study", "."),
        ("mlflow run -e study -P seed=3 https://host/owner/name#sub -P a=b", "'https://host/owner/name#sub'"),
        ("python -m mlflow run git@host:owner/name.git --version main", "git@host:owner/name.git -v main"),
        ("/opt/bin/mlflow run --env-manager=local ../the_project", "../the_project"),
        ("python run.py project", ""),
        ("python -m notebook", ""),
    ],
)
def test_the_project_is_read_from_a_command_line(line: str, address: str) -> None:
    assert _address(line.split()) == address


def test_lines_to_paste_name_the_project_where_the_user_stands(monkeypatch, tmp_path: Path) -> None:
    line = "next: mlflow run . -e analyze --env-manager local; or python -m entrypoints.doctor"
    monkeypatch.setattr(caller, "_launcher", None)
    monkeypatch.chdir(PROJECT)
    assert runnable_here(line) == line
    monkeypatch.chdir(tmp_path)
    place = shlex.quote(str(PROJECT))
    assert project_address() == place
    assert runnable_here(line).startswith(f"next: mlflow run {place} -e analyze --env-manager local; or ")
    assert runnable_here(line).endswith(f"mlflow run {place} -e doctor --env-manager local")
    monkeypatch.setattr(caller, "_launcher", caller.Launcher(tmp_path, "https://host/owner/name"))
    assert "mlflow run https://host/owner/name -e analyze" in runnable_here(line)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "mlflow run . -e study --env-manager local -P study=demo -P dry_run=true",
            "donors study --study demo --dry-run true",
        ),
        ("see python -m entrypoints.import_results --help", "see donors import --help"),
        ("name another folder: -P output=<folder>", "name another folder: --output <folder>"),
        ("mlflow ui --backend-store-uri x -P", "mlflow ui --backend-store-uri x -P"),
    ],
)
def test_lines_to_paste_are_commands_of_donors_for_who_called_it(monkeypatch, line: str, shown: str) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/donors", "study"])
    assert runnable_here(line) == shown


def test_a_relative_path_of_a_study_is_found_in_the_project_or_with_the_caller(monkeypatch, tmp_path, caplog) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "data 100%").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolved_path("registry/studies") == PROJECT / "registry" / "studies"
    assert resolved_path("data 100%") == tmp_path / "data 100%"
    assert resolved_path(str(tmp_path / "data 100%")) == tmp_path / "data 100%"
    assert caplog.text == ""
    resolved_path("registry")
    assert f"{PROJECT}/registry is read, and {tmp_path}/registry is not" in caplog.text


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    """The project as an archive, which `mlflow run` unpacks into a temporary folder, as it clones a repository."""
    archive = tmp_path / "project.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for part in ("MLproject", "conda.yaml", "pyproject.toml", "registry", "analysis", "entrypoints"):
            for path in sorted((PROJECT / part).rglob("*")) or [PROJECT / part]:
                if path.is_file() and "__pycache__" not in path.parts:
                    content.write(path, path.relative_to(PROJECT))
    return archive


@pytest.mark.slow
def test_everything_lands_where_mlflow_run_was_called(fetched: Path, tmp_path: Path) -> None:
    here, programs = tmp_path / "a b%20c?d#e é 100%", Path(sys.executable).parent
    here.mkdir()
    (here / "my.yaml").write_text(STUDY, encoding="utf-8")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    }
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"

    def run(entry_point: str, *parameters: str) -> str:
        given = [word for parameter in parameters for word in ("-P", parameter)]
        command = [programs / "mlflow", "run", fetched, "-e", entry_point, "--env-manager", "local", *given]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"called from {here}" in done.stderr
        return done.stdout

    output = run("study", "study=my.yaml", "workers=1", "output=plan")
    assert "2 jobs done, 0 failed" in output
    assert f"mlflow run {fetched} -e analyze" in output
    assert (here / "plan" / "study.yaml").is_file()
    run("analyze", "study=my.yaml", "mixed_models=false")
    assert (here / "reports" / "small" / "report.html").is_file()
    run("pull", "model=demo-deep", "task=kind", "language=en")
    assert (here / "adapters" / "demo-deep--kind--en" / "1" / "adapter_model.safetensors").is_file()
    client = open_store(sqlite_uri(here / "mlflow.db"))
    assert len(all_runs(client, [experiment_id(client, "small")], "tags.kind = 'finetune'")) == 1
    assert {path.name for path in here.iterdir()} >= {"mlflow.db", "mlartifacts", "reports", "adapters", "plan"}
    assert not (PROJECT / "adapters" / "demo-deep--kind--en").exists()
