"""The store: whether it answers, has this MLflow's tables, and may be written to; nothing in it is changed or made."""

from __future__ import annotations

import json
import os
import shlex
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from urllib.parse import unquote, urlsplit, urlunsplit

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from registry.doctor.findings import Finding, good, note, wrong
from registry.files.disks import unwritable
from registry.masking import mask
from registry.tracking.client import first_line
from registry.tracking.names import Tag
from registry.tracking.recording import local_folder
from registry.tracking.schema import newest_revision, upgrade_commands
from registry.tracking.sqlite import shared_log
from registry.tracking.store import displacement, open_store, shown_uri, sqlite_file

__all__ = ["check_store"]

_PATIENCE = 10.0  # seconds; MLflow's own client would try again for minutes
_ANOTHER = "export MLFLOW_TRACKING_URI=sqlite:///<a folder that can be written to>/mlflow.db"
_UNSET = "export MLFLOW_TRACKING_URI=<its address>, or unset it for the store in the project's folder"


def check_store(uri: str, study: str = "") -> tuple[list[Finding], MlflowClient | None]:
    """Look at a store.

    Returns
    -------
    list of Finding, MlflowClient or None
        No client where the store does not answer, is not there yet, or was moved and must be repaired first.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        if reason := unwritable(file.parent):
            return [wrong(f"{shown_uri(uri)} is not there, and cannot be made ({reason})", _ANOTHER)], None
        return [note(f"{shown_uri(uri)} is not there yet; the first command that records something makes it")], None
    if file is not None and (reason := unwritable(file.parent)):
        remedy = f"chmod u+rwx {quote(str(file.parent))}; or {_ANOTHER}"
        return [wrong(f"{file} is in a folder that takes no files ({reason})", remedy)], None
    if uri.startswith(("http://", "https://")):
        found = list(_server(uri))
    elif "://" in uri and not uri.startswith("file:"):
        found = list(_database(uri))
    else:
        remedy = _UNSET
        return [wrong(f"{shown_uri(uri)} is a folder; MLflow refuses such stores", remedy)], None
    if any(finding.remedy for finding in found):
        return found, None
    client = open_store(uri, displaced=True)
    moved = displacement(client)
    if moved is not None:
        repair = moved.repair if moved.files_here or not moved.copied else None
        return [
            *found,
            wrong(f"{moved.text}; a study's records are examined after that", moved.remedy, repair=repair),
        ], None
    try:
        experiment = client.get_experiment_by_name(study) if study else None
    except MlflowException as error:
        return [*found, wrong(f"the store refuses: {first_line(error)}", _credentials(uri))], None
    return [*found, *_writable(client, uri, experiment), *_artifacts(client, experiment)], client


def _server(uri: str) -> Iterator[Finding]:
    """Ask a tracking server for its version, and whether it lets us in."""
    import mlflow

    try:
        version = _get(uri, "version").decode("utf-8", "replace").strip()[:40]
        _get(uri, "api/2.0/mlflow/experiments/search?max_results=1")
    except urllib.error.HTTPError as error:
        yield wrong(f"{shown_uri(uri)} answers with HTTP {error.code} ({error.reason})", _http_remedy(error.code))
        return
    except (OSError, ValueError) as error:
        reason = mask(str(getattr(error, "reason", error)))
        yield wrong(f"{shown_uri(uri)} does not answer: {reason}", f"start the server, or {_UNSET}")
        return
    yield good(f"{shown_uri(uri)} answers, MLflow {version}")
    if version.split(".")[:2] != mlflow.__version__.split(".")[:2]:
        yield note(
            f"the server is MLflow {version}, the client here {mlflow.__version__}; run the same on both: "
            f"python -m pip install mlflow=={mlflow.__version__} where the server runs"
        )


def _get(uri: str, path: str) -> bytes:
    parts = urlsplit(uri)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    request = urllib.request.Request(f"{bare}/{path}")
    name = os.environ.get("MLFLOW_TRACKING_USERNAME") or unquote(parts.username or "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(parts.password or "")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if name:
        request.add_header("Authorization", f"Basic {b64encode(f'{name}:{password}'.encode()).decode()}")
    elif token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        content = answer.read(1_000_000)
    if path.startswith("api/") and not isinstance(json.loads(content), dict):
        raise ValueError("it does not answer as a tracking server does")
    return bytes(content)


def _http_remedy(code: int) -> str:
    if code == 401:
        return "export MLFLOW_TRACKING_USERNAME=<name> MLFLOW_TRACKING_PASSWORD=<password>"
    if code == 403:
        return "have the server's administrator add this address to --allowed-hosts, or give the user a permission"
    return "look into the server's log; " + _UNSET


def _credentials(uri: str) -> str:
    return _http_remedy(401) if uri.startswith("http") else "give the database's user the rights on its tables"


def _database(uri: str) -> Iterator[Finding]:
    """See that a database answers, has the tables of this MLflow, and takes a write (of no row)."""
    import sqlalchemy
    from alembic.runtime.migration import MigrationContext

    kind = uri.partition(":")[0].partition("+")[0]
    patience = {"sqlite": {"timeout": _PATIENCE}, "postgresql": {"connect_timeout": int(_PATIENCE)}}
    try:
        engine = sqlalchemy.create_engine(uri, connect_args=patience.get(kind, {}))
        with engine.connect() as connection:
            schema = MigrationContext.configure(connection).get_current_revision()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, UnicodeError) as error:
        yield wrong(f"{shown_uri(uri)} does not answer: {first_line(error)}", f"start the database, or {_UNSET}")
        return
    newest = newest_revision()
    if schema is None:
        yield note(f"{shown_uri(uri)} answers and is empty; the first command that records something makes the tables")
    elif schema != newest:
        yield wrong(
            f"{shown_uri(uri)} has the tables of another MLflow (schema {schema}, this MLflow's is {newest})",
            f"{upgrade_commands(uri, sqlite_file(uri))}; if the store is the newer one, make setup",
        )
    else:
        yield good(f"{shown_uri(uri)} answers, schema {schema} as this MLflow has it")
        yield from _shared(sqlite_file(uri))
        yield _takes_writes(engine, uri)
    engine.dispose()


def _shared(file: Path | None) -> Iterator[Finding]:
    """See that a write-ahead log is on a disk of this machine alone."""
    kind = None if file is None else shared_log(file)
    if kind is not None:
        yield wrong(
            f"{file} keeps a write-ahead log on {kind}, which other machines do not see: used from several it breaks",
            f"when nothing runs: sqlite3 {shlex.quote(str(file))} 'PRAGMA journal_mode = DELETE'; or set up a server",
        )


def _takes_writes(engine: object, uri: str) -> Finding:
    import sqlalchemy

    try:
        with engine.begin() as connection:  # type: ignore[attr-defined]
            connection.execute(sqlalchemy.text("UPDATE experiments SET name = name WHERE 1 = 0"))
    except sqlalchemy.exc.SQLAlchemyError as error:
        file = sqlite_file(uri)
        remedy = f"chmod u+w {file} {file.parent}" if file else "give the database's user the rights on its tables"
        return wrong(f"the store takes no writes: {first_line(error)}", remedy)
    return good("the store takes writes")


def _writable(client: MlflowClient, uri: str, experiment: Experiment | None) -> Iterator[Finding]:
    """See that a server takes a write, by giving a run a tag that it has already."""
    if not uri.startswith("http"):
        return
    runs = client.search_runs([experiment.experiment_id], max_results=1) if experiment else []
    kinds = [(run.info.run_id, run.data.tags[Tag.KIND]) for run in runs if Tag.KIND in run.data.tags]
    if not kinds:
        yield note("whether the server takes writes is seen once a study is recorded there")
        return
    try:
        client.set_tag(kinds[0][0], Tag.KIND, kinds[0][1])
    except MlflowException as error:
        remedy = "have the server's administrator give this user the permission EDIT on the experiment"
        yield wrong(f"the server takes no writes: {first_line(error)}", remedy)
    else:
        yield good("the server takes writes")


def _artifacts(client: MlflowClient, experiment: Experiment | None) -> Iterator[Finding]:
    """See that the place of a study's artifacts can be reached."""
    if experiment is None:
        return
    folder = local_folder(experiment.artifact_location)
    if folder is not None:
        if reason := unwritable(folder):
            yield wrong(f"artifacts cannot be written to {folder} ({reason})", f"chmod u+rwx {quote(str(folder))}")
        else:
            yield good(f"artifacts lie in {folder}")
        return
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=1)
    try:
        for run in runs:
            client.list_artifacts(run.info.run_id)
    except (MlflowException, OSError) as error:
        yield wrong(f"artifacts at {experiment.artifact_location} cannot be listed: {first_line(error)}", _UNSET)
    else:
        yield good(f"artifacts lie at {experiment.artifact_location}")
