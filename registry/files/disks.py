"""Errors of disks that are full, read-only or closed to this user, in words, whichever library raises them."""

from __future__ import annotations

import errno
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from registry.errors import Refused

__all__ = ["disk_problem", "require_writable", "unwritable"]

_FULL, _READ_ONLY, _CLOSED, _BROKEN = "full", "read-only", "closed", "broken"
_CODES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EIO: _BROKEN,
}
#: What libraries say that keep no error's number: SQLite, PostgreSQL, safetensors, Arrow, and servers.
_TEXTS = {
    "no space left on device": _FULL,
    "disk quota exceeded": _FULL,
    "file too large": _FULL,
    "database or disk is full": _FULL,
    "could not extend file": _FULL,
    "read-only file system": _READ_ONLY,
    "attempt to write a readonly database": _READ_ONLY,
    "cannot execute insert in a read-only transaction": _READ_ONLY,
    "cannot execute update in a read-only transaction": _READ_ONLY,
    "disk i/o error": _BROKEN,
}
_PATH = re.compile(r"'(/[^'\n]+)'")


def disk_problem(error: BaseException, place: Path | None = None) -> str | None:
    """Return what an error says of a disk and what helps, None if neither it nor its causes are of a disk.

    Parameters
    ----------
    error
        As it ended a command, with the errors behind it.
    place
        What was written, if the error does not name it.
    """
    for one in _chain(error):
        kind = _kind(one)
        if kind is not None:
            return _words(kind, _place(one) or place)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        behind = (getattr(one, "orig", None), one.__context__, one.__cause__, *getattr(one, "exceptions", ()))
        left += [other for other in behind if isinstance(other, BaseException)]


def _kind(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _CODES:
        return _CODES[error.errno] if error.filename is not None or _CODES[error.errno] != _CLOSED else None
    text = str(error).lower()
    return next((kind for words, kind in _TEXTS.items() if words in text), None)


def _place(error: BaseException) -> Path | None:
    """Return the file or folder that an error names."""
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if isinstance(named, str | bytes):
        return Path(named.decode() if isinstance(named, bytes) else named)
    found = _PATH.search(str(error))
    return Path(found[1]) if found else None


def _words(kind: str, place: Path | None) -> str:
    where = "the store's disk, or this machine's" if place is None else str(place)
    if kind == _FULL:
        free = "" if place is None else f" ({_free(place) / 1e6:,.0f} MB free)"
        return (
            f"the disk is full, or a quota used up: {where} could not be written{free}.\n"
            "Free some space, then give the same command again; nothing that was recorded before is lost"
        )
    if kind == _READ_ONLY:
        return (
            f"{where} is read-only, so nothing could be written there.\n"
            "Make it writable, or name another: -P output=<folder>, MLFLOW_TRACKING_URI=<store>, XDG_CACHE_HOME, TMPDIR"
        )
    if kind == _CLOSED:
        return (
            f"{where} may not be opened or written by this user.\nchmod u+rwX {where}, or name another: "
            "-P output=<folder>, MLFLOW_TRACKING_URI=<store>, XDG_CACHE_HOME, TMPDIR"
        )
    return f"{where} could not be read or written: the disk reports an error.\nLook at the disk (dmesg), then try again"


def _free(place: Path) -> int:
    there = next((folder for folder in (place, *place.parents) if folder.exists()), Path("/"))
    return shutil.disk_usage(there).free


# --- whether a folder can be written to, known before the work whose results go there


def unwritable(folder: Path) -> str:
    """Say why nothing can be written below a folder, which need not be there yet; empty where it can.

    A file without a name is made and goes at once: rights, read-only disks and quotas show in no other way.
    """
    place = folder.expanduser().absolute()
    for there in (place, *place.parents):
        try:
            # One look: another process may make the folder between two.
            if stat.S_ISDIR(there.stat().st_mode):
                break
            return f"{there} is no folder"
        except FileNotFoundError:
            if there.is_symlink():
                return f"{there} is no folder, but a link to nothing"
        except NotADirectoryError:
            continue  # what is no folder is one of its parents
        except OSError as error:
            return f"{there}: {error.strerror}"
    try:
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"{there}: {error.strerror}"


def require_writable(folder: Path, what: str, remedy: str) -> None:
    """Refuse a folder that nothing can be written to.

    Raises
    ------
    Refused
        With what it is for, the reason, and what to do instead.
    """
    if reason := unwritable(folder):
        raise Refused(f"{what} cannot be written to {folder} ({reason})\n  {remedy}")
