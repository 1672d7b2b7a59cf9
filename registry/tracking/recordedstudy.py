"""A study as its newest run has it: the file with every default filled in that each run of a study stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from registry.errors import Refused
from registry.tracking.names import Kind, Tag
from registry.tracking.store import open_store, sqlite_file, tracking_uri

__all__ = ["RecordedStudy", "recorded_study"]

_FILE = "study.yaml"


@dataclass(frozen=True)
class RecordedStudy:
    """The downloaded study file, and the run that holds it."""

    file: Path
    run_id: str


def recorded_study(name: str, folder: Path) -> RecordedStudy | None:
    """Download the file of a study that the store has a run of, of the kind ``study``; None where there is none.

    Neither an experiment nor, where there is none, the embedded store is made. A store that cannot be reached has none.
    """
    uri = tracking_uri()
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return None
    try:
        client = open_store(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            return None
        wanted = f"tags.{Tag.KIND} = '{Kind.STUDY}'"
        for run in client.search_runs([experiment.experiment_id], wanted, order_by=["attributes.start_time DESC"]):
            if _FILE in {one.path for one in client.list_artifacts(run.info.run_id)}:
                found = Path(client.download_artifacts(run.info.run_id, _FILE, str(folder)))
                return RecordedStudy(found, run.info.run_id)
    except (MlflowException, Refused):
        return None  # the caller reports an unknown name
    return None
