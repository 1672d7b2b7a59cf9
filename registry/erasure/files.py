"""Files of runs, models, caches and checkpoints: found, counted, and erased once no record names them.

Which files go is written down before the first record is erased: a process that is killed in between leaves files that
no record leads to, and the next one finds them in this list.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from registry.erasure.inventory import Inventory, Subject
from registry.files.outputs import write_text
from registry.paths import checkpoint, user_cache
from registry.tracking.recording import local_folder
from registry.tracking.store import sqlite_file

__all__ = ["Files", "Journal", "erase_files", "files_of"]


@dataclass(frozen=True)
class Files:
    """Where something lies.

    Attributes
    ----------
    owner
        Id of the run or model whose files these are; empty for what no record names, such as a cache.
    address
        A path of this machine, or the address of an artifact store.
    count, size
        How many files, and their bytes.
    """

    owner: str
    address: str
    count: int = 0
    size: int = 0

    @property
    def path(self) -> Path | None:
        """The folder or file on this machine, None for one elsewhere."""
        return local_folder(self.address)


def files_of(client: MlflowClient, found: Inventory, caches: Iterable[Path]) -> tuple[list[Files], list[str]]:
    """Find the files of an inventory.

    Parameters
    ----------
    caches
        Files and folders of this machine with copies of what goes.

    Returns
    -------
    list of Files, list of str
        Those that go, and what stays because it is not of this store, in words.
    """
    going, staying = [], []
    home = _home(client)
    for owner, address in found.addresses():
        path = local_folder(address)
        if path is not None and home is not None and not path.resolve().is_relative_to(home):
            if path.exists():
                staying.append(f"{path}: it is not in the store's folder, and may be another store's")
            continue
        folder = str(_own_folder(path, owner)) if path is not None else address
        going.append(_measured(client, Files(owner, folder)))
    going += _lost_models(client, found, home)
    others = [*caches, *(checkpoint(fingerprint) for fingerprint in sorted(found.fingerprints))]
    going += [_measured(client, Files("", str(path))) for path in others if path.exists()]
    return [one for one in going if one.count or one.path is None or one.path.exists()], staying


def erase_files(client: MlflowClient, listed: Iterable[Files]) -> list[str]:
    """Erase files, and folders of the store that are empty then; return what could not be erased, with the reason."""
    left, emptied = [], set()
    for one in listed:
        path = one.path
        try:
            if path is None:
                get_artifact_repository(one.address, tracking_uri=client.tracking_uri).delete_artifacts()
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
                emptied.add(path.parent)
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
        except (MlflowException, NotImplementedError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if (
                "RESOURCE_DOES_NOT_EXIST" not in reason
                and getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST"
            ):
                left.append(f"{one.address}: {reason}")
    for folder in sorted(emptied, key=lambda folder: len(folder.parts), reverse=True):
        for place in (folder, folder.parent):  # models/ within an experiment's folder
            with suppress(OSError):
                place.rmdir()
    return left


@dataclass(frozen=True)
class Journal:
    """The list of files that an erasure began to erase, beside the store or in the user's cache."""

    file: Path

    @classmethod
    def of(cls, uri: str, subject: Subject) -> Journal:
        """Return the journal of what is erased from a store."""
        store = sqlite_file(uri)
        folder = user_cache() / "forget" if store is None else store.parent
        name = hashlib.sha256(f"{uri}\n{subject}".encode()).hexdigest()[:16]
        return cls(folder / f".forget-{name}.json")

    def read(self) -> list[Files]:
        """Return what is listed, nothing if there is no list."""
        try:
            return [Files(**one) for one in json.loads(self.file.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def write(self, listed: Iterable[Files]) -> None:
        """Replace the list."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json.dumps([asdict(one) for one in listed]))

    def end(self) -> None:
        """Remove the list: all of it is erased."""
        self.file.unlink(missing_ok=True)


def _home(client: MlflowClient) -> Path | None:
    """Return the folder that all files of a SQLite store must be in; None for other stores."""
    file = sqlite_file(client.tracking_uri)
    return None if file is None else file.parent.resolve()


def _own_folder(path: Path, owner: str) -> Path:
    """Return the folder that holds a run's or model's files and nothing else: ``<id>/artifacts`` lies in ``<id>``."""
    return path.parent if path.name == "artifacts" and path.parent.name == owner else path


def _lost_models(client: MlflowClient, found: Inventory, home: Path | None) -> list[Files]:
    """Find the files of models whose records were erased by `mlflow gc` already."""
    if home is None:
        return []
    folder = home / "mlartifacts" / (found.subject.study or _study_of(found)) / "models"
    lost = (folder / model for model, address in found.models.items() if not address)
    return [_measured(client, Files(path.name, str(path))) for path in lost if path.is_dir()]


def _study_of(found: Inventory) -> str:
    return next((version.tags.get("study", "") for version in found.versions), "")


def _measured(client: MlflowClient, one: Files) -> Files:
    path = one.path
    if path is None:
        return Files(one.owner, one.address, *_remote(client, one.address))
    every = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Files(one.owner, one.address, len(every), sum(file.stat().st_size for file in every))


def _remote(client: MlflowClient, address: str) -> tuple[int, int]:
    """Count an artifact store's files and bytes; what cannot be listed counts as nothing."""
    repository = get_artifact_repository(address, tracking_uri=client.tracking_uri)
    count = size = 0
    folders: list[str | None] = [None]
    with suppress(MlflowException, OSError):
        while folders:
            for file in repository.list_artifacts(folders.pop()):
                if file.is_dir:
                    folders.append(file.path)
                else:
                    count, size = count + 1, size + (file.file_size or 0)
    return count, size
