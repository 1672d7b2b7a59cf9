"""SQLite files: made whole or not at all, with a write-ahead log, so that readers wait for no writer.

Such a log needs memory that all its readers share, so it is kept on a disk of this machine only, and a file that
exists already stays as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil

__all__ = ["fold_log", "make_database", "shared_log"]

#: How the types of file systems begin that several machines, or a machine and its guests, may have mounted.
_SHARED = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs", "gpfs", "lustre", "nfs", "ocfs", "smb", "virtiofs")


def make_database(file: Path, make_tables: Callable[[Path], object]) -> bool:
    """Make a database that is not there yet, whole or not at all, and have it keep a write-ahead log.

    MLflow's migrations are committed one by one: a process that is killed between two of them would leave a file that
    no later one can open.

    Parameters
    ----------
    file
        The database; its folder is there, and no one else makes it now.
    make_tables
        Makes the tables in the file that it is given, and closes it.

    Returns
    -------
    bool
        Whether it was made.
    """
    if file.exists() and file.stat().st_size > 0:
        _require_database(file)
        return False
    new = file.with_name(f"{file.name}.new")
    for left in (new, new.with_name(f"{new.name}-wal"), new.with_name(f"{new.name}-shm")):
        left.unlink(missing_ok=True)
    _execute(new, "PRAGMA journal_mode = " + ("DELETE" if _shared(file) else "WAL"))
    make_tables(new)
    new.replace(file)
    return True


def _require_database(file: Path) -> None:
    """Fail at once where MLflow would try for two minutes.

    SQLite alone may open the file: whoever else closes it lets go of every lock that this process has on it, and the
    next writer breaks the database.
    """
    try:
        _execute(file, "PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise


def shared_log(file: Path) -> str | None:
    """Return the type of the shared file system on which a database keeps a write-ahead log, None if it does not.

    Its readers on other machines do not see each other's memory: they read old rows, and their writes can break it.
    """
    kind = _shared(file)
    if kind is None:
        return None
    try:
        with closing(sqlite3.connect(file)) as database:
            (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    except sqlite3.Error:  # whoever opens the store tells why
        return None
    return kind if mode == "wal" else None


def fold_log(file: Path) -> None:
    """Have what was written stand in the database's file itself, so that the file alone, copied, is a store."""
    _execute(file, "PRAGMA wal_checkpoint(TRUNCATE)")


def _execute(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute(statement).fetchall()


def _shared(file: Path) -> str | None:
    """Return the type of the file system that a file is on, if other machines may write to it too."""
    mounts = {Path(found.mountpoint): found.fstype for found in psutil.disk_partitions(all=True)}
    where = next((folder for folder in file.resolve().parents if folder in mounts), None)
    return mounts[where] if where is not None and mounts[where].startswith(_SHARED) else None
