"""A study's records as the store has them, read once for all checks: runs, logged models, registered versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment, LoggedModel, Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from tqdm import tqdm

from registry.tracking.liveness import is_silent
from registry.tracking.names import Kind, Tag
from registry.tracking.store import all_runs, pages

__all__ = ["StudyRecords", "read_records", "with_progress"]

Entity = TypeVar("Entity")


@dataclass(frozen=True)
class StudyRecords:
    """What a store holds of a study.

    Attributes
    ----------
    runs : sequence of Run
        Those that are not deleted.
    deleted : frozenset of str
        Ids of deleted runs.
    models : sequence of LoggedModel
        Adapters and whole models, logged by the experiment's runs.
    versions : sequence of ModelVersion
        Registered adapters of the study.
    """

    client: MlflowClient
    experiment: Experiment
    study: str
    runs: Sequence[Run]
    deleted: frozenset[str]
    models: Sequence[LoggedModel]
    versions: Sequence[ModelVersion]

    def finished(self, kind: Kind) -> list[Run]:
        """Return the finished runs of a kind, the oldest first."""
        found = [run for run in self.runs if run.data.tags.get(Tag.KIND) == kind and run.info.status == "FINISHED"]
        return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))

    def open(self) -> list[Run]:
        """Return the runs that are RUNNING."""
        return [run for run in self.runs if run.info.status == "RUNNING"]

    def busy(self) -> list[Run]:
        """Return the runs that are RUNNING and whose process is not known to be gone."""
        return [run for run in self.open() if not is_silent(run)]


def read_records(client: MlflowClient, experiment: Experiment, study: str) -> StudyRecords:
    """Read what a store holds of a study."""
    runs = all_runs(client, [experiment.experiment_id], "")
    models = pages(
        lambda token: client.search_logged_models([experiment.experiment_id], max_results=100, page_token=token)
    )
    wanted = f"tags.{Tag.STUDY} = '{study}'"
    versions = pages(lambda token: client.search_model_versions(wanted, max_results=1000, page_token=token))
    return StudyRecords(client, experiment, study, runs, _deleted(client, experiment), list(models), list(versions))


def with_progress(entities: Iterable[Entity], what: str) -> Iterator[Entity]:
    """Yield entities, with a progress bar once that takes over two seconds."""
    yield from tqdm(entities, desc=f"  {what}", unit="", delay=2, leave=False, dynamic_ncols=True)


def _deleted(client: MlflowClient, experiment: Experiment) -> frozenset[str]:
    gone = pages(
        lambda token: client.search_runs(
            [experiment.experiment_id], "", ViewType.DELETED_ONLY, max_results=1000, page_token=token
        )
    )
    return frozenset(run.info.run_id for run in gone)


def described(run: Run) -> str:
    """Return a run's id and name."""
    return f"{run.info.run_id}  {run.info.run_name}"
