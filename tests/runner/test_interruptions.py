"""Whatever kills a study, the same command goes on from there and ends with the results of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from registry.runner.session import prospect
from registry.tracking.names import Kind, Tag

PATIENCE = 120.0


def wait_until(condition: Callable[[], object], *, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Worker processes, without multiprocessing's own resource tracker."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def at_work(records, process: subprocess.Popen[str], *, evaluations: int) -> list[psutil.Process]:
    """Wait until a study of two workers has a fine-tune and some evaluations; return the workers."""

    def reached() -> bool:
        assert process.poll() is None, process.stdout.read()
        begun, done = records.runs(Kind.FINETUNE), records.runs(Kind.EVALUATE, "FINISHED")
        return bool(begun) and len(done) >= evaluations

    wait_until(reached, what=f"{evaluations} evaluations")
    workers = workers_of(process)
    assert len(workers) == 2
    return workers


@contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        process.suspend()
    yield
    for process in processes:
        process.resume()


def assert_resumes(records, finished, rerun) -> None:
    """The rest is done, what was done is not done again, and the results are those of an undisturbed run."""
    done = {run.info.run_id for run in records.runs(Kind.EVALUATE, "FINISHED")}
    assert len(done) < 8, "it must have been interrupted in the middle"
    assert rerun(records) == []
    records.assert_complete()
    assert done <= {run.info.run_id for run in records.finished(Kind.EVALUATE).values()}
    assert records.results() == finished.results()


@pytest.mark.parametrize("evaluations", [1, *(pytest.param(count, marks=pytest.mark.slow) for count in (0, 2, 3))])
def test_a_study_killed_with_9_is_resumed(records, finished, start_study, rerun, evaluations: int) -> None:
    process = start_study(records.uri, workers=2)
    workers = at_work(records, process, evaluations=evaluations)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: gone(workers), what="the workers to notice")
    assert Kind.STUDY in {run.data.tags[Tag.KIND] for run in records.runs(status="RUNNING")}
    assert_resumes(records, finished, rerun)
    (killed,) = records.runs(Kind.STUDY, "KILLED")
    assert killed.info.end_time is not None


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the parent", "the whole group"])
def test_a_study_that_is_terminated_leaves_nothing_running(records, finished, start_study, rerun, whom: str) -> None:
    process = start_study(records.uri, workers=2)
    workers = at_work(records, process, evaluations=1)
    os.killpg(process.pid, signal.SIGTERM) if whom == "the whole group" else process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "Traceback" not in output
    assert gone(workers)
    assert not records.runs(status="RUNNING")
    assert [run.info.status for run in records.runs(Kind.STUDY)] == ["KILLED"]
    assert_resumes(records, finished, rerun)


@pytest.mark.slow
def test_a_study_that_is_interrupted_from_the_keyboard_says_how_to_go_on(records, finished, start_study, rerun) -> None:
    process = start_study(records.uri, workers=2)
    workers = at_work(records, process, evaluations=0)
    with stopped(workers):  # so that they are not done before it is heard
        os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "the same command continues from here" in output
    assert "Traceback" not in output
    assert gone(workers)
    assert not records.runs(status="RUNNING")
    assert_resumes(records, finished, rerun)


@pytest.mark.slow
def test_a_worker_killed_with_9_between_fine_tune_and_evaluation_costs_no_result(records, finished, rerun) -> None:
    killed: list[str] = []

    def hunt() -> None:
        while not killed:
            for run in records.runs(Kind.EVALUATE, "RUNNING"):
                worker = int(run.data.tags[Tag.WORKER].rpartition(":")[2].partition("-")[0])
                os.kill(worker, signal.SIGSTOP)  # its run may have ended since it was listed
                if records.client.get_run(run.info.run_id).info.status == "RUNNING":
                    os.kill(worker, signal.SIGKILL)
                    killed.append(run.info.run_id)
                    return
                os.kill(worker, signal.SIGCONT)
            time.sleep(0.01)

    hunter = threading.Thread(target=hunt, daemon=True)
    hunter.start()
    assert rerun(records, workers=2) == []
    hunter.join(timeout=10)
    assert killed
    records.assert_complete()
    assert records.client.get_run(killed[0]).info.status == "KILLED"
    assert records.results() == finished.results()


def test_two_studies_at_once_on_one_store_both_end_well(records, finished, start_study) -> None:
    processes = [start_study(records.uri, workers=1) for _ in range(2)]
    ends = [(process.communicate(timeout=PATIENCE)[0], process.returncode) for process in processes]
    assert [code for _, code in ends] == [0, 0], ends
    records.assert_complete()
    assert len(records.runs(Kind.STUDY, "FINISHED")) == 2
    assert records.results() == finished.results()
    assert prospect(records.study, workers=1).plan.todo == ()
