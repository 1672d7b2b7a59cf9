"""Whose tables a store has: this MLflow's, or those of another version, which no command changes without being asked.

MLflow migrates a database as soon as a client opens it and a table is lacking. So each database is looked at before.
"""

from __future__ import annotations

import logging
import re
import shlex
from functools import cache
from multiprocessing import parent_process
from pathlib import Path

import mlflow
import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from packaging.version import InvalidVersion, Version
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from registry.errors import Refused
from registry.masking import has_secret, mask_uri

__all__ = ["newest_revision", "require_own_schema", "require_tested_server", "upgrade_commands"]

_log = logging.getLogger(__name__)

#: How a migration of Alembic's notes its revision, and the one before it.
_NOTED = re.compile(r'^(revision|down_revision) = "(\w+)"', re.MULTILINE)
_REVISIONS = "alembic_version"  # the table in which Alembic, and so MLflow, notes what a database's tables are
_OLDEST_SERVER = Version("3")
_PATIENCE = 10.0  # seconds that a server may take to tell its version
_ELSEWHERE = "export MLFLOW_TRACKING_URI=<another store>, or unset it for the one in the project's folder"


def require_own_schema(uri: str, file: Path | None) -> None:
    """Refuse a database whose tables are those of another MLflow, or of another program; nothing in it is changed.

    Parameters
    ----------
    file
        The file of a SQLite store. None of another program may open it, and SQLite would make one that is absent.

    Raises
    ------
    Refused
        With the commands that back it up and upgrade it. One that is empty, or does not answer, is not refused.
    """
    if file is not None and not (file.exists() and file.stat().st_size):
        return
    engine = create_engine(uri, poolclass=NullPool)
    try:
        found, tables = _revision(engine)
    except SQLAlchemyError:  # whoever opens the store tells why
        return
    finally:
        engine.dispose()
    if found is None:
        if file is not None and tables:
            raise Refused(f"{file} is a database of another program, and was not changed.\n{_ELSEWHERE}")
        return
    if found == newest_revision():
        return
    here = f"MLflow {mlflow.__version__}"
    if found not in _revisions():
        raise Refused(
            f"{mask_uri(uri)} is of a newer MLflow than {mlflow.__version__} here, or of another program (schema "
            f"{found}); it was not changed.\npython -m pip install --upgrade mlflow; or {_ELSEWHERE}"
        )
    raise Refused(
        f"{mask_uri(uri)} is of an older version than {here} (schema {found}, not {newest_revision()}); it was not "
        f"changed. Back it up, then upgrade it:\n{upgrade_commands(uri, file)}"
    )


def upgrade_commands(uri: str, file: Path | None) -> str:
    """Return what backs a database up and then upgrades it."""
    address = '"$MLFLOW_TRACKING_URI"' if has_secret(uri) else shlex.quote(uri)
    if file is not None:
        copy = shlex.quote(f".backup '{file}.before-upgrade'")
        return f"sqlite3 {shlex.quote(str(file))} {copy} && mlflow db upgrade {address}"
    return f"mlflow db upgrade {address}   # after a backup: docs/server.md, Backup and restore"


def newest_revision() -> str:
    """Return the revision of this MLflow's tables."""
    (newest,) = _revisions().keys() - _revisions().values()
    return newest


@cache
def _revisions() -> dict[str, str | None]:
    """Return the revisions that this MLflow knows, each with the one before it.

    They are read from the text of its migrations: Alembic would run all of them, 0.3 s at every command.
    """
    found = {}
    for script in (Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        noted = dict(_NOTED.findall(script.read_text(encoding="utf-8")))
        if "revision" in noted:
            found[noted["revision"]] = noted.get("down_revision")
    return found


def _revision(engine: Engine) -> tuple[str | None, bool]:
    """Return the revision that a database notes, None if it notes none, and whether it has tables of other programs."""
    from mlflow.store.tracking.dbmodels.initial_models import Base

    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        if _REVISIONS in tables:
            rows = connection.execute(text(f"SELECT version_num FROM {_REVISIONS}")).scalars().all()
            return (str(rows[0]) if rows else None), False
        return None, not tables <= set(Base.metadata.tables)  # an interrupted first contact leaves some of these


def require_tested_server(uri: str) -> None:
    """Refuse a tracking server of a version that lacks what is recorded here; say that another was not tested.

    A server that does not answer is left to the first request, which is made again and again.

    Raises
    ------
    Refused
        If the server is older than MLflow 3.
    """
    version = _server_version(uri)
    if version is None:
        return
    here = Version(mlflow.__version__)
    if version < _OLDEST_SERVER:
        raise Refused(
            f"{mask_uri(uri)} is a server of MLflow {version}; version 3 or newer is needed, which keeps models.\n"
            f"There, after a backup: python -m pip install mlflow=={here}; mlflow db upgrade <its database>"
        )
    if version.release[:2] != here.release[:2] and parent_process() is None:
        age = "older" if version < here else "newer"
        _log.warning("the server is MLflow %s, %s than %s, which this project is tested with", version, age, here)


def _server_version(uri: str) -> Version | None:
    """Return the version that a tracking server tells, None if it tells none."""
    try:
        answer = http_request(
            get_default_host_creds(uri), "/version", "GET", max_retries=0, timeout=_PATIENCE, raise_on_status=False
        )
        return Version(answer.text.strip()) if answer.status_code == requests.codes.ok else None
    except (MlflowException, requests.RequestException, InvalidVersion):
        return None
