"""A folder that appears whole or not at all, and that is recognised later: ``pulled.json`` lists its files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from registry.errors import Refused
from registry.files.adapter import WEIGHTS
from registry.files.outputs import file_digest, remove_unfinished, unfinished_name, write_text

__all__ = [
    "CARD",
    "MANIFEST",
    "Identity",
    "check_target",
    "is_ours",
    "is_same",
    "pulled_files",
    "refresh_card",
    "remove_leftovers",
    "replacing_folder",
    "write_manifest",
]

MANIFEST = "pulled.json"
CARD = "README.md"

_MAKING = ".pulling-"
_REPLACED = ".old"  # the former folder, removed only once the new one is in place: until then it may be all there is


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
    manifest = _manifest(target)
    if manifest is None or manifest.get("identity") != asdict(identity):
        return False
    wanted = {name: digest for name, digest in manifest["files"].items() if name != CARD}
    if not identity.merged and wanted.get(WEIGHTS) != identity.sha256:
        return False
    # A process that is killed while it writes one of the two leaves a file of such a name.
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    there = {name for name in there - {CARD, MANIFEST} if not name.startswith((f".{CARD}.", f".{MANIFEST}."))}
    return there == set(wanted) and all(file_digest(target / name) == wanted[name] for name in wanted)


def is_ours(target: Path) -> bool:
    """Whether a folder was pulled, so that it may be replaced."""
    return _manifest(target) is not None


def pulled_files(target: Path) -> list[str]:
    """Return what pulling put into a folder, relative to it."""
    manifest = _manifest(target)
    return sorted(manifest["files"]) if manifest else []


def write_manifest(folder: Path, identity: Identity) -> None:
    """Write down what a folder holds, readable by whoever may read the folder: a server may run as someone else."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)
    files = {
        path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    write_text(folder / MANIFEST, json.dumps({"identity": asdict(identity), "files": files}, indent=1) + "\n")


def refresh_card(target: Path, text: str) -> bool:
    """Replace a pulled folder's card by a newer one, unless it was edited; return whether it was replaced.

    The manifest first says that both cards are pulled ones: a process that is killed in between leaves either.
    """
    manifest = _manifest(target)
    path = target / CARD
    if manifest is None or not path.is_file():
        return False
    now, new = file_digest(path), hashlib.sha256(text.encode()).hexdigest()
    if now == new or now not in (manifest["files"].get(CARD), manifest.get("card")):
        return False
    manifest["files"][CARD], manifest["card"] = now, new
    write_text(target / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    write_text(path, text)
    return True


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside the target, which takes the target's place when the block ends without an error.

    Whatever goes wrong before, the target is as it was and the new folder is gone. A process that is killed leaves its
    folder behind; the next one to place something there removes it.
    """
    made = _make_parents(target)
    remove_unfinished(target.parent, _MAKING)
    new = target.parent / unfinished_name(_MAKING)
    done = False
    try:
        new.mkdir()
        yield new
        _replace(new, target)
        done = True
        remove_unfinished(target.parent, _MAKING, suffix=_REPLACED)
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
    old = new.with_name(f"{new.name}{_REPLACED}")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


def remove_leftovers(target: Path) -> None:
    """Remove what killed processes left beside a folder that is whole."""
    for suffix in ("", _REPLACED):
        remove_unfinished(target.parent, _MAKING, suffix=suffix)


def _manifest(target: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict):
        return None
    return manifest if all(isinstance(manifest.get(key), dict) for key in ("identity", "files")) else None
