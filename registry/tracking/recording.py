"""What is written of a run: parameters, metrics and tags, sent together or one by one, and files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path

from registry.masking import mask

__all__ = ["Recording", "local_folder", "store_folder"]

_BATCH = 1000  # most entries that MLflow takes in one call
_PARAMS = 100  # most parameters among them


@dataclass
class _Unsent:
    """Parameters, metrics and tags of a run that were not sent yet."""

    params: list[Param] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    lock: RLock = field(default_factory=RLock)

    def __bool__(self) -> bool:
        return bool(self.params or self.metrics or self.tags)


@dataclass(frozen=True)
class Recording:
    """A run that is being written.

    Parameters
    ----------
    artifacts : str
        Address of the run's files.
    gathers : bool
        Whether all but files waits for :meth:`send`: a store takes all at once in a fraction of the time.
    """

    client: MlflowClient
    experiment_id: str
    run_id: str
    artifacts: str
    gathers: bool = False
    _unsent: _Unsent = field(default_factory=_Unsent, repr=False, compare=False)

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters, which cannot be changed afterwards."""
        with self._unsent.lock:
            self._unsent.params += [Param(key, mask(str(value), of_environment=False)) for key, value in values.items()]
            self._wrote()

    def metrics(self, values: Mapping[str, float], *, model_id: str | None = None, step: int = 0) -> None:
        """Log metrics at one step; ``model_id`` links them to an adapter too."""
        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, step, model_id=model_id) for key, value in values.items()]
        self._metrics(entries)

    def curves(self, curves: Mapping[str, list[float]]) -> None:
        """Log one value per step for each metric, steps counted from 1."""
        now = int(time.time() * 1000)
        self._metrics(
            [Metric(key, value, now, step) for key, values in curves.items() for step, value in enumerate(values, 1)]
        )

    def tags(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        with self._unsent.lock:
            self._unsent.tags.update({key: mask(str(value), of_environment=False) for key, value in tags.items()})
            self._wrote()

    def files(self, folder: Path) -> None:
        """Store a folder's files as artifacts."""
        store_folder(self.client, self.artifacts, folder)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a folder whose files become artifacts: on this machine's disk the run's own, which spares a copy."""
        own = local_folder(self.artifacts)
        if own is not None:
            own.mkdir(parents=True, exist_ok=True)
            yield own
        else:
            with TemporaryDirectory() as name:
                yield Path(name)
                self.files(Path(name))

    def send(self) -> None:
        """Send what was not sent yet, in batches that MLflow accepts; a batch that it rejects is kept."""
        unsent = self._unsent
        with unsent.lock:
            while unsent:
                params = unsent.params[:_PARAMS]
                tags = [RunTag(key, value) for key, value in unsent.tags.items()]
                metrics = unsent.metrics[: _BATCH - len(params) - len(tags)]
                self.client.log_batch(self.run_id, metrics=metrics, params=params, tags=tags)
                del unsent.params[: len(params)], unsent.metrics[: len(metrics)]
                unsent.tags.clear()

    def _metrics(self, entries: list[Metric]) -> None:
        with self._unsent.lock:
            self._unsent.metrics.extend(entries)
            self._wrote()

    def _wrote(self) -> None:
        if not self.gathers:
            self.send()


def local_folder(address: str) -> Path | None:
    """Return the folder of an artifact address, where artifacts are kept on this machine's disk."""
    return Path(local_file_uri_to_path(address)) if urlsplit(address).scheme in ("", "file") else None


def store_folder(client: MlflowClient, address: str, folder: Path) -> None:
    """Store a folder's files at the artifact address of a run or a model that was just made.

    ``MlflowClient.log_artifacts`` reads the whole run, or model, to find that address.
    """
    get_artifact_repository(address, tracking_uri=client.tracking_uri).log_artifacts(str(folder))
