"""Tables kept on this machine, so that what cannot have changed is not read from a server again."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.reading.run_record import InconsistentRunError
from registry.tracking.columns import CHECKED, WITH_CHECKSUMS

if TYPE_CHECKING:  # slow to import
    from mlflow import MlflowClient

__all__ = ["CachedResult", "CachedTable", "cache_folder", "cache_root", "retried"]

_log = logging.getLogger(__name__)

_Found = TypeVar("_Found")

_VERSION = b"cache_version"
_OF = "of"
_ABANDONED_SECONDS = 3600.0  # writing takes no longer


def cache_root() -> Path:
    """Return where analyses keep what they read: ``donors-recipients/analysis`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "donors-recipients" / "analysis"


def cache_folder(root: Path, uri: str, experiment_id: str) -> Path:
    """Return the folder of one experiment of one server."""
    return root / hashlib.sha256(f"{uri}\n{experiment_id}".encode()).hexdigest()[:20]


def retried(read: Callable[[], _Found], client: MlflowClient, study: str, *, cache: Path | None) -> _Found:
    """Read from a study, and again without its cached copy if that contradicts itself: no run is blamed before.

    Raises
    ------
    InconsistentRunError
        If the store itself contradicts itself.
    """
    try:
        return read()
    except InconsistentRunError as error:
        if cache is None:
            raise
        _log.warning("%s; the cached copy of the study in %s is deleted and the store is read again", error, cache)
        experiment = client.get_experiment_by_name(study)
        if experiment is not None:
            folder = cache_folder(cache, client.tracking_uri, str(experiment.experiment_id))
            shutil.rmtree(folder, ignore_errors=True)
        return read()


@dataclass(frozen=True)
class CachedTable:
    """A Parquet file that is whole or not there, whoever else writes it and whenever a process is killed.

    Of two that write at once the later stays, and the other's rows are read from the server again: that is why
    nothing but copies may be kept here.

    Parameters
    ----------
    path
        The file; its folder is made by the first :meth:`write`.
    schema
        Names and types of its columns.
    version
        Of what the columns mean; a file of another version counts as absent.
    """

    path: Path
    schema: pa.Schema
    version: str

    def read(self) -> pa.Table:
        """Return the rows; none if there is no file, or none that can be used, which is logged."""
        try:
            with self.path.open("rb") as file:
                table = pq.read_table(file, **CHECKED)
        except FileNotFoundError:
            return self.schema.empty_table()
        except (OSError, ValueError, MemoryError, OverflowError, pa.ArrowException) as error:
            return self._rebuilt(f"cannot be read ({error})")
        version = (table.schema.metadata or {}).get(_VERSION, b"none").decode(errors="replace")
        if version != self._mark:
            return self._rebuilt(f"is of version {version}, not {self._mark}")
        if not table.schema.equals(self.schema):
            return self._rebuilt("has other columns")
        return table.replace_schema_metadata(None)

    def write(self, table: pa.Table) -> None:
        """Replace the rows; a folder that cannot be written to is logged, and the next analysis reads them again."""
        marked = table.cast(self.schema).replace_schema_metadata({_VERSION: self._mark.encode()})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._replace(marked)
        except OSError as error:
            _log.warning(
                "nothing is kept in %s, so that the next analysis reads everything again: %s", self.path, error
            )

    @property
    def _mark(self) -> str:
        """The version, and that pages have checksums: without them a flipped bit would give another number."""
        return f"{self.version} with checksums"

    def _replace(self, table: pa.Table) -> None:
        self._sweep()
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.stem}-", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                pq.write_table(table, file, compression="zstd", **WITH_CHECKSUMS)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _sweep(self) -> None:
        """Remove what processes were writing when they were killed."""
        for left in self.path.parent.glob(f".{self.path.stem}-*.part"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    left.unlink()

    def _rebuilt(self, reason: str) -> pa.Table:
        _log.warning("%s %s: it is made anew", self.path, reason)
        return self.schema.empty_table()


class CachedResult:
    """The last result of what takes seconds, kept with a digest of what it was computed from.

    Parameters
    ----------
    path, version
        As of :class:`CachedTable`; the version is also raised when the same input comes to give another result.
    columns
        Names and types of the result's columns.
    """

    def __init__(self, path: Path, columns: pa.Schema, version: str) -> None:
        self._table = CachedTable(path, columns.insert(0, pa.field(_OF, pa.string())), version)

    def of(self, digest: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the result for an input: the kept one if it is of the same, otherwise a new one, which is kept."""
        kept = self._table.read().to_pandas()
        if len(kept) and (kept[_OF] == digest).all():
            return kept.drop(columns=_OF)
        found = compute()
        self._table.write(pa.Table.from_pandas(found.assign(**{_OF: digest}), self._table.schema, preserve_index=False))
        return found
