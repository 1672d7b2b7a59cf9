"""The project's folder, and paths that start at it."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

__all__ = [
    "PROJECT",
    "checkpoint",
    "home",
    "resolved_path",
    "user_cache",
]

_log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Return the project's folder; for a package that was installed without its project, the working folder.

    The embedded stores are in it, and relative paths of a study file start there.
    """
    return PROJECT if (PROJECT / "MLproject").is_file() else Path.cwd()


def resolved_path(path: str) -> Path:
    """Return where a study file's path points: a relative one starts at the project's folder.

    What is not there is looked for from the caller's folder, which is another one where the project was fetched from
    elsewhere or is installed.
    """
    given = Path(path).expanduser()
    ours, theirs = home() / given, Path.cwd() / given
    if ours.exists() and theirs.exists() and not ours.samefile(theirs):
        _warn(ours, theirs)
    return theirs if theirs.exists() and not ours.exists() else ours


@cache
def _warn(ours: Path, theirs: Path) -> None:
    _log.warning("%s is read, and %s is not: write the whole path of the one that is meant", ours, theirs)


# --- folders in the user's cache that belong to this project


def user_cache() -> Path:
    """Return the project's folder in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "donors-recipients"


def checkpoint(fingerprint: str) -> Path:
    """Return the file that keeps the finished epochs of a long training, by its fingerprint, on this machine."""
    return user_cache() / "training" / f"{fingerprint}.safetensors"
