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
from registry.tracking.recording import local_folder

__all__ = ["StoredTable"]


@dataclass(frozen=True)
class StoredTable:
    """A Parquet file among the artifacts of a run.

    Parameters
    ----------
    folder
        Where the run's artifacts are: its ``artifact_uri``.
    """

    client: MlflowClient
    run_id: str
    folder: str
    name: str

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
        """What changes when the file does; empty where only the server could tell."""
        if self.local is None or not self.local.is_file():
            return ""
        about = self.local.stat()
        return f"{about.st_size} {about.st_mtime_ns}"

    def read(self, columns: Sequence[str]) -> pa.Table | None:
        """Return some of its columns, or None if the run has no such file.

        Raises
        ------
        InconsistentRunError
            If it is not a Parquet file with these columns.
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
        try:
            with path.open("rb") as file:
                return pq.read_table(file, columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise InconsistentRunError(
                f"run {self.run_id}: its artifact {self.place} cannot be read ({error}); restore that file"
            ) from None
