"""A folder that appears whole or not at all, and that can be told again: ``pulled.json`` lists what lies in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from registry.errors import Refused
from registry.files.adapter import WEIGHTS

__all__ = [
    "CARD",
    "MANIFEST",
    "Identity",
    "check_target",
    "is_ours",
    "is_same",
    "placed",
    "pulled_files",
    "refresh_card",
    "seal",
    "tidy",
]

MANIFEST = "pulled.json"
CARD = "README.md"

_MAKING = ".pulling-"


@dataclass(frozen=True)
class Identity:
    """What a pulled folder holds: which version, its weights' SHA-256, and the data type where they are merged."""

    uri: str
    sha256: str
    merged: str = ""


def check_target(target: Path) -> None:
    """Refuse a place where no folder can be.

    Raises
    ------
    Refused
        If the target, or what would be its parent, is a file.
    """
    for place in (target, *target.parents):
        if place.exists():
            if not place.is_dir():
                raise Refused(f"{place} is a file; name a folder with -P output=")
            return


def is_same(target: Path, identity: Identity) -> bool:
    """Whether a folder holds just what pulling would put there; its card may differ."""
    told = _manifest(target)
    if told is None or told.get("identity") != asdict(identity):
        return False
    wanted = {name: digest for name, digest in told["files"].items() if name != CARD}
    if not identity.merged and wanted.get(WEIGHTS) != identity.sha256:
        return False
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    there -= {CARD, MANIFEST, *(f".{name}.new" for name in (CARD, MANIFEST))}  # the latter a killed process left
    return there == set(wanted) and all(_digest(target / name) == wanted[name] for name in wanted)


def is_ours(target: Path) -> bool:
    """Whether a folder was pulled, so that it may be replaced."""
    return _manifest(target) is not None


def pulled_files(target: Path) -> list[str]:
    """Return what pulling put into a folder, relative to it."""
    told = _manifest(target)
    return sorted(told["files"]) if told else []


def seal(folder: Path, identity: Identity) -> None:
    """Write down what a folder holds, readable by whoever may read the folder: a server may run as someone else."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)
    files = {path.relative_to(folder).as_posix(): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    _write(folder / MANIFEST, json.dumps({"identity": asdict(identity), "files": files}, indent=1) + "\n")


def refresh_card(target: Path, text: str) -> bool:
    """Replace a pulled folder's card by a newer one, unless it was edited; return whether it was replaced.

    The manifest first says that both cards are pulled ones: a process that is killed in between leaves either.
    """
    told = _manifest(target)
    path = target / CARD
    if told is None or not path.is_file():
        return False
    now, new = _digest(path), hashlib.sha256(text.encode()).hexdigest()
    if now == new or now not in (told["files"].get(CARD), told.get("card")):
        return False
    told["files"][CARD], told["card"] = now, new
    _write(target / MANIFEST, json.dumps(told, indent=1) + "\n")
    _write(path, text)
    return True


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Give a new folder beside the target, which takes the target's place when the block ends without an error.

    Whatever goes wrong before, the target is as it was and the new folder is gone. A process that is killed leaves its
    folder behind; the next one to place something there removes it.
    """
    made = _make_parents(target)
    _sweep(target.parent)
    new = target.parent / f"{_MAKING}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    done = False
    try:
        new.mkdir()
        yield new
        _replace(new, target)
        done = True
        _sweep(target.parent, replaced=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if not done:
            for parent in made:
                with suppress(OSError):  # someone else has put something there
                    parent.rmdir()


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above the target, and return those that were not there, the innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _replace(new: Path, target: Path) -> None:
    """Put a folder in another's place. Between the two steps that this takes, the old one has another name."""
    if not target.exists():
        new.rename(target)
        return
    old = new.with_name(f"{new.name}.old")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


def tidy(target: Path) -> None:
    """Remove what killed processes left beside a folder that is whole."""
    for replaced in (False, True):
        _sweep(target.parent, replaced=replaced)


def _sweep(parent: Path, *, replaced: bool = False) -> None:
    """Remove the folders that processes of this machine were making, or had ``replaced``, when they were killed.

    What was replaced goes only once there is something new: until then it may be all there is.
    """
    beginning = f"{_MAKING}{socket.gethostname()}-"
    for left in parent.glob(f"{_MAKING}*"):
        pid = left.name.removeprefix(beginning).partition("-")[0]
        ours = left.name.startswith(beginning) and (left.suffix == ".old") == replaced and pid.isdecimal()
        if ours and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _manifest(target: Path) -> dict[str, Any] | None:
    try:
        told = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(told, dict) and isinstance(told.get("identity"), dict) and isinstance(told.get("files"), dict)
    return told if whole else None


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
