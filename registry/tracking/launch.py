"""The run that ``mlflow run`` opens around an entry point: tagged, and pointed at what the entry point recorded."""

from __future__ import annotations

import os

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from registry.masking import mask
from registry.tracking.names import Kind, Tag

__all__ = ["annotate_launch", "launching_run"]


def launching_run() -> str | None:
    """Return the id of the run that ``mlflow run`` opened, and take it out of the environment.

    Left there, MLflow's fluent functions, ours and every worker's, would write into that run.
    """
    return os.environ.pop("MLFLOW_RUN_ID", None)


def annotate_launch(client: MlflowClient, run_id: str | None, note: str) -> None:
    """Say in the launching run what came of it; without one, do nothing."""
    if run_id is not None:
        client.set_tag(run_id, Tag.KIND, Kind.LAUNCH)
        client.set_tag(run_id, MLFLOW_RUN_NOTE, mask(note))
