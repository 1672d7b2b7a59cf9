"""A process is told from others, whatever becomes of the clock and whoever looks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from registry.paths import PROJECT
from registry.tracking import liveness
from registry.tracking.liveness import process_is_here, worker_identity

NAMED = "from registry.tracking.liveness import worker_identity; print(worker_identity(), flush=True); input()"
LOOKS = "import sys; from registry.tracking.liveness import process_is_here; print(process_is_here(sys.argv[1]))"


def test_a_process_is_here_until_it_ends_though_no_one_has_asked_how() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NAMED], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        worker = process.stdout.readline().strip()
        assert process_is_here(worker) is True
        assert process_is_here(worker.replace(f":{process.pid}-", f":{os.getpid()}-")) is False  # the id of another
        process.stdin.close()
        deadline = time.monotonic() + 120
        while process_is_here(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
        assert process_is_here(worker) is False
    assert process_is_here(worker) is False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc: starts are told by the clock")
def test_a_clock_that_is_set_makes_no_other_process(monkeypatch) -> None:
    worker = worker_identity()
    start = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: start(process) + 600)
    liveness._identity.cache_clear()
    assert worker_identity() == worker
    assert process_is_here(worker) is True


def test_of_another_machine_or_boot_nothing_is_known() -> None:
    worker = worker_identity()
    assert process_is_here(f"another-machine:{worker.rpartition(':')[2]}") is None
    assert process_is_here(f"{worker.rpartition('-')[0]}-00000000") is None
    assert process_is_here("") is None


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and util-linux's unshare")
def test_in_a_container_of_the_same_name_nothing_is_known_of_processes_outside() -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", LOOKS, worker_identity()]
    looked = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if "unshare" in looked.stderr:
        pytest.skip(f"no namespaces here: {looked.stderr.strip()}")
    assert looked.stdout == "None\n"


def test_a_process_that_is_hidden_is_not_taken_for_dead(monkeypatch) -> None:
    def refused(pid: int, number: int) -> None:
        raise PermissionError

    worker = worker_identity().replace(f":{os.getpid()}-", ":4194305-")  # above any id that Linux gives
    assert process_is_here(worker) is False
    monkeypatch.setattr(os, "kill", refused)
    assert process_is_here(worker) is None
