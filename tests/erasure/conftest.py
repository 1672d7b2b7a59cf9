"""Two studies with registered adapters and evaluations, and what a whole store holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.cells import Cell
from registry.paths import checkpoint
from registry.tracking.adapters import RegisteredAdapter
from registry.tracking.claims import Claims
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded
from registry.tracking.store import all_runs, experiment_id
from tests.deploy.conftest import evaluate, make_adapter, register  # noqa: F401  # fixtures

EN, TR = Cell("kind", "en"), Cell("pair", "tr")
DELTAS = {"kind/en": 3.0, "pair/tr": -1.0}


@dataclass(frozen=True)
class Stored:
    """Two studies: ``small`` with two adapters, one of them of a name that ``other`` has a version of too."""

    client: MlflowClient
    adapters: dict[str, RegisteredAdapter]
    cache: Path

    @property
    def folder(self) -> Path:
        return Path(self.client.tracking_uri.removeprefix("sqlite:///")).parent

    def runs(self, study: str) -> set[str]:
        return {run.info.run_id for run in all_runs(self.client, [experiment_id(self.client, study)], "")}

    def files(self, study: str = "") -> list[str]:
        place = self.folder / "mlartifacts" / study
        return sorted(path.relative_to(self.folder).as_posix() for path in place.rglob("*") if path.is_file())

    def versions(self) -> set[str]:
        return {f"{one.name}/{one.version}" for one in self.client.search_model_versions("")}

    def registered(self) -> set[str]:
        return {one.name for one in self.client.search_registered_models(max_results=1000)}


@pytest.fixture
def fill(register, evaluate, tmp_path, monkeypatch) -> Callable[[MlflowClient], Stored]:  # noqa: F811
    """Fill the empty store."""

    def fill(client: MlflowClient) -> Stored:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        adapters = {
            "a": register(17, source=EN),
            "b": register(17, source=TR),
            "other": register(42, source=TR, study="other"),
        }
        for adapter in adapters.values():
            evaluate(adapter, DELTAS)
        experiment = experiment_id(client, "small")
        with recorded(client, experiment, kind=Kind.ANALYZE, name="analyze", tags={Tag.STUDY: "small"}) as recording:
            with recording.folder() as folder:
                (folder / "report.html").write_text("a report")
            recording.metrics({"mean/MT-ML": 1.0})
        claim = Claims(client, experiment).take("a fingerprint")
        assert claim is not None
        claim.release()
        for fingerprint in ("tiny kind/en 17", "tiny pair/tr 42"):
            checkpoint(fingerprint).parent.mkdir(parents=True, exist_ok=True)
            checkpoint(fingerprint).write_bytes(b"state")
        client.set_registered_model_alias(adapters["a"].name, "champion", adapters["a"].version)
        return Stored(client, adapters, tmp_path / "cache")

    return fill


@pytest.fixture
def stored(client, fill) -> Stored:
    """Two studies in a SQLite store."""
    return fill(client)
