"""Whether a folder can be written to, known before the work whose results go there."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from registry.refusal import Refused

__all__ = ["require_writable", "unwritable"]


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
