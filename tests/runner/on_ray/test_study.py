"""A Ray cluster on this machine, its nodes killed, added and removed: results are those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import psutil
import pytest
from mlflow.entities import Run

from registry.config.files import load_study
from registry.errors import Refused
from registry.runner.on_ray.cluster import OnRay
from registry.runner.session import prospect, run_study
from registry.tracking.claims import claims_model
from registry.tracking.names import Kind, Tag
from registry.tracking.store import experiment_id

ray = pytest.importorskip("ray", reason="python -m pip install -e '.[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.slow

PATIENCE = 120.0
SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Cluster]:
    """A head that only keeps the books, so that every node with a worker may be lost."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    yield started
    started.shutdown()


def add_node(cluster: Cluster) -> object:
    return cluster.add_node(num_cpus=1, **SMALL)


def run_on(cluster: Cluster, records, *, workers: int = 0) -> None:
    ready = prospect(records.study, workers=workers, on_ray=OnRay(cluster.address))
    assert run_study(ready) == []


def assert_as_undisturbed(records, finished) -> None:
    records.assert_complete()
    assert records.results() == finished.results()
    identity = experiment_id(records.client, records.study.name)
    assert not records.client.search_model_versions(f"name = '{claims_model(identity)}'"), "a claim was left"
    (study,) = records.runs(Kind.STUDY)
    assert study.data.params["runner"] == "ray"


def wait_for(condition: Callable[[], list[Run]]) -> Run:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found[0]


def process_of(run: Run) -> psutil.Process:
    return psutil.Process(int(run.data.tags[Tag.WORKER].rpartition(":")[2].partition("-")[0]))


def stop(process: psutil.Process, store: str) -> None:
    """Stop a process, though not while it has the store's lock."""
    file = store.removeprefix("sqlite:///")
    while True:
        process.suspend()
        database = sqlite3.connect(file, timeout=0.2, isolation_level=None)
        with closing(database), suppress(sqlite3.OperationalError):
            database.execute("BEGIN IMMEDIATE")
            return
        process.resume()
        time.sleep(0.05)


def meanwhile(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_two_nodes_do_a_study(cluster, records, finished) -> None:
    for _ in range(2):
        add_node(cluster)
    run_on(cluster, records)
    assert_as_undisturbed(records, finished)
    assert len({run.data.tags[Tag.WORKER] for run in records.runs(Kind.EVALUATE)}) == 2


def test_two_nodes_do_the_demos_grid(cluster, records_of) -> None:
    for _ in range(2):
        add_node(cluster)
    records = records_of(load_study("demo", seeds=(17,)))
    run_on(cluster, records)
    records.assert_complete()
    assert len(records.finished(Kind.EVALUATE)) == 64
    shares = Counter(run.data.tags[Tag.WORKER] for run in records.runs(Kind.EVALUATE))
    assert len(shares) == 2
    assert min(shares.values()) > 16


@pytest.mark.parametrize("whom", ["worker", "node"])
def test_what_is_killed_with_9_costs_no_result(cluster, records, finished, whom: str) -> None:
    for _ in range(2):
        add_node(cluster)
    killed: list[str] = []

    def hunt() -> None:
        run = wait_for(lambda: records.runs(Kind.EVALUATE, "RUNNING"))
        worker = process_of(run)
        victim = worker.parent() if whom == "node" else worker
        assert victim is not None
        assert ("raylet" in victim.name()) == (whom == "node")
        os.kill(victim.pid, signal.SIGKILL)
        killed.append(run.info.run_id)

    hunter = meanwhile(hunt)
    run_on(cluster, records)
    hunter.join(timeout=PATIENCE)
    assert killed
    assert_as_undisturbed(records, finished)


def test_a_node_joins_and_another_leaves(cluster, records, finished, start_study) -> None:
    """The first node's worker is stopped in its first evaluation, so that there is work for the one that joins."""
    first = add_node(cluster)
    process = start_study(records.uri, "--runner", "ray", "--ray-address", cluster.address, workers=0)
    run = wait_for(lambda: records.runs(Kind.EVALUATE, "RUNNING"))
    worker = process_of(run)
    stop(worker, records.uri)
    add_node(cluster)
    stopped = run.data.tags[Tag.WORKER]
    wait_for(lambda: [one for one in records.runs(Kind.EVALUATE, "FINISHED") if one.data.tags[Tag.WORKER] != stopped])
    cluster.remove_node(first, allow_graceful=False)
    began = time.monotonic()
    output, _ = process.communicate(timeout=PATIENCE)
    with suppress(psutil.NoSuchProcess):
        worker.kill()  # while it stands still, it does not hear that its node is gone
    assert process.returncode == 0, output
    assert time.monotonic() - began < 60, "what the lost worker held was waited for as for a machine that is silent"
    assert_as_undisturbed(records, finished)


def test_a_study_that_is_terminated_leaves_nothing_running(cluster, records, finished, start_study, rerun) -> None:
    add_node(cluster)
    process = start_study(records.uri, "--runner", "ray", "--ray-address", cluster.address, workers=0)
    wait_for(lambda: records.runs(Kind.EVALUATE, "RUNNING"))
    process.terminate()
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, output
    assert not records.runs(status="RUNNING")
    assert [run.info.status for run in records.runs(Kind.STUDY)] == ["KILLED"]
    assert rerun(records) == []
    records.assert_complete()
    assert records.results() == finished.results()


def test_the_command_itself_is_killed_with_9_and_given_again(cluster, records, finished, start_study) -> None:
    add_node(cluster)
    on_ray = ("--runner", "ray", "--ray-address", cluster.address)
    process = start_study(records.uri, *on_ray, workers=0)
    worker = process_of(wait_for(lambda: records.runs(Kind.EVALUATE, "RUNNING")))
    process.kill()
    process.communicate(timeout=PATIENCE)
    worker.wait(timeout=PATIENCE)  # Ray ends what a driver started that is gone
    assert records.runs(status="RUNNING"), "nothing was in flight"
    again = start_study(records.uri, *on_ray, workers=0)
    output, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, output
    records.assert_complete()
    assert records.results() == finished.results()
    assert sorted(run.info.status for run in records.runs(Kind.STUDY)) == ["FINISHED", "KILLED"]


def test_a_cluster_that_is_not_there_is_refused(records) -> None:
    ready = prospect(records.study, on_ray=OnRay("127.0.0.1:9"))
    with pytest.raises(Refused, match=r"Ray does not answer at 127\.0\.0\.1:9"):
        run_study(ready)
    assert not records.runs()
