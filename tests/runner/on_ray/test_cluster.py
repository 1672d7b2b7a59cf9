"""What is refused before anything is started on a Ray cluster; Ray itself is not needed for these."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from mlflow.entities import Run

from entrypoints import study
from registry.errors import Refused
from registry.runner.on_ray import cluster as ray_cluster
from registry.runner.on_ray.cluster import OnRay, judge, require_ray, unreachable
from registry.runner.on_ray.worker import NodeReport, examine, jobs_digest
from registry.tracking.claims import Claims, drop_claims
from registry.tracking.liveness import end_runs_of, worker_identity
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded

HERE = socket.gethostname()


class Store:
    """A store at an address, with its artifacts somewhere."""

    def __init__(self, uri: str, artifacts: str) -> None:
        self.tracking_uri, self.artifact_location = uri, artifacts

    def get_experiment(self, _: str) -> Store:
        return self


@pytest.mark.parametrize(
    ("uri", "artifacts", "told"),
    [
        ("sqlite:////srv/mlflow.db", "file:///srv/mlartifacts", "of this machine alone, and far cannot reach it"),
        ("http://localhost:5000", "mlflow-artifacts:/1", "of this machine alone, and far cannot reach it"),
        ("postgresql://me:secret@db/mlflow", "/srv/artifacts", "a folder that far cannot write to"),
        ("https://mlflow.example.org", "mlflow-artifacts:/1", ""),
        ("postgresql://me:secret@db/mlflow", "s3://bucket/1", ""),
    ],
)
def test_a_store_that_other_machines_cannot_reach_is_told(uri: str, artifacts: str, told: str) -> None:
    store = Store(uri, artifacts)
    assert unreachable(store, "1", [HERE, HERE]) == [], "nodes on one machine share its files"
    found = unreachable(store, "1", [HERE, "far"])
    assert len(found) == bool(told)
    assert told in "".join(found)
    assert "secret" not in "".join(found)


def test_what_a_node_lacks_is_told_with_its_name(small_study, tmp_path: Path, base: Path) -> None:
    study, gone = small_study(), str(tmp_path / "gone")
    here = examine(study, [str(base)], {})
    assert judge(here, here, here.digest) == []
    assert judge(examine(study, [str(base), gone], {}), here, here.digest) == [
        f"node {HERE} does not have {gone}; copy it there, or share the folder"
    ]
    other = NodeReport("far", {**here.versions, "peft": "0.1", "torch": ""})
    (told,) = judge(other, here, here.digest)
    assert f"node far: torch is not installed there and {here.versions['torch']} here, peft is 0.1 there" in told


def test_a_node_that_would_compute_something_else_is_told(small_study, few_records) -> None:
    here = examine(small_study(), [], {})
    assert here.digest != jobs_digest(few_records.experiment.jobs())
    (told,) = judge(here, here, jobs_digest(few_records.experiment.jobs()))
    assert "would compute something else" in told


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_gpus_are_whole_or_shared(share: float) -> None:
    with pytest.raises(Refused, match="give a whole number, or a share between 0 and 1"):
        OnRay(gpus_per_worker=share)


def test_rays_client_is_refused_also_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(Refused, match="run the study on a node of the cluster"):
        OnRay()
    assert OnRay("head:6379").cluster == "head:6379"


def test_without_ray_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"python -m pip install -e '\.\[ray\]'"):
        require_ray()


def test_secrets_do_not_go_into_what_a_cluster_shows(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hush@db/mlflow")
    monkeypatch.setenv("HF_TOKEN", "hush")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shown, kept = (ray_cluster._environment(secret=secret) for secret in (False, True))
    assert "hush" not in "".join(shown.values())
    assert shown["HF_HUB_OFFLINE"] == "1"
    assert shown["OMP_NUM_THREADS"] == "1"
    assert {"MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_URI", "HF_TOKEN"} <= set(kept)


def test_what_a_lost_worker_held_is_free_at_once(client) -> None:
    experiment = client.create_experiment("lost")
    claims, others = Claims(client, experiment), Claims(client, experiment)
    claim, kept = claims.take("a"), claims.take("b")
    assert claim and kept
    client.set_model_version_tag(f"claims--experiment-{experiment}", str(claim.number), Tag.WORKER, "far:1-1")
    assert others.is_taken("a"), "a worker of another machine is silent for a while before it is dead"
    run: Run | None = None
    with pytest.raises(KeyError), recorded(client, experiment, kind=Kind.FINETUNE, name="x", tags={}) as recording:
        client.set_tag(recording.run_id, Tag.WORKER, "far:1-1")
        end_runs_of(client, experiment, {"far:1-1"})
        run = client.get_run(recording.run_id)
        raise KeyError
    assert run is not None
    assert run.info.status == "KILLED"
    drop_claims(client, experiment, {"far:1-1"})
    assert not others.is_taken("a")
    assert others.is_taken("b")
    assert others.take("a")
    assert worker_identity() != "far:1-1"


def test_a_runner_that_does_not_exist_is_told_with_those_that_do() -> None:
    assert study._on_ray("local", "", 1.0) is None
    with pytest.raises(Refused, match="there is no runner 'rya'; nearest: ray"):
        study._on_ray("rya", "", 1.0)
