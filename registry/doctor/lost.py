"""What to do about files that are not where they were recorded: nothing is deleted or trained again that may exist."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from shlex import quote

__all__ = ["copy_back", "found_elsewhere", "move_aside", "restore"]


def restore(root: Path | str) -> str:
    """Say what helps where all files of a kind are missing: the folder was moved, or is not mounted."""
    return (
        f"bring {root} back from where it was moved, mounted or backed up, then look again; nothing was deleted, and "
        "nothing needs training before that"
    )


def found_elsewhere(folder: Path, root: Path, holds: str) -> Path | None:
    """Look for a run's or a model's folder in the folders beside an experiment's, as after renaming one.

    Parameters
    ----------
    folder
        Where it should be, below ``root``.
    holds
        Pattern of the file that makes it the right one.
    """
    if not folder.is_relative_to(root):
        return None
    inside = folder.relative_to(root)
    for beside in _folders(root.parent):
        if beside != root and any((beside / inside).glob(holds)):
            return beside / inside
    return None


def copy_back(pairs: Iterable[tuple[Path, Path]]) -> str:
    """Return the command that copies the first folder found elsewhere to where it was recorded."""
    (found, folder), *others = pairs
    where, more = quote(str(folder)), "; the others likewise" if others else ""
    return f"mkdir -p {where} && cp -R {quote(str(found))}/. {where}/{more}"


def move_aside(root: Path, folders: Iterable[Path]) -> str:
    """Return the command that moves folders without an owner beside an experiment's, from where they can come back."""
    listed = list(folders)
    aside = root.with_name(f"{root.name}.unowned")
    some = " ".join(quote(str(path)) for path in listed[:3])
    return f"mkdir -p {quote(str(aside))} && mv {some}{' …' if len(listed) > 3 else ''} {quote(str(aside))}/"


def _folders(root: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in root.iterdir() if path.is_dir())
    except OSError:
        return
