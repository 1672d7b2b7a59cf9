"""Disks that are full, read-only or closed to this user: told in words, whichever library notices."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["disk_problem"]

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


def disk_problem(error: BaseException) -> str | None:
    """Return what an error says of a disk and what helps, None if neither it nor its causes are of a disk.

    Parameters
    ----------
    error
        As it ended a command, with the errors behind it.
    """
    for one in _chain(error):
        kind = _kind(one)
        if kind is not None:
            return _words(kind, _place(one))
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
