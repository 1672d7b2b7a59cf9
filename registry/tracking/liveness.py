"""Whether the process that writes a run, or holds a claim, is still alive: the tags ``worker`` and ``heartbeat``.

On the same machine the tag ``worker`` decides. Systems reuse process ids, so the tag also holds the start of the
process, counted from the machine's own start, since a clock can be set while processes run. Containers, and virtual
machines of one name, do not see each other's processes; so the tag also names the boot and the process namespace.

On other machines the heartbeat decides: a tag that the process changes every 15 seconds. Clocks of several machines
differ, so a heartbeat counts as stopped only if it was watched for some time and did not change.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException

from registry.tracking.names import Tag
from registry.tracking.store import all_runs

__all__ = [
    "BEAT_SECONDS",
    "STALE_SECONDS",
    "Heartbeat",
    "HeartbeatWatch",
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

BEAT_SECONDS = 15.0
STALE_SECONDS = 90.0  # without a beat; of a process on another machine

_CLOCK_SECONDS = 3.0  # where a start is only known by the wall clock, which is corrected now and then
_WATCH_SECONDS = 45.0  # three heartbeats, by the watcher's own clock
_GAP_SECONDS = 6.0  # a look each second; a store that takes so long to answer was unreachable


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


class Heartbeat:
    """Calls ``beat`` every few seconds in a thread of its own, until :meth:`stop` or while ``needed`` returns True.

    Errors of MLflow are ignored: the store may be unreachable for a while, and the next beat may reach it.
    """

    def __init__(
        self,
        beat: Callable[[], object],
        *,
        seconds: float | None = None,
        needed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._beat, self._needed = beat, needed
        self._seconds = BEAT_SECONDS if seconds is None else seconds
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it runs."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for its last beat."""
        self._stopped.set()
        if thread := self._thread:
            thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            with self._lock:  # whoever needs a beat from now on starts another thread
                if not self._needed():
                    self._thread = None
                    return
            with suppress(MlflowException):
                self._beat()


class HeartbeatWatch:
    """Which heartbeats have stopped, by this process's own monotonic clock.

    Parameters
    ----------
    seconds : float
        How long a heartbeat must not change.
    longest_gap : float
        Seconds between two looks after which the watch starts anew: the store was unreachable from here, perhaps for
        the other process too.
    """

    def __init__(self, seconds: float, *, longest_gap: float) -> None:
        self._seconds, self._longest_gap = seconds, longest_gap
        self._seen: dict[object, tuple[str, float, float]] = {}  # heartbeat, since when, time of the last look

    def has_stopped(self, key: object, beat: str) -> bool:
        """Compare a heartbeat with the last look at it; False at the first look."""
        now = time.monotonic()
        last, since, looked = self._seen.get(key, (None, now, now))
        if beat != last or now - looked > self._longest_gap:
            since = now
        self._seen[key] = (beat, since, now)
        return now - since >= self._seconds


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
    return None if age >= STALE_SECONDS else False


def still_silent(client: MlflowClient, experiment_id: str, suspects: Iterable[Run]) -> list[Run]:
    """Watch runs for up to 45 seconds; return those that are still RUNNING and whose heartbeat did not change."""
    left = {run.info.run_id: run for run in suspects}
    watch = HeartbeatWatch(_WATCH_SECONDS, longest_gap=_GAP_SECONDS)
    if left:
        _log.info(
            "watching %d runs of other machines for up to %.0f s: their heartbeat is old", len(left), _WATCH_SECONDS
        )
    while left:
        running = {run.info.run_id: run.data.tags.get(Tag.HEARTBEAT) for run in running_runs(client, experiment_id)}
        left = {key: run for key, run in left.items() if running.get(key) == run.data.tags[Tag.HEARTBEAT]}
        stopped = [watch.has_stopped(key, run.data.tags[Tag.HEARTBEAT]) for key, run in left.items()]
        if all(stopped):
            break
        time.sleep(1.0)
    return list(left.values())
