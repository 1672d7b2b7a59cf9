"""Real processes, real faults: the same command ends with the results of an undisturbed run, each job done once."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlflow
import psutil
import pytest

from registry.paths import PROJECT
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import finished_by_fingerprint
from registry.tracking.store import experiment_id, open_store
from tests.mlflow_process import MlflowProcess
from tests.runner.unreliable import Proxy, server_on

pytestmark = pytest.mark.slow

STORES = ["sqlite", "http", "postgresql"]
PATIENCE = 300.0
HASTE = {"MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


@pytest.fixture
def server(tmp_path) -> Iterator[MlflowProcess]:
    with server_on(tmp_path) as started:
        yield started


@pytest.fixture
def store(request, monkeypatch, tmp_path) -> Iterator[str]:
    """An empty store of a kind, with a folder of its own for what it keeps."""
    kind = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        address = request.getfixturevalue("new_store")()
    elif kind == "http":
        address = request.getfixturevalue("server").address
    else:
        import pgserver

        database = pgserver.get_server(tmp_path / "pg", cleanup_mode="delete")
        request.addfinalizer(database.cleanup)
        address = database.get_uri().replace("postgresql://", "postgresql+psycopg://")
        open_store(address).create_experiment("small", artifact_location=(tmp_path / "artifacts").as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for name, value in HASTE.items():
        monkeypatch.setenv(name, value)
    yield address
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture
def small(store, small_study, finished):
    return type(finished)(store, small_study())


def assert_as_undisturbed(small, finished) -> None:
    """Each job is done once, nothing is left running or claimed, and all of it is complete, bit for bit."""
    small.assert_complete()
    assert small.results() == finished.results()
    client = small.client
    for kind in (Kind.BASELINE, Kind.EVALUATE):
        for run in small.finished(kind).values():
            assert "outcomes.parquet" in {file.path for file in client.list_artifacts(run.info.run_id)}
    identity = experiment_id(client, "small")
    trained = finished_by_fingerprint(client, identity, Kind.FINETUNE).values()
    assert all(Tag.MODEL_ID in run.data.tags for run in trained)
    versions = client.search_model_versions(f"tags.{Tag.STUDY} = 'small'", max_results=1000)
    named = [run.data.tags[Tag.MODEL_VERSION] for run in trained]
    assert sorted(f"{found.name}/{found.version}" for found in versions) == sorted(named)


def run_until_done(start: Callable[[], subprocess.Popen[str]], *, most: int = 6) -> list[int]:
    """Give the same command until it succeeds; return how it ended each time."""
    codes: list[int] = []
    while 0 not in codes:
        process = start()
        output, _ = process.communicate(timeout=PATIENCE)
        codes.append(process.returncode)
        assert len(codes) < most or 0 in codes, output[-4000:]
    return codes


@contextmanager
def killing(process: subprocess.Popen[str], *, kills: int, seed: int) -> Iterator[list[int]]:
    """Kill a worker with -9 now and then while a study runs."""
    killed: list[int] = []
    chance, stop = random.Random(seed), threading.Event()

    def hunt() -> None:
        while len(killed) < kills and not stop.wait(chance.uniform(0.2, 3.0)):
            try:
                children = psutil.Process(process.pid).children(recursive=True)
                workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
                # Now and then one that is only starting: else none would come to work.
                busy = [worker for worker in workers if worker.cpu_times().user > 3 or chance.random() < 0.2]
                if busy:
                    victim = chance.choice(busy)
                    victim.kill()
                    killed.append(victim.pid)
            except psutil.NoSuchProcess:
                continue

    hunter = threading.Thread(target=hunt, daemon=True)
    hunter.start()
    yield killed
    stop.set()
    hunter.join()


@pytest.mark.parametrize(
    ("store", "kills"), [("sqlite", 8), ("http", 6), ("postgresql", 6)], indirect=["store"], ids=STORES
)
def test_workers_killed_with_9_again_and_again(small, finished, start_study, kills: int) -> None:
    killed: list[int] = []
    for attempt in range(12):
        process = start_study(small.uri, workers=2)
        with killing(process, kills=kills - len(killed), seed=attempt) as now:
            output, _ = process.communicate(timeout=PATIENCE)
        killed += now
        if process.returncode == 0:
            break
    assert process.returncode == 0, output[-4000:]
    assert killed
    print(f"{len(killed)} workers killed in {attempt + 1} runs of the command")
    assert_as_undisturbed(small, finished)


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_two_studies_at_once_share_the_work(small, finished, start_study) -> None:
    processes = [start_study(small.uri, workers=1) for _ in range(2)]
    ends = [(process.communicate(timeout=PATIENCE)[0], process.returncode) for process in processes]
    assert [code for _, code in ends] == [0, 0], ends
    assert_as_undisturbed(small, finished)
    assert len(small.runs(Kind.FINETUNE)) == 8, "none was begun twice"


def test_two_studies_one_of_them_an_hour_behind(small, finished, start_study, study_file, tmp_path) -> None:
    skewed = tmp_path / "skewed.py"
    skewed.write_text(
        "import runpy, socket, sys, time\nreal = time.time\ntime.time = lambda: real() - 3600\n"
        "socket.gethostname = lambda: 'elsewhere'\nsys.argv[0] = 'study'\n"
        "if __name__ == '__main__':\n    runpy.run_module('entrypoints.study', run_name='__main__')\n"
    )
    behind = subprocess.Popen(
        [sys.executable, str(skewed), "--study", str(study_file()), "--workers", "1"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while not small.runs(Kind.STUDY) and behind.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    ours = start_study(small.uri, workers=1)
    output, _ = behind.communicate(timeout=PATIENCE)
    assert behind.returncode == 0, output[-3000:]
    output, _ = ours.communicate(timeout=PATIENCE)
    assert ours.returncode == 0, output[-3000:]
    assert_as_undisturbed(small, finished)
    assert {run.info.status for run in small.runs()} == {"FINISHED"}


@pytest.mark.parametrize("seconds", [5, 30])
def test_a_server_that_is_away_for_a_while(small_study, finished, start_study, server, monkeypatch, seconds) -> None:
    for name, value in HASTE.items():
        monkeypatch.setenv(name, value)
    small = type(finished)(server.address, small_study())
    process = start_study(server.address, workers=2)
    deadline = time.monotonic() + PATIENCE
    while not small.runs(Kind.FINETUNE) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    server.kill()
    time.sleep(seconds)
    server.start()
    output, _ = process.communicate(timeout=PATIENCE)
    if process.returncode != 0:
        print(output[-2000:])
    run_until_done(lambda: start_study(server.address, workers=2))
    assert_as_undisturbed(small, finished)


@pytest.mark.parametrize("mode", ["refuse", "lose", "hang"])
def test_a_server_that_fails_one_request_in_ten(
    small_study, finished, start_study, server, monkeypatch, mode: str
) -> None:
    for name, value in HASTE.items():
        monkeypatch.setenv(name, value)
    proxy = Proxy(server.port, seed=7)
    try:
        open_store(server.address).create_experiment("small")
        proxy.share, proxy.mode = (0.03 if mode == "hang" else 0.1), mode
        run_until_done(lambda: start_study(proxy.uri, workers=1))
        assert proxy.struck
        assert_as_undisturbed(type(finished)(server.address, small_study()), finished)
    finally:
        proxy.close()


def test_a_study_that_is_terminated_and_begun_again(small, finished, start_study) -> None:
    chance = random.Random(3)

    def start() -> subprocess.Popen[str]:
        process = start_study(small.uri, workers=1)
        if len(small.runs(Kind.STUDY)) < 2:
            time.sleep(chance.uniform(6, 14))
            process.terminate()
        return process

    run_until_done(start)
    assert_as_undisturbed(small, finished)


def test_a_disk_that_is_full_while_adapters_are_written(small, finished, study_file, start_study, tmp_path) -> None:
    """No file may grow beyond 8 KB, less than an adapter, but for the database, which is larger from the start."""
    command = [sys.executable, "-m", "entrypoints.study", "--study", str(study_file()), "--workers", "1"]
    script = (
        "import registry.lora.adapter as r, resource, signal, sys\n"
        "save = r.save_adapter\n"
        "def full(*a, **k):\n"
        "    before = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))\n"
        "    try:\n        return save(*a, **k)\n"
        "    finally:\n        resource.setrlimit(resource.RLIMIT_FSIZE, before)\n"
        "r.save_adapter = full\n"
        "import runpy\nsys.argv = ['study', *sys.argv[1:]]\n"
        "runpy.run_module('entrypoints.study', run_name='__main__')\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN  # Python turns the signal into an OSError
    done = subprocess.run(
        [sys.executable, "-c", script, *command[3:]], cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode != 0
    assert not small.runs(status="RUNNING")
    assert not small.finished(Kind.FINETUNE)
    assert small.runs(Kind.FINETUNE, "FAILED")
    run_until_done(lambda: start_study(small.uri, workers=1))
    assert_as_undisturbed(small, finished)
