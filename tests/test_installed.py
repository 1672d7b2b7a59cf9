"""The package installed into a fresh environment, used from other folders than the project's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import yaml

from registry.paths import PROJECT
from registry.runner.single import finetune_one, narrowed
from tests.mlflow_process import MlflowProcess

pytestmark = pytest.mark.slow

ROW = {"question": "Which word means a cat?", "options": ["cat", "dog"]}

LOAD = """
import json, sys, mlflow, pandas, registry
mlflow.set_tracking_uri(sys.argv[1])
found = mlflow.pyfunc.load_model(sys.argv[2]).predict(pandas.DataFrame([json.loads(sys.argv[3])]))
print(registry.__file__)
print(json.dumps(found.to_dict("records")[0]))
"""


@dataclass(frozen=True)
class Installation:
    """An environment with the package, and where it is: what pip put there is all of this project that it has."""

    folder: Path

    @property
    def site(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def run(self, script: str, *arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the environment in a folder, with nothing that names this checkout."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
        command = [str(self.folder / "bin" / script), *arguments]
        return subprocess.run(
            command, cwd=folder, env=kept | variables, capture_output=True, text=True, timeout=300, check=False
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installation:
    """A fresh environment with the project's wheel, and with this one's packages, which have to be what it declares."""
    source, wheels, folder = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "environment"))
    for part in ("registry", "analysis", "entrypoints"):
        shutil.copytree(PROJECT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(PROJECT / name, source / name)
    pip = [sys.executable, "-m", "pip"]
    wheel = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source]
    subprocess.run([*pip, *wheel], check=True, capture_output=True)
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    made = Installation(folder)
    (made.site / "pinned.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    install = ["--python", folder / "bin" / "python", "install", "--quiet", "--no-index", *wheels.glob("*.whl")]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def registered(new_store, small_study) -> Iterator[tuple[str, str]]:
    """A store and the address of an adapter in it, trained on a base that comes with the package."""
    with pytest.MonkeyPatch.context() as patch:
        uri = new_store()
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        chosen = narrowed(small_study(), model="demo-deep", task="kind", language="en", seed=17)
        yield uri, finetune_one(chosen).uri
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def test_it_loads_and_is_served_in_any_folder(
    registered: tuple[str, str], installed: Installation, tmp_path: Path
) -> None:
    uri, model = registered
    done = installed.run("python", "-c", LOAD, uri, model, json.dumps(ROW), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    where, answer = done.stdout.strip().splitlines()
    assert where == str(installed.site / "registry" / "__init__.py")
    arguments = ["models", "serve", "-m", model, "--env-manager", "local"]
    own = {"PYTHONPATH": str(installed.site), "MLFLOW_TRACKING_URI": uri}
    with MlflowProcess(arguments, tmp_path / "log", ping="ping", environment=own, folder=tmp_path) as server:
        body = json.dumps({"dataframe_records": [ROW]}).encode()
        request = urllib.request.Request(f"{server.address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            (served,) = json.load(response)["predictions"]
    assert served["choice"] == json.loads(answer)["choice"]
    assert served["loglikelihoods"] == pytest.approx(json.loads(answer)["loglikelihoods"], abs=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"log"}


def test_donors_plans_the_demo_from_an_empty_folder(installed: Installation, tmp_path: Path) -> None:
    shown = installed.run("donors", "--help", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "  study  " in shown.stdout
    done = installed.run("donors", "study", "demo", "--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "= 128 fine-tunes" in done.stdout
    assert f"store         sqlite:///{tmp_path}/mlflow.db" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_everything_is_recorded_in_the_working_folder_and_nothing_with_the_package(
    installed: Installation, tmp_path: Path
) -> None:
    before = {path for path in installed.site.rglob("*") if "__pycache__" not in path.parts}
    done = installed.run("donors", "finetune", "demo", "--task", "kind", "--language", "en", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "registered: models:/demo-wide--kind--en/1" in done.stdout
    assert "donors evaluate --study demo --model demo-wide --task kind --language en --seed 17" in done.stdout
    assert "demo-wide--kind--en/1  demo-wide" in installed.run("donors", "list", "adapters", folder=tmp_path).stdout
    examined = installed.run("donors", "doctor", folder=tmp_path)
    assert examined.returncode == 0, examined.stdout + examined.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlartifacts"}
    (environment,) = tmp_path.rglob("conda.yaml")
    pins = yaml.safe_load(environment.read_text(encoding="utf-8"))["dependencies"][-1]["pip"]
    assert pins == yaml.safe_load((PROJECT / "conda.yaml").read_text(encoding="utf-8"))["dependencies"][-1]["pip"]
    assert {path for path in installed.site.rglob("*") if "__pycache__" not in path.parts} == before
