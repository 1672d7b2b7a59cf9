"""SQLite files with a write-ahead log: readers then wait for no writer, and a commit for no disk.

Whatever kills a process, what it committed is there. A power cut may take the last commits, and leaves the file whole.
Such a log needs memory that all its readers share, so it is kept on a disk of this machine only, and a file that is
there already stays as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, event

__all__ = ["made_with_log"]

#: How the types of file systems begin that several machines, or a machine and its guests, may have mounted.
_SHARED = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs", "gpfs", "lustre", "nfs", "ocfs", "smb", "virtiofs")


@contextmanager
def made_with_log(file: Path) -> Iterator[None]:
    """Have a file that is not there yet keep a write-ahead log, and what is written inside stand in the file itself.

    Parameters
    ----------
    file
        The database; its folder is there.
    """
    if (file.exists() and file.stat().st_size > 0) or _shared(file):
        yield
        return
    with suppress(sqlite3.Error):  # a file that cannot be made is MLflow's to tell of
        _execute(file, "PRAGMA journal_mode = WAL")
    yield
    _execute(file, "PRAGMA wal_checkpoint(TRUNCATE)")  # so that the file alone, copied, is a store


@event.listens_for(Engine, "connect")
def _spare_the_disk(connection: Any, _: object) -> None:
    """Have a connection to a file with a write-ahead log not wait for the disk at every commit."""
    if isinstance(connection, sqlite3.Connection):
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            connection.execute("PRAGMA synchronous = NORMAL")


def _execute(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute(statement).fetchall()


def _shared(file: Path) -> bool:
    """Whether a file lies where other machines may write to it too."""
    mounts = {Path(found.mountpoint): found.fstype for found in psutil.disk_partitions(all=True)}
    where = next((folder for folder in file.resolve().parents if folder in mounts), None)
    return where is not None and mounts[where].startswith(_SHARED)
