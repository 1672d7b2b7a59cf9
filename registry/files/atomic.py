"""Files and folders made beside their place and then put there, so that a reader sees all or none; files' digests.

The name of an unfinished one holds the machine and the process that makes it. A process that is killed leaves it; the
next one that writes to the same place removes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

__all__ = ["file_digest", "remove_unfinished", "replacing", "unfinished_name", "write_text"]


def unfinished_name(prefix: str) -> str:
    """Return a new name for what this process is making."""
    return f"{prefix}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def remove_unfinished(folder: Path, prefix: str, *, suffix: str = "") -> None:
    """Remove what processes of this machine were making in a folder when they were killed."""
    name = re.compile(rf"{re.escape(f'{prefix}{socket.gethostname()}')}-(\d+)-[0-9a-f]{{8}}{re.escape(suffix)}")
    for path in folder.iterdir() if folder.is_dir() else ():
        match = name.fullmatch(path.name)
        if match and not psutil.pid_exists(int(match[1])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a path to write to, and put what was written in the file's place; after an error the file is as it was."""
    remove_unfinished(file.parent, f".{file.name}.")
    new = file.with_name(unfinished_name(f".{file.name}."))
    try:
        yield new
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_text(file: Path, text: str) -> None:
    """Replace a text file."""
    with replacing(file) as new:
        new.write_text(text, encoding="utf-8")


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
