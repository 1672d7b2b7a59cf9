"""Where everything is recorded: the tracking server that is asked for, or the embedded one in the project's folder."""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.store.entities import PagedList
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from registry.errors import Refused, unknown
from registry.files.disks import disk_problem, require_writable, unwritable
from registry.masking import mask_uri
from registry.paths import home
from registry.tracking.client import PatientClient, first_line, retry_unavailable
from registry.tracking.location import ARTIFACTS, Displacement, find_displacement
from registry.tracking.recording import local_folder
from registry.tracking.schema import require_own_schema, require_tested_server
from registry.tracking.server import require_server
from registry.tracking.sqlite import fold_log, make_database, shared_log

__all__ = [
    "all_runs",
    "displacement",
    "experiment_id",
    "experiments",
    "is_database",
    "open_store",
    "pages",
    "quoted",
    "shown_uri",
    "sqlite_file",
    "sqlite_uri",
    "studies",
    "tracking_uri",
]

_log = logging.getLogger(__name__)

Entity = TypeVar("Entity")

_LOCK_KEY = 0x646F6E6F72  # any number that others do not lock
_OTHERWISE = (
    "`python -m entrypoints.doctor` looks into it; unset MLFLOW_TRACKING_URI for the store in the project's folder"
)


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, else the embedded SQLite store ``mlflow.db`` in the project's folder.

    A package that was installed without its project has its store in the working folder, as MLflow does.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(home() / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """Return the address of a SQLite file; what has a meaning in an address, as ``%`` and ``?`` have, is escaped."""
    return f"sqlite:///{quote(str(file.absolute()))}"


def shown_uri(uri: str) -> str:
    """Return a store's address without the secrets in it, for messages and reports."""
    return mask_uri(uri)


def open_store(uri: str | None = None, *, displaced: bool = False, patient: bool = False) -> MlflowClient:
    """Connect to the store, making the tables of a new database first.

    Several first contacts with an empty database at once, or one that is killed, can break it for good: so the first is
    made under a lock, and a SQLite file is made whole or not at all. A database that is away or locked is asked again
    for about a minute; a server's requests MLflow itself repeats (``MLFLOW_HTTP_REQUEST_MAX_RETRIES``,
    ``MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR``: four minutes by default).

    Parameters
    ----------
    displaced : bool
        Open a moved or copied store too, whose artifact addresses name another folder.
    patient : bool
        Wait for a server that does not answer, as in the midst of a study; otherwise it is refused within seconds.

    Raises
    ------
    Refused
        If there is no store that can be opened, it is of another version of MLflow, or it was moved or copied and its
        addresses were not rewritten.
    """
    uri = uri or tracking_uri()
    mlflow.set_tracking_uri(uri)  # artifact downloads and model loading read MLflow's own setting
    mlflow.set_registry_uri(uri)
    if urlsplit(uri).scheme in ("", "file") and uri != "databricks":
        raise Refused(f"{uri} is a folder, which MLflow does not take for a store any more; {_OTHERWISE}")
    if not is_database(uri):
        server = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if uri.startswith(("http://", "https://")):
            if not patient:
                require_server(server, shown_uri(uri))
            require_tested_server(uri)
        return server
    _require_place(uri)
    try:
        client: MlflowClient = retry_unavailable(_opened)(uri)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError) as error:
        problem = disk_problem(error)
        reason = f"\n{problem}" if problem else f"{first_line(error)}; {_OTHERWISE}"
        raise Refused(f"{shown_uri(uri)} cannot be opened: {reason}") from error
    if (file := sqlite_file(uri)) is not None:
        _warn_of_shared_log(file)
    if not displaced and (moved := displacement(client)) is not None:
        raise Refused(moved.refusal)
    return client


def _warn_of_shared_log(file: Path) -> None:
    kind = shared_log(file)
    if kind is not None and parent_process() is None:
        _log.warning(
            "%s keeps a write-ahead log on %s, which other machines do not see: used from several it breaks.\n"
            "Use it from this machine alone, set up a server (docs/server.md), or when nothing runs: "
            "sqlite3 %s 'PRAGMA journal_mode = DELETE'",
            file,
            kind,
            shlex.quote(str(file)),
        )


def _require_place(uri: str) -> None:
    """Refuse a SQLite store that cannot be written to, which MLflow cannot even read."""
    if (file := sqlite_file(uri)) is None:
        return
    reason = unwritable(file.parent)
    if not reason and file.exists() and not os.access(file, os.W_OK):
        reason = f"{file}: read-only"
    if reason:
        another = "export MLFLOW_TRACKING_URI=sqlite:///<folder>/mlflow.db, a folder that can be written to"
        copy = (
            f"; to go on with this store, first: cp -R {shlex.quote(str(file.parent))} <folder>"
            if file.exists()
            else ""
        )
        raise Refused(f"the store {file} cannot be written to ({reason})\n  {another}{copy}")


def displacement(client: MlflowClient) -> Displacement | None:
    """Tell whether a store is a SQLite file that was moved or copied; None for every other."""
    file = sqlite_file(client.tracking_uri)
    if file is None:
        return None
    search = client.search_experiments
    every = pages(lambda token: search(ViewType.ALL, max_results=1000, page_token=token))
    return find_displacement(file, [(found.name, found.artifact_location) for found in every])


def _opened(uri: str) -> MlflowClient:
    """Return a client of a database that has answered."""
    try:
        with _first_contact(uri):
            require_own_schema(uri, sqlite_file(uri))
            client = PatientClient(tracking_uri=uri, registry_uri=uri)  # makes tables that are lacking
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
    except OperationalError as error:
        if sqlite_file(uri) is not None:
            raise
        raise MlflowException(str(error.orig).strip(), TEMPORARILY_UNAVAILABLE) from error
    return client


def is_database(uri: str) -> bool:
    """Whether a store's address is a database's, not a server's or a folder's."""
    return urlsplit(uri).scheme.split("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


@contextmanager
def _first_contact(uri: str) -> Iterator[None]:
    """Be alone with a database: by a lock beside a SQLite file, by an advisory lock in PostgreSQL."""
    file = sqlite_file(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            made = make_database(file, _make_tables)
            yield
            if made:
                fold_log(file)
    elif uri.startswith("postgresql"):
        engine = create_engine(uri, poolclass=NullPool)
        with engine.connect() as connection:  # its end lets go of the lock, whatever ends it
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
            yield
    else:
        yield


def _make_tables(file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(sqlite_uri(file), "./mlruns").engine.dispose()  # the folder is MLflow's default, and unused here


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for every other kind."""
    if uri.partition(":")[0].split("+")[0] != "sqlite":
        return None
    try:
        address = make_url(uri)
    except ArgumentError:
        return None
    path = address.database
    if path and address.query.get("uri") == "true":  # SQLite's own kind of address
        path = unquote(path.removeprefix("file:"))
    return None if path in (None, "", ":memory:") else Path(path).absolute()


def experiment_id(client: MlflowClient, name: str, *, writing: bool = False) -> str:
    """Return the id of a study's experiment, made if it is new.

    An embedded store keeps its artifacts in ``mlartifacts/`` beside the database; a server decides for itself.

    Parameters
    ----------
    writing : bool
        Whether artifacts are about to be written: their folder, where it is one, must then take them.

    Raises
    ------
    Refused
        If it does not.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        file = sqlite_file(client.tracking_uri)
        location = None if file is None else (file.parent / ARTIFACTS / name).as_uri()
        try:
            found = client.get_experiment(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process made it in the meantime
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if writing:
        _require_artifacts(found.artifact_location, client.tracking_uri)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _require_artifacts(location: str, uri: str) -> None:
    folder = local_folder(location)
    if folder is not None:
        remedy = f"let this user write there: chmod u+rwx {shlex.quote(str(folder))}; or name another store"
        if not is_database(uri):
            remedy = "have the server keep artifacts itself: mlflow server --artifacts-destination <folder>"
        require_writable(folder, "artifacts", remedy)


def all_runs(client: MlflowClient, experiments: Sequence[str], filter_string: str) -> list[Run]:
    """Return every run that a filter admits, page by page."""
    listed = list(experiments)
    return list(pages(lambda token: client.search_runs(listed, filter_string, max_results=1000, page_token=token)))


def pages(search: Callable[[str | None], PagedList[Entity]]) -> Iterator[Entity]:
    """Yield what a search finds, page by page; it is given the token of the page that is wanted."""
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


# --- pieces of the queries that find versions and evaluations in a store


def quoted(text: str) -> str:
    """Quote a text for MLflow's filters, which know no escapes.

    Raises
    ------
    Refused
        If it holds both kinds of quotes.
    """
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise Refused(f"{text!r} holds both kinds of quotes, which the store cannot be asked for")


def experiments(client: MlflowClient, study: str = "") -> list[str]:
    """Return the ids of every experiment, or of one study's.

    Raises
    ------
    Refused
        If there is no such study.
    """
    return list(studies(client, study))


def studies(client: MlflowClient, study: str = "") -> dict[str, str]:
    """Return the name of every experiment, or of one study's, by its id.

    Raises
    ------
    Refused
        If there is no such study.
    """
    there = pages(lambda token: client.search_experiments(max_results=1000, page_token=token))
    found: dict[str, str] = {experiment.experiment_id: experiment.name for experiment in there}
    if not study:
        return found
    if study not in found.values():
        raise unknown("study", study, found.values(), where="the store")
    return {identity: name for identity, name in found.items() if name == study}
