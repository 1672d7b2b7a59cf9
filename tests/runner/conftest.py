"""A study that was run to its end, and how to look at what a store holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from registry.config.study import Study
from registry.paths import PROJECT
from registry.planning.experiment import Experiment, prepare
from registry.runner.session import prospect, run_study
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import finished_by_fingerprint
from registry.tracking.store import all_runs, experiment_id, open_store


@dataclass(frozen=True)
class Records:
    """What a store holds of a study."""

    uri: str
    study: Study

    @property
    def client(self) -> MlflowClient:
        return open_store(self.uri)

    @property
    def experiment(self) -> Experiment:
        return prepare(self.study)

    @property
    def folder(self) -> Path:
        """Where artifacts are."""
        return Path(self.uri.removeprefix("sqlite:///")).parent / "mlartifacts"

    def runs(self, kind: Kind | None = None, status: str | None = None) -> list[Run]:
        found = all_runs(self.client, [experiment_id(self.client, self.study.name)], "")
        return [run for run in found if kind in (None, run.data.tags[Tag.KIND]) and status in (None, run.info.status)]

    def finished(self, kind: Kind) -> dict[str, Run]:
        return finished_by_fingerprint(self.client, experiment_id(self.client, self.study.name), kind)

    def results(self) -> dict[tuple[str, str], object]:
        """All that must be the same whenever and however a study was run: metrics but for times, adapters' digests."""
        found: dict[tuple[str, str], object] = {}
        for kind in (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE):
            for fingerprint, run in self.finished(kind).items():
                taken = ("seconds/", "tokens_per_second/", "tflop_per_second/", "peak_memory_gb/")
                metrics = {key: value for key, value in run.data.metrics.items() if not key.startswith(taken)}
                found[kind, fingerprint] = metrics, self.digest(run)
        return found

    def digest(self, run: Run) -> str | None:
        """Digest of the adapter a run made or scored."""
        name, _, version = run.data.tags.get(Tag.MODEL_VERSION, "").rpartition("/")
        return self.client.get_model_version(name, version).tags[Tag.DIGEST] if name else None

    def assert_complete(self, *, duplicates: bool = False) -> None:
        """Every run of the study is there, FINISHED, and none is left RUNNING."""
        assert not self.runs(status="RUNNING")
        jobs = self.experiment.jobs()
        wanted = {
            Kind.BASELINE: {job.evaluate for job in jobs if job.source is None},
            Kind.FINETUNE: {job.finetune for job in jobs if job.source is not None},
            Kind.EVALUATE: {job.evaluate for job in jobs if job.source is not None},
        }
        for kind, fingerprints in wanted.items():
            assert set(self.finished(kind)) == fingerprints
            if not duplicates:
                assert len(self.runs(kind, "FINISHED")) == len(fingerprints)


@pytest.fixture(scope="session")
def finished(new_store, small_study) -> Records:
    """The small study, run in this process without any disturbance; nothing may write to it."""
    records = Records(new_store(), small_study())
    run_in_process(records)
    return records


def run_in_process(records: Records, *, workers: int = 1) -> list[object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", records.uri)
        return run_study(prospect(records.study, workers=workers))


@pytest.fixture
def records_of(uri) -> Callable[[Study], Records]:
    """Any study, with an empty store."""
    return partial(Records, uri)


@pytest.fixture
def records(uri, small_study) -> Records:
    """The small study with an empty store."""
    return Records(uri, small_study())


@pytest.fixture
def few_records(uri, small_study) -> Records:
    """Two source cells and one seed of the small study, with an empty store."""
    return Records(uri, small_study(("seeds: [17, 42]", "seeds: [17]\nsources: [kind/en, pair/tr]")))


@pytest.fixture(scope="session")
def rerun() -> Callable[..., list[object]]:
    """Run what a study has left in this process, or with workers started from it; returns the failures."""
    return run_in_process


@pytest.fixture
def start_study(study_file) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `python -m entrypoints.study` on the small study in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(uri: str, *more: str, workers: int) -> subprocess.Popen[str]:
        study = ["--study", str(study_file()), "--workers", str(workers)]
        process = subprocess.Popen(
            [sys.executable, "-m", "entrypoints.study", *study, *more],
            cwd=PROJECT,
            env=os.environ | {"MLFLOW_TRACKING_URI": uri},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
