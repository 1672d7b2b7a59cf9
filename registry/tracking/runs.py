"""Runs: opened with tags and a heartbeat, closed whatever happens, found by fingerprint, reaped when dead."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import quote

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

from registry.masking import mask
from registry.process import defer_signals
from registry.tracking.duplicates import refuse_conflicts, resolve_runs
from registry.tracking.liveness import Heartbeat, running_runs, worker_identity
from registry.tracking.names import Kind, Tag
from registry.tracking.recording import Recording
from registry.tracking.store import all_runs

__all__ = [
    "Superseded",
    "annotate_launch",
    "describe_study",
    "end_strays",
    "finished_by_fingerprint",
    "launching_run",
    "recorded",
    "runs_of_kind",
]

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
    opened, status = None, RunStatus.FINISHED
    try:
        with defer_signals():  # a run that was made and is not known here would be left RUNNING
            run = client.create_run(
                experiment_id,
                start_time=int((time.time() - seconds_ago) * 1000),
                run_name=name,
                tags={key: mask(str(value), of_environment=False) for key, value in every.items()}
                | {MLFLOW_RUN_NAME: name},
            )
            recording = Recording(client, experiment_id, run.info.run_id, run.info.artifact_uri, gathers)
            opened = _Open(recording)
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
        if opened is not None:
            with defer_signals():
                opened.end(status)


class _Open:
    """A run that this process writes, with its heartbeat."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._heartbeat = Heartbeat(self._beat)
        _open.add(recording.run_id)
        self._heartbeat.start()

    def _beat(self) -> None:
        self._recording.tags({Tag.HEARTBEAT: _now()})
        self._recording.send()

    def end(self, status: int) -> None:
        """Send what is left of the run, and end it."""
        self._heartbeat.stop()
        recording = self._recording
        try:
            if status != RunStatus.FINISHED:
                with suppress(MlflowException):  # the error that ended the run is reported, not this one
                    recording.send()
            recording.client.set_terminated(recording.run_id, RunStatus.to_string(status))
        finally:
            _open.discard(recording.run_id)  # from now on it is dead, even if the store could not be reached


def finished_by_fingerprint(
    client: MlflowClient, experiment_id: str, kind: Kind, *, only: str | None = None, strict: bool = False
) -> dict[str, Run]:
    """Return the finished runs of a kind by fingerprint, or those of one alone; where one occurs twice, that counts.

    Parameters
    ----------
    strict : bool
        Refuse runs of one fingerprint that differ in their results; else the first of them counts.

    Raises
    ------
    ConflictError
        With both runs and what differs, if ``strict``.
    """
    wanted = f"tags.{Tag.KIND} = '{kind}' AND attributes.status = 'FINISHED'"
    if only is not None:
        wanted += f" AND tags.{Tag.FINGERPRINT} = '{only}'"
    runs = [run for run in all_runs(client, [experiment_id], wanted) if Tag.FINGERPRINT in run.data.tags]
    found = resolve_runs(client, runs)
    if strict and found.conflicts:
        refuse_conflicts(found.conflicts, f"study {client.get_experiment(experiment_id).name}")
    return {run.data.tags[Tag.FINGERPRINT]: run for run in runs if run.info.run_id in found.counting}


def end_strays(client: MlflowClient, experiment_id: str) -> None:
    """Mark runs as KILLED that this process opened and does not know of.

    A request whose answer was lost is made again, and has then opened two runs.
    """
    for run in running_runs(client, experiment_id):
        if run.data.tags.get(Tag.WORKER) == worker_identity() and run.info.run_id not in _open:
            client.set_terminated(run.info.run_id, "KILLED")


def _origin() -> dict[str, str]:
    """Who and what recorded a run, in the columns that MLflow's UI has for it."""
    user = psutil.Process().username()
    return {MLFLOW_USER: user, MLFLOW_SOURCE_NAME: "donors-recipients", MLFLOW_SOURCE_TYPE: "PROJECT"}


def _now() -> str:
    return f"{time.time():.0f}"


# --- the run that ``mlflow run`` opens around an entry point: tagged, and pointed at what the entry point recorded


def launching_run() -> str | None:
    """Return the id of the run that ``mlflow run`` opened, and take it out of the environment.

    Left there, MLflow's fluent functions, ours and every worker's, would write into that run.
    """
    return os.environ.pop("MLFLOW_RUN_ID", None)


def annotate_launch(client: MlflowClient, run_id: str | None, note: str) -> None:
    """Say in the launching run what came of it; without one, do nothing."""
    if run_id is not None:
        client.set_tag(run_id, Tag.KIND, Kind.LAUNCH)
        client.set_tag(run_id, MLFLOW_RUN_NOTE, mask(note))


# --- an experiment's description in MLflow's UI: the study, its latest report, and where its runs are found


_SHOWN = {
    Kind.EVALUATE: "evaluations",
    Kind.FINETUNE: "fine-tunes",
    Kind.BASELINE: "untouched bases",
    Kind.ANALYZE: "reports",
}


def runs_of_kind(experiment_id: str, kind: Kind) -> str:
    """Address in the UI of a study's runs of a kind, in its table."""
    wanted = quote(f"tags.{Tag.KIND} = '{kind}'")
    return f"#/experiments/{experiment_id}/runs?searchFilter={wanted}"


def describe_study(recording: Recording, study: str, cautions: Sequence[str] = ()) -> None:
    """Link an analysis to its report, and its experiment to it and to the study's runs.

    Parameters
    ----------
    recording
        The run of kind ``analyze``, its files stored.
    cautions
        What a reader must know before believing its numbers.
    """
    client, identity = recording.client, recording.experiment_id
    report = f"[report](#/experiments/{identity}/runs/{recording.run_id}/artifacts/report.html)"
    tables = ", ".join(f"[{label}]({runs_of_kind(identity, kind)})" for kind, label in _SHOWN.items())
    found = f"In the table of runs: {tables}."
    # An experiment's description has the same key as a run's.
    client.set_experiment_tag(identity, MLFLOW_RUN_NOTE, f"Study `{study}`: latest {report}. {found}")
    said = "".join(f"\n- {caution}" for caution in cautions)
    note = f"Tables, figures and {report} of study `{study}`, all among the artifacts.\n{said}\n\n{found}"
    recording.tags({MLFLOW_RUN_NOTE: note})
