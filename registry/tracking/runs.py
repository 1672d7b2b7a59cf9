"""Runs: opened with tags and a heartbeat, closed whatever happens, found by fingerprint, reaped when dead."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from registry.interrupts import unbroken
from registry.masking import mask
from registry.tracking.names import Kind, Tag
from registry.tracking.processes import process_is_here, worker_identity
from registry.tracking.recording import Recording
from registry.tracking.store import all_runs

__all__ = [
    "Superseded",
    "end_dead",
    "end_runs_of",
    "end_strays",
    "finished_by_fingerprint",
    "is_silent",
    "reap",
    "recorded",
    "still_silent",
]

_logger = logging.getLogger(__name__)

_BEAT_SECONDS = 15.0
_STALE_SECONDS = 90.0  # a run whose process was last heard of longer ago is dead
_WATCH_SECONDS = 45.0  # three heartbeats, by the watcher's own clock
_AWAY_SECONDS = 5.0  # a store that takes so long to answer was away

_open: set[str] = set()  # runs that this process is writing


class Superseded(RuntimeError):
    """Another runner took over what this process was doing; the result is left to it."""


@contextmanager
def recorded(
    client: MlflowClient,
    experiment_id: str,
    *,
    kind: Kind,
    name: str,
    tags: Mapping[str, object],
    params: Mapping[str, object] | None = None,
    description: str = "",
    seconds_ago: float = 0.0,
    gathers: bool = False,
) -> Iterator[Recording]:
    """Open a run, keep its heartbeat, and end it: FINISHED, FAILED on an error, KILLED on an interrupt or takeover.

    Parameters
    ----------
    seconds_ago : float
        How long its work has been going on before it is opened.
    gathers : bool
        Send parameters, metrics and tags together: with a heartbeat, the first after 15 seconds, and when it ends.
        Of a process that is killed, what it gathered since then is lost.
    """
    every = {
        Tag.KIND: kind,
        Tag.WORKER: worker_identity(),
        Tag.HEARTBEAT: _now(),
        MLFLOW_RUN_NOTE: description,
        **_origin(),
        **tags,
    }
    beating, status = None, RunStatus.FINISHED
    try:
        with unbroken():  # a run that was made and is not known here would be left RUNNING
            run = client.create_run(
                experiment_id,
                start_time=int((time.time() - seconds_ago) * 1000),
                run_name=name,
                tags={key: mask(str(value), of_environment=False) for key, value in every.items()}
                | {MLFLOW_RUN_NAME: name},
            )
            recording = Recording(client, experiment_id, run.info.run_id, run.info.artifact_uri, gathers)
            beating = _Beating(recording)
        recording.params(params or {})
        yield recording
        recording.send()
    except (KeyboardInterrupt, SystemExit, Superseded):
        status = RunStatus.KILLED
        raise
    except BaseException:
        status = RunStatus.FAILED
        raise
    finally:
        if beating is not None:
            with unbroken():
                beating.end(status)


class _Beating:
    """A run that is open, which the store hears of every 15 seconds."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        _open.add(recording.run_id)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT_SECONDS):
            # The store is away for a while; a thread that ended here would have the run taken for dead.
            with suppress(MlflowException):
                self._recording.tags({Tag.HEARTBEAT: _now()})
                self._recording.send()

    def end(self, status: int) -> None:
        """Send what is left of the run, and end it."""
        self._stop.set()
        self._thread.join()
        recording = self._recording
        try:
            if status != RunStatus.FINISHED:
                with suppress(MlflowException):  # what ended the run is told, not that the store is away besides
                    recording.send()
            recording.client.set_terminated(recording.run_id, RunStatus.to_string(status))
        finally:
            _open.discard(recording.run_id)  # from now on it is dead if the store did not hear of its end


def finished_by_fingerprint(
    client: MlflowClient, experiment_id: str, kind: Kind, *, only: str | None = None
) -> dict[str, Run]:
    """Return the finished runs of a kind by fingerprint, the newest where one occurs twice; or those of one alone."""
    wanted = f"tags.{Tag.KIND} = '{kind}' AND attributes.status = 'FINISHED'"
    if only is not None:
        wanted += f" AND tags.{Tag.FINGERPRINT} = '{only}'"
    runs = all_runs(client, [experiment_id], wanted)
    runs.sort(key=lambda run: run.info.start_time)
    return {run.data.tags[Tag.FINGERPRINT]: run for run in runs if Tag.FINGERPRINT in run.data.tags}


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
    running = [run for run in _running(client, experiment_id) if Tag.HEARTBEAT in run.data.tags]
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


def _running(client: MlflowClient, experiment_id: str) -> list[Run]:
    return all_runs(client, [experiment_id], "attributes.status = 'RUNNING'")


def end_strays(client: MlflowClient, experiment_id: str) -> None:
    """Mark runs as KILLED that this process opened and does not know of.

    A request whose answer was lost is made again, and has then opened two runs.
    """
    for run in _running(client, experiment_id):
        if run.data.tags.get(Tag.WORKER) == worker_identity() and run.info.run_id not in _open:
            client.set_terminated(run.info.run_id, "KILLED")


def end_runs_of(client: MlflowClient, experiment_id: str, workers: Collection[str]) -> None:
    """Mark running runs as KILLED whose processes, by their tag ``worker``, are known to be gone, wherever they ran."""
    for run in _running(client, experiment_id):
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
        _logger.info(
            "watching %d runs of other machines for up to %.0f s: their heartbeat is old", len(left), _WATCH_SECONDS
        )
    while left:
        asked = time.monotonic()
        now = {
            run.info.run_id: run.data.tags[Tag.HEARTBEAT]
            for run in _running(client, experiment_id)
            if run.info.run_id in left
        }
        left = {key: run for key, run in left.items() if now.get(key) == run.data.tags[Tag.HEARTBEAT]}
        if time.monotonic() - asked > _AWAY_SECONDS:  # neither could they reach the store
            deadline = time.monotonic() + _WATCH_SECONDS
        elif time.monotonic() >= deadline:
            break
        time.sleep(min(1.0, _WATCH_SECONDS / 4))
    return list(left.values())


def _origin() -> dict[str, str]:
    """Who and what recorded a run, in the columns that MLflow's UI has for it."""
    user = psutil.Process().username()
    return {MLFLOW_USER: user, MLFLOW_SOURCE_NAME: "donors-recipients", MLFLOW_SOURCE_TYPE: "PROJECT"}


def _now() -> str:
    return f"{time.time():.0f}"
