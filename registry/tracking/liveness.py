"""Which process this is, for other processes of this machine to see whether it still runs: the tag ``worker``.

A process id alone is given again after a while. What tells two processes of one id apart is when they started, counted
from the machine's own start, since its clock may be set anew while they run. Containers, and virtual machines of one
name, do not see each other's processes; so the tag says of which boot and which process namespace the id is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

from registry.tracking.names import Tag
from registry.tracking.store import all_runs

__all__ = [
    "end_dead",
    "end_runs_of",
    "is_silent",
    "process_is_here",
    "reap",
    "running_runs",
    "still_silent",
    "worker_identity",
]

_log = logging.getLogger(__name__)

_CLOCK_SECONDS = 3.0  # where a start is only known by the wall clock, which is corrected now and then


def worker_identity() -> str:
    """This process as ``host:pid-start-place``, the tag ``worker``."""
    return _identity(os.getpid())


def process_is_here(worker: str) -> bool | None:
    """Whether a process, as the tag ``worker`` names it, runs on this machine; None where that cannot be seen here."""
    host, _, process = worker.rpartition(":")
    pid, _, rest = process.partition("-")
    start, _, place = rest.partition("-")
    if host != socket.gethostname() or place != _place():
        return None
    try:
        found = _start(int(pid))
        return found is not None and abs(found - float(start)) < (_CLOCK_SECONDS if _by_the_clock() else 1)
    except ValueError:
        return False
    except PermissionError:
        return None


@cache
def _identity(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}-{_start(pid):.0f}-{_place()}"


def _start(pid: int) -> float | None:
    """When a process started, in clock ticks of the machine or, where there is no ``/proc``, in seconds of its clock.

    None if there is no such process, or if it has ended and whoever started it has not asked yet.

    Raises
    ------
    PermissionError
        If there is one that this user may not look at.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if _by_the_clock():
            return float(process.create_time())
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return float(fields[19])  # the 22nd of all, see proc(5)
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from error
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        if _hidden(pid):
            raise PermissionError(f"process {pid} is hidden") from None
        return None


def _hidden(pid: int) -> bool:
    """Whether there is a process that is not shown, as ``/proc`` mounted with ``hidepid`` hides those of others."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _by_the_clock() -> bool:
    return not Path("/proc/self/stat").exists()


@cache
def _place() -> str:
    """Name the boot and the process namespace, empty where there are none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]


_STALE_SECONDS = 90.0  # a run whose process was last heard of longer ago is dead


_WATCH_SECONDS = 45.0  # three heartbeats, by the watcher's own clock


_AWAY_SECONDS = 5.0  # a store that takes so long to answer was away


def reap(client: MlflowClient, experiment_id: str, *, elsewhere: bool = True) -> list[Run]:
    """Mark runs as KILLED whose process is gone, and return them.

    A killed process leaves its run RUNNING for ever. On this machine its process id tells. Elsewhere a heartbeat that
    is not of the last 90 seconds raises the suspicion; since clocks differ, the run is dead only if its heartbeat then
    does not change while it is watched, for at most 45 seconds.

    Parameters
    ----------
    elsewhere : bool
        Judge the runs of other machines too.
    """
    running = [run for run in running_runs(client, experiment_id) if Tag.HEARTBEAT in run.data.tags]
    silent = {run.info.run_id: is_silent(run) for run in running}
    dead = [run for run in running if silent[run.info.run_id]]
    if elsewhere:
        dead += still_silent(client, experiment_id, [run for run in running if silent[run.info.run_id] is None])
    return [run for run in dead if end_dead(client, run)]


def end_dead(client: MlflowClient, run: Run) -> bool:
    """Mark a run as KILLED whose process is gone, unless it was ended since it was listed."""
    if client.get_run(run.info.run_id).info.status != RunStatus.to_string(RunStatus.RUNNING):
        return False
    client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))
    return True


def running_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Return the runs of an experiment that are RUNNING."""
    return all_runs(client, [experiment_id], "attributes.status = 'RUNNING'")


def end_runs_of(client: MlflowClient, experiment_id: str, workers: Collection[str]) -> None:
    """Mark running runs as KILLED whose processes, by their tag ``worker``, are known to be gone, wherever they ran."""
    for run in running_runs(client, experiment_id):
        if run.data.tags.get(Tag.WORKER) in workers:
            end_dead(client, run)


def is_silent(run: Run) -> bool | None:
    """Whether the process of a RUNNING run is gone; None where it cannot be seen here and its heartbeat is old."""
    here = process_is_here(run.data.tags.get(Tag.WORKER, ""))
    if here is not None:
        return not here
    try:
        age = abs(time.time() - float(run.data.tags[Tag.HEARTBEAT]))
    except (KeyError, ValueError):
        return None
    return None if age >= _STALE_SECONDS else False


def still_silent(client: MlflowClient, experiment_id: str, suspects: Iterable[Run]) -> list[Run]:
    """Watch runs for up to 45 seconds; return those that are still RUNNING and whose heartbeat did not change."""
    left = {run.info.run_id: run for run in suspects}
    deadline = time.monotonic() + _WATCH_SECONDS
    if left:
        _log.info(
            "watching %d runs of other machines for up to %.0f s: their heartbeat is old", len(left), _WATCH_SECONDS
        )
    while left:
        asked = time.monotonic()
        now = {
            run.info.run_id: run.data.tags[Tag.HEARTBEAT]
            for run in running_runs(client, experiment_id)
            if run.info.run_id in left
        }
        left = {key: run for key, run in left.items() if now.get(key) == run.data.tags[Tag.HEARTBEAT]}
        if time.monotonic() - asked > _AWAY_SECONDS:  # neither could they reach the store
            deadline = time.monotonic() + _WATCH_SECONDS
        elif time.monotonic() >= deadline:
            break
        time.sleep(min(1.0, _WATCH_SECONDS / 4))
    return list(left.values())
