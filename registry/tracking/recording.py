"""What is written of a run: metrics and tags, sent together or one by one, and files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

__all__ = ["Recording"]

_BATCH = 1000  # most metrics and tags together that MLflow takes in one call


@dataclass
class _Unsent:
    """Metrics and tags of a run that the store was not told yet."""

    metrics: list[Metric] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recording:
    """A run that is being written.

    Parameters
    ----------
    gathers : bool
        Whether metrics and tags wait for :meth:`send`: a store takes all at once in a fraction of the time.
    """

    client: MlflowClient
    experiment_id: str
    run_id: str
    gathers: bool = False
    _unsent: _Unsent = field(default_factory=_Unsent, repr=False, compare=False)

    def metrics(self, values: Mapping[str, float], *, model_id: str | None = None, step: int = 0) -> None:
        """Log metrics at one step, in batches that MLflow accepts; ``model_id`` links them to an adapter too."""
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
        self._unsent.tags.update({key: str(value) for key, value in tags.items()})
        self._wrote()

    def files(self, folder: Path, artifact_path: str | None = None) -> None:
        """Store a folder's files as artifacts."""
        self.client.log_artifacts(self.run_id, str(folder), artifact_path)

    def send(self) -> None:
        """Tell the store what it was not told yet, in batches that MLflow accepts."""
        tags = [RunTag(key, value) for key, value in self._unsent.tags.items()]
        while tags or self._unsent.metrics:
            metrics = self._unsent.metrics[: _BATCH - len(tags)]
            del self._unsent.metrics[: len(metrics)]
            self._unsent.tags.clear()
            self.client.log_batch(self.run_id, metrics=metrics, tags=tags)
            tags = []

    def _metrics(self, entries: list[Metric]) -> None:
        self._unsent.metrics.extend(entries)
        self._wrote()

    def _wrote(self) -> None:
        if not self.gathers:
            self.send()
