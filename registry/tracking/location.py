"""A SQLite store whose folder was moved or copied: recognised, and its artifact addresses rewritten.

MLflow records artifacts under absolute addresses. A folder that holds a database and its ``mlartifacts`` keeps naming
the place where it was made after it was moved or copied: files are then missing, or are those of the original.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from registry.tracking.recording import local_folder

__all__ = ["ARTIFACTS", "REPAIR", "Displacement", "find_displacement"]

#: Folder beside an embedded database that holds its artifacts.
ARTIFACTS = "mlartifacts"

#: Command that rewrites the addresses.
REPAIR = "mlflow run . -e doctor --env-manager local -P repair=true"

#: Folders beside a database that are its own: this project's, and the one MLflow names for its experiment `Default`.
_OWN = (ARTIFACTS, "mlruns")

#: Tables and columns that hold artifact addresses, and which rows of them.
_ADDRESSES = (
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("logged_models", "artifact_location", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("trace_tags", "value", "WHERE key = 'mlflow.artifactLocation'"),
)


@dataclass(frozen=True)
class Displacement:
    """A database that is not where its addresses say.

    Attributes
    ----------
    database
        Its file.
    here
        Folder that it is in now.
    homes
        Folders that recorded addresses start with.
    copied
        Whether the original, or files of it, is still in one of them.
    files_here
        Whether artifacts are in ``here``.
    """

    database: Path
    here: Path
    homes: tuple[Path, ...]
    copied: bool
    files_here: bool

    @property
    def text(self) -> str:
        """What is wrong, in one line."""
        homes = " and ".join(map(str, self.homes))
        if self.copied and not self.files_here:
            return f"{self.database} is a copy of a database of {homes}, without its files"
        if self.copied:
            return f"{self.database} is a copy: its artifact addresses name the original's folder {homes}"
        if self.files_here:
            return f"{self.database} was moved: its artifact addresses still name {homes}"
        return f"{self.database} was moved from {homes} without its files"

    @property
    def remedy(self) -> str:
        """Command that ends it."""
        if self.copied and not self.files_here:
            copies = (f"cp -R {quote(str(home / ARTIFACTS))} {quote(str(self.here))}/" for home in self.homes)
            return f"{' && '.join(copies)} && {REPAIR}"
        if not self.files_here:
            return f"bring {ARTIFACTS} back beside the database, then {REPAIR}"
        return REPAIR

    @property
    def refusal(self) -> str:
        """What a command says that will not work on such a store."""
        if self.copied and not self.files_here:
            return f"{self.text}; copy these too, and rewrite its addresses:\n  {self.remedy}"
        return f"{self.text}; after a backup of the database, this rewrites them:\n  {self.remedy}"

    def repair(self) -> str:
        """Have every address name the database's own folder, after a backup; returns what was done, in words.

        Files of recorded runs and models that only the original's folder holds are copied from there first; nothing is
        written to that folder or removed from it. The addresses change in one transaction.
        """
        with closing(sqlite3.connect(self.database, timeout=20)) as database:
            backup = _backup(database, self.database)
            database.isolation_level = None
            database.execute("BEGIN IMMEDIATE")
            try:
                count = copies = 0
                for table, column, new_rows in self._rewritten(database):
                    copies += sum(_copy(old, new) for old, new in new_rows.folders)
                    database.executemany(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", new_rows.rows)
                    count += len(new_rows.rows)
                database.execute("COMMIT")
            except BaseException:
                database.execute("ROLLBACK")
                raise
        said = f"{count:,} addresses name {self.here} now"
        if copies:
            said += f", {copies:,} folders were copied from {' and '.join(map(str, self.homes))}"
        return f"{said}; the database as it was is {backup}"

    def _rewritten(self, database: sqlite3.Connection) -> Iterator[tuple[str, str, _Rows]]:
        """Yield every table and column with the rows that change."""
        for table, column, condition in _ADDRESSES:
            if column not in {name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")}:
                continue
            found = _Rows([], [])
            for row, address in database.execute(f"SELECT rowid, {column} FROM {table} {condition}").fetchall():
                old = local_folder(address) if address else None
                new = None if old is None else self._place(old)
                if old is not None and new is not None:
                    found.rows.append((new.as_uri(), row))
                    if table in ("runs", "logged_models"):
                        found.folders.append((old, new))
            yield table, column, found

    def _place(self, folder: Path) -> Path | None:
        """Return where a recorded folder belongs here; None if it is of no former home."""
        for home in self.homes:
            if any(folder.is_relative_to(home / own) for own in _OWN):
                return self.here / folder.relative_to(home)
        return None


@dataclass(frozen=True)
class _Rows:
    """Changes of a column: new addresses by row, and the folders that belong to them, old and new."""

    rows: list[tuple[str, int]]
    folders: list[tuple[Path, Path]]


def find_displacement(database: Path, locations: Iterable[tuple[str, str]]) -> Displacement | None:
    """Tell whether a database was moved or copied away from its artifacts; None for one that is at home.

    Two paths to one folder, as by a link or a second mount, are the same place. An experiment whose artifacts were put
    elsewhere on purpose is no sign of a move.

    Parameters
    ----------
    database
        File of the store.
    locations
        Names and artifact addresses of its experiments.
    """
    here = _own_folder(database)
    homes: dict[Path, list[Path]] = {}
    for name, location in locations:
        folder = local_folder(location)
        home = None if folder is None else _home(name, folder)
        if folder is not None and home is not None and not _same(home, here):
            homes.setdefault(home, []).append(folder)
    found = {home: _at(home, here, folders) for home, folders in homes.items()}
    away = {home: place for home, place in found.items() if place.displaced}
    if not away:
        return None
    return Displacement(
        database,
        here,
        tuple(sorted(away)),
        copied=any(place.files_there or place.original for place in away.values()),
        files_here=any(place.files_here for place in away.values()),
    )


@dataclass(frozen=True)
class _Place:
    """What is found of a former home."""

    files_here: bool
    files_there: bool
    original: bool  # a database that names the same addresses is there
    exists: bool

    @property
    def displaced(self) -> bool:
        """Whether addresses must change; a database that was moved alone, away from its files, still finds them."""
        return self.files_here or self.original or not self.exists


def _at(home: Path, here: Path, folders: Iterable[Path]) -> _Place:
    known = list(folders)
    beside = [here / folder.relative_to(home) for folder in known]
    return _Place(any(map(_is_there, beside)), any(map(_is_there, known)), _has_original(home, known), _is_there(home))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # another user's folder, of which nothing can be seen
        return False


def _has_original(home: Path, folders: Iterable[Path]) -> bool:
    """Whether a database in a folder names these folders too."""
    try:
        files = [file for file in home.glob("*.db") if file.is_file()]
    except OSError:
        return False
    return any(set(folders) & set(_folders_of(file)) for file in files)


def _folders_of(file: Path) -> list[Path]:
    """Return the folders of experiments that a database names; none where it is no database of MLflow's."""
    # Without a write-ahead log in use, a file that is taken for unchanging is read without one beside it being made.
    log = file.with_name(f"{file.name}-wal")
    how = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?{how}", uri=True, timeout=2)) as database:
            addresses = [row[0] for row in database.execute("SELECT artifact_location FROM experiments") if row[0]]
    except sqlite3.Error:
        return []
    return [folder for folder in map(local_folder, addresses) if folder is not None]


def _own_folder(database: Path) -> Path:
    """Return the folder a database's artifacts belong in: where its path says, or where a link to it points."""
    given, real = database.absolute().parent, database.resolve().parent
    return real if not (given / ARTIFACTS).exists() and (real / ARTIFACTS).exists() else given


def _home(name: str, folder: Path) -> Path | None:
    """Return the folder whose ``mlartifacts`` an experiment's artifacts are in; None if they are in no such folder."""
    named = (ARTIFACTS, *Path(name).parts)
    if folder.parts[-len(named) :] == named:
        return Path(*folder.parts[: -len(named)])
    places = [number for number, part in enumerate(folder.parts) if part == ARTIFACTS]  # the experiment was renamed
    return Path(*folder.parts[: places[-1]]) if places and places[-1] > 0 else None


def _same(one: Path, other: Path) -> bool:
    """Whether two folders, or the artifacts in them, are one and the same."""
    for first, second in ((one, other), (one / ARTIFACTS, other / ARTIFACTS)):
        try:
            if first == second or first.samefile(second):
                return True
        except OSError:
            continue
    return False


def _backup(database: sqlite3.Connection, file: Path) -> Path:
    """Copy a database, with what its write-ahead log holds, beside itself."""
    backup = file.with_name(f"{file.name}.backup-{time.strftime('%Y%m%d-%H%M%S')}")
    with closing(sqlite3.connect(backup)) as copy:
        database.backup(copy)
    return backup


def _copy(old: Path, new: Path) -> bool:
    """Copy a folder that is only in its old place; returns whether that was needed."""
    if new.exists() or not old.is_dir():
        return False
    part = new.with_name(f"{new.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(old, part)
    part.rename(new)
    return True
