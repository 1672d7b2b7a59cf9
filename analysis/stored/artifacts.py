"""Artifacts of many runs, without asking the server about each run first."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from analysis.recorded import InconsistentRunError
from registry.tracking.outcomes import file_digest
from registry.tracking.parquet import CHECKED
from registry.tracking.recording import local_folder

__all__ = ["StoredTable"]


@dataclass(frozen=True)
class StoredTable:
    """A Parquet file among the artifacts of a run.

    Parameters
    ----------
    folder
        Where the run's artifacts are: its ``artifact_uri``.
    digest
        SHA-256 that the run recorded of the file; empty where it recorded none.
    """

    client: MlflowClient
    run_id: str
    folder: str
    name: str
    digest: str = ""

    @property
    def local(self) -> Path | None:
        """The file itself, where artifacts are kept on this machine's disk."""
        folder = local_folder(self.folder)
        return None if folder is None else folder / self.name

    @property
    def place(self) -> str:
        """Where it is, as a path or an address."""
        return str(self.local) if self.local is not None else f"{self.folder}/{self.name}"

    @property
    def stamp(self) -> str:
        """What changes when the file does, or what its run says of it; of a server's file the latter alone."""
        if self.local is None or not self.local.is_file():
            return self.digest
        about = self.local.stat()
        # The time of the last change of its status cannot be set: who swaps a file may keep its size and its age.
        return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {self.digest}"

    def read(self, columns: Sequence[str]) -> pa.Table | None:
        """Return some of its columns, or None if the run has no such file.

        Raises
        ------
        InconsistentRunError
            If it is not the file that was recorded, or no Parquet file with these columns.
        """
        if self.local is not None:
            return self._table(self.local, columns) if self.local.is_file() else None
        with tempfile.TemporaryDirectory() as name:
            try:
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{self.folder}/{self.name}", dst_path=name, tracking_uri=self.client.tracking_uri
                )
            except (MlflowException, OSError):
                # What stores raise for a file that is not there differs; so they are asked whether it is.
                if self.name in {file.path for file in self.client.list_artifacts(self.run_id)}:
                    raise
                return None
            return self._table(Path(path), columns)

    def _table(self, path: Path, columns: Sequence[str]) -> pa.Table:
        if self.digest and file_digest(path) != self.digest:
            raise InconsistentRunError(
                f"run {self.run_id}: its artifact {self.name} is not the file that was recorded (another SHA-256); put "
                "it back from a backup of the artifacts"
            )
        try:
            with path.open("rb") as file:
                return pq.read_table(file, columns=list(columns), use_threads=False, **CHECKED)
        except (OSError, pa.ArrowException) as error:  # of a broken page it is an OSError
            raise InconsistentRunError(
                f"run {self.run_id}: its artifact {self.place} cannot be read ({error}); put it back from a backup of "
                "the artifacts"
            ) from None
