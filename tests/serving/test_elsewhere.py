"""A registered adapter in another folder, with the package installed and the project's folder out of sight."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

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


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package as ``pip install`` puts it into an environment, made from the project's files alone."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for part in ("registry", "analysis", "entrypoints"):
        shutil.copytree(PROJECT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(PROJECT / name, source / name)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site]
    subprocess.run([*command, source], check=True, capture_output=True)
    shutil.rmtree(source)
    return site


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


def test_it_loads_and_is_served_in_any_folder(registered: tuple[str, str], installed: Path, tmp_path: Path) -> None:
    uri, model = registered
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", LOAD, uri, model, json.dumps(ROW)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    where, answer = done.stdout.strip().splitlines()
    assert where == str(installed / "registry" / "__init__.py")
    arguments = ["models", "serve", "-m", model, "--env-manager", "local"]
    own = {"PYTHONPATH": str(installed), "MLFLOW_TRACKING_URI": uri}
    with MlflowProcess(arguments, tmp_path / "log", ping="ping", environment=own, folder=tmp_path) as server:
        body = json.dumps({"dataframe_records": [ROW]}).encode()
        request = urllib.request.Request(f"{server.address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            (served,) = json.load(response)["predictions"]
    assert served["choice"] == json.loads(answer)["choice"]
    assert served["loglikelihoods"] == pytest.approx(json.loads(answer)["loglikelihoods"], abs=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"log"}
