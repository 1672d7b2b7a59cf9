"""Files that a command writes for its user: made aside, then put in place; what others keep in the folder stays.

A folder's hidden manifest lists which files each command wrote there. A folder that holds only this command's files is
exchanged for the new one in a single step, so that a kill leaves all of the former files or all of the new ones. In a
folder with other files, the new ones are first completed in a hidden subfolder and then put in place one by one. A
kill leaves that subfolder whole, and the next command finishes the work.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from registry.errors import Refused

__all__ = [
    "MANIFEST",
    "Staging",
    "file_digest",
    "remove_unfinished",
    "replacing",
    "staged",
    "unfinished_name",
    "write_text",
]

#: Which files each command wrote in a folder.
MANIFEST = ".donors-recipients.json"

_EXCHANGE, _CURRENT_FOLDER = 2, -100  # of renameat2(2)


def _never(_: Path) -> bool:
    return False


@dataclass(frozen=True)
class Staging:
    """A new folder for what a command writes.

    Attributes
    ----------
    folder
        Where to write. It holds nothing else, so it can be uploaded as a whole.
    output
        Where its files will be.
    """

    folder: Path
    output: Path
    _command: str
    _is_former: Callable[[Path], bool]

    def check(self, names: Iterable[str] = ()) -> None:
        """See that nothing of others stands where a file of the folder is to be.

        Parameters
        ----------
        names
            Files that are not written yet, and will be.

        Raises
        ------
        Refused
            If so.
        """
        written = _written(self.output).get(self._command, set())
        for name in sorted(_files(self.folder) | set(names)):
            place = self.output / name
            if _stands(place) and (place.is_dir() or (name not in written and not self._is_former(place))):
                raise Refused(
                    f"{place} was not written by {self._command}, so it stays, and nothing was written there; "
                    f"name another folder: -P output={self.output / self._command}"
                )
            blocking = next((above for above in place.parents if above.is_file()), None)
            if blocking is not None:
                raise Refused(f"{blocking} is a file; name another folder: -P output={self.output}-{self._command}")


@contextmanager
def staged(output: Path, command: str, *, is_former: Callable[[Path], bool] = _never) -> Iterator[Staging]:
    """Give a new folder whose files are put into another when the block ends without an error.

    Files that the command wrote there before are replaced, or removed if they are not written any more.

    Parameters
    ----------
    output
        Folder for the files; made if it is absent.
    command
        Name of the command, as of an entry point.
    is_former
        Whether a file that no manifest lists was written by the command all the same, by a version that kept none.

    Raises
    ------
    Refused
        If a file of somebody else stands in the way.
    """
    output = output.expanduser().resolve()
    with _alone(output):
        _finish(output, command)
    new = _new_folder(output, command)
    try:
        new.mkdir(parents=True)
        staging = Staging(new, output, command, is_former)
        yield staging
        staging.check()
        with _alone(output):
            _place(new, output, command)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _place(new: Path, output: Path, command: str) -> None:
    """Put the files of a new folder in place."""
    files = _files(new)
    if new.parent != output:
        _write_manifest(new, {command: files})
        if _is_own(output, command) and _exchange(new, output):
            return
        inside = output / new.name
        output.mkdir(parents=True, exist_ok=True)
        (new / MANIFEST).unlink()
        shutil.move(new, inside)
        new = inside
    new.rename(_complete(output, command))
    _finish(output, command)


def _finish(output: Path, command: str) -> None:
    """Put the files of a complete subfolder in place, if there is one: a killed process may have left it."""
    complete = _complete(output, command)
    if not complete.is_dir():
        return
    files, written = _files(complete), _written(output)
    for name in sorted(files):
        place = output / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as new:
            shutil.copy2(complete / name, new)
    for name in written.get(command, set()) - files:
        (output / name).unlink(missing_ok=True)
    _write_manifest(output, written | {command: files})
    done = complete.with_name(unfinished_name(f".{command}-"))  # only a whole folder may have the other name
    complete.rename(done)
    shutil.rmtree(done, ignore_errors=True)


def _exchange(new: Path, output: Path) -> bool:
    """Give a folder another's place in one step; False where the system cannot."""
    if not _stands(output) or not any(output.iterdir()):
        output.parent.mkdir(parents=True, exist_ok=True)
        new.rename(output)
        return True
    shutil.copymode(output, new)
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    return bool(rename(_CURRENT_FOLDER, os.fsencode(new), _CURRENT_FOLDER, os.fsencode(output), _EXCHANGE) == 0)


def _new_folder(output: Path, command: str) -> Path:
    """Return where to make the new folder: beside the output where that will be exchanged, else in it."""
    name = unfinished_name(f".{command}-")
    if _is_own(output, command):
        remove_unfinished(output.parent, f".{command}-")
        return output.with_name(name)
    remove_unfinished(output, f".{command}-")
    return output / name


def _is_own(output: Path, command: str) -> bool:
    """Whether a folder may be exchanged as a whole: it is absent, empty, or holds only what the command wrote."""
    above = next(folder for folder in output.parents if folder.is_dir())
    if not os.access(above, os.W_OK | os.X_OK) or output.is_mount() or Path.cwd().is_relative_to(output):
        return False
    if not _stands(output):
        return True
    if not output.is_dir():
        raise Refused(f"{output} is a file; name a folder with -P output=")
    known = _written(output)
    return set(known) <= {command} and _files(output) - {MANIFEST} <= known.get(command, set())


def _files(folder: Path) -> set[str]:
    """Return everything in a folder that is no folder, relative to it."""
    return {
        (Path(where) / name).relative_to(folder).as_posix()
        for where, folders, names in os.walk(folder)
        for name in (*names, *(found for found in folders if (Path(where) / found).is_symlink()))
    }


def _written(folder: Path) -> dict[str, set[str]]:
    """Return the files that each command wrote in a folder, by its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {command: {name for name in names if _is_inside(name)} for command, names in manifest.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _is_inside(name: object) -> bool:
    """Whether a manifest's entry stays in its folder; anybody may have written the manifest."""
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _write_manifest(folder: Path, written: dict[str, set[str]]) -> None:
    text = json.dumps({command: sorted(names) for command, names in sorted(written.items())}, indent=1)
    write_text(folder / MANIFEST, f"{text}\n")


def _complete(output: Path, command: str) -> Path:
    return output / f".{command}-complete"


def _stands(path: Path) -> bool:
    return os.path.lexists(path)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Be the only process of this machine and user that puts files into a folder."""
    name = hashlib.sha256(os.fsencode(output)).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"donors-recipients-{os.getuid()}-{name}.lock"):
        yield


# --- files and folders made beside their place and then put there, so that a reader sees all or none; files' digests


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
