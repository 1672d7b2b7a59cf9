"""Where everything is recorded: the tracking server that is asked for, or the embedded one in the project's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

__all__ = ["PROJECT", "all_runs", "experiment_id", "open_store", "shown_uri", "tracking_uri"]

PROJECT = Path(__file__).resolve().parent.parent.parent


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, else the embedded SQLite store ``mlflow.db`` in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{PROJECT / 'mlflow.db'}"


def shown_uri(uri: str) -> str:
    """Return a store's address without the password in it, for messages and reports."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))


def open_store(uri: str | None = None) -> MlflowClient:
    """Connect to the store, making the tables of a new SQLite one first.

    Several first contacts with an empty SQLite file at once can break it for good, so the first is made under a lock.
    """
    uri = uri or tracking_uri()
    mlflow.set_tracking_uri(uri)  # artifact downloads and model loading read MLflow's own setting
    mlflow.set_registry_uri(uri)
    file = sqlite_file(uri)
    if file is None:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)  # this alone makes tables
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
    return client


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for every other kind."""
    scheme, _, path = uri.partition(":///")
    if scheme.split("+")[0] != "sqlite" or path in ("", ":memory:"):
        return None
    return Path(path).absolute()


def experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id of a study's experiment, made if it is new.

    An embedded store keeps its artifacts in ``mlartifacts/`` beside the database; a server decides for itself.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        file = sqlite_file(client.tracking_uri)
        location = None if file is None else (file.parent / "mlartifacts" / name).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process made it in the meantime
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def all_runs(client: MlflowClient, experiments: Sequence[str], filter_string: str) -> list[Run]:
    """Return every run that a filter admits, page by page."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(list(experiments), filter_string, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs
