"""Whether a file has the content that the hub says it has.

huggingface_hub keeps each downloaded file under the name of its digest: the SHA-256 of a large one (Git LFS), the
SHA-1 that Git gives a small one. It also keeps each commit's listing, which has the same digests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from registry.benchmarks.hub.sources import HubDataset
from registry.errors import Refused

__all__ = ["check_digests", "commits_listed", "files_of", "listing"]

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_POINTER = b"version https://git-lfs.github.com/spec/"


def check_digests(source: HubDataset, folder: Path, patterns: Iterable[str], *, trees: Path, remedy: str) -> None:
    """Compare every file that matches with the digest it was published under; one of unknown digest passes.

    Parameters
    ----------
    trees
        Folder of the listings of commits.
    remedy
        What to do about a damaged file.

    Raises
    ------
    Refused
        If a file has another content, or is only a pointer of Git LFS.
    """
    published = listing(trees, source.revision) or {}
    for name, path in files_of(folder, patterns):
        digest = published.get(name) or _named_digest(path)
        content = path.read_bytes()
        if digest and _digest(content, like=digest) != digest:
            what = f"{path.resolve()} is damaged ({name} of {source}): its content is not that of its digest"
            raise Refused(f"{what} {digest[:12]}…; {remedy}")
        if content.startswith(_POINTER):
            raise Refused(f"{path} is a pointer of Git LFS, not the data; in {folder}: git lfs pull")


def files_of(folder: Path, patterns: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder that match any pattern: name from the folder on, and path."""
    patterns = tuple(patterns)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        inside = name.parts[0] not in (".cache", ".git") and path.is_file()
        if inside and any(fnmatchcase(name.as_posix(), pattern) for pattern in patterns):
            yield name.as_posix(), path


def commits_listed(trees: Path) -> tuple[str, ...]:
    """Return the commits whose listings are there."""
    return tuple(sorted(path.stem for path in trees.glob("*.json")))


def listing(trees: Path, commit: str) -> Mapping[str, str] | None:
    """Return file → digest of a commit, None if its listing is not there or is of a kind not known here."""
    path = trees / f"{commit}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != 1:
            return None
        return {name: entry.get("lfs_sha256") or entry["blob_id"] for name, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # huggingface_hub, too, takes a listing that it cannot read for none


def _named_digest(path: Path) -> str | None:
    """Return the digest that a cached file is named by: a snapshot's file is a link to it."""
    name = path.readlink().name if path.is_symlink() else ""
    return name if _DIGEST.fullmatch(name) else None


def _digest(content: bytes, *, like: str) -> str:
    """Return a content's SHA-256, or Git's SHA-1 of it, as long as the digest it is compared with."""
    if len(like) == 64:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
