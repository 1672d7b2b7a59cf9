"""What moves aliases and ranks adapters, against a tracking server with proxied artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.cells import Cell
from tests.deploy.conftest import logits
from tests.deploy.planted import CHANGES, Recorded
from tests.mlflow_process import MlflowProcess

pytestmark = pytest.mark.slow


@pytest.fixture
def uri(new_store, tmp_path_factory, monkeypatch) -> Iterator[str]:
    """An empty store behind a server of one process, which MLFLOW_TRACKING_URI names."""
    folder = tmp_path_factory.mktemp("server")
    stores = ["--backend-store-uri", new_store(), "--artifacts-destination", str(folder / "artifacts")]
    with MlflowProcess(["server", *stores, "--workers", "1"], folder / "log") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        yield server.address
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def test_judged_promoted_recommended_pulled_and_demoted(study: Recorded, command, base: Path, tmp_path: Path) -> None:
    baseline, policy = study.baseline(), study.policy()
    adapter = study.adapter(baseline)
    worse = study.adapter(baseline, CHANGES | {"kind/tr": (1, 1)}, source=Cell("pair", "tr"))

    code, output, errors = command("promote", "--study", policy, "--name", worse.name)
    assert (code, study.aliases(worse)) == (1, {}), errors
    assert "kind/tr" in output
    code, output, errors = command("promote", "--study", policy, "--name", adapter.name)
    assert (code, study.aliases(adapter)) == (0, {"champion": "1"}), errors
    assert {run.data.params["version"] for run in study.promotions() if "version" in run.data.params} <= {"1"}

    code, output, errors = command("recommend", "--study", "small", "--want", "kind/tr")
    assert code == 0, errors
    assert output.index(f"{adapter.name}/1") < output.index(f"{worse.name}/1")

    asked = ["--name", adapter.name, "--version", "champion", "--output", tmp_path / "adapter"]
    code, _, errors = command("pull", *asked)
    assert code == 0, errors
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert not logits(PeftModel.from_pretrained(plain, tmp_path / "adapter")).equal(
        logits(AutoModelForCausalLM.from_pretrained(base))
    )

    code, output, errors = command("promote", "--study", policy, "--name", adapter.name, "--demote", "true")
    assert (code, study.aliases(adapter)) == (0, {}), errors
