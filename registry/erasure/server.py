"""What a tracking server lets its clients erase: it marks records as deleted, until `mlflow gc` ends them there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.erasure.inventory import FORGOTTEN, Inventory
from registry.tracking.names import Tag

__all__ = ["mark_deleted", "remaining"]


def mark_deleted(client: MlflowClient, found: Inventory) -> None:
    """Mark as deleted what an inventory lists, its experiment first, so that nothing counts any more from then on.

    The experiment gets another name: a study of the same name would otherwise bring it back, half erased.
    """
    for experiment in found.experiments:
        number = experiment.experiment_id
        if experiment.lifecycle_stage == "deleted" and FORGOTTEN not in experiment.tags:
            client.restore_experiment(number)  # the name and tags of one that is deleted cannot be changed
        if experiment.lifecycle_stage != "deleted" or FORGOTTEN not in experiment.tags:
            client.set_experiment_tag(number, FORGOTTEN, found.subject.study)
            client.rename_experiment(number, f"{found.subject.study} (forgotten, {number})")
            client.delete_experiment(number)
    if not found.experiments:
        for run in found.runs:
            if run.info.lifecycle_stage == "active":
                _unless_gone(client.delete_run, run.info.run_id)
    whole = set(found.registered)
    for version in found.versions:
        for key in version.tags if version.name not in whole else ():
            if key != Tag.STUDY:  # by which it would be found again
                _unless_gone(client.delete_model_version_tag, version.name, version.version, key)
        _unless_gone(client.delete_model_version, version.name, version.version)
    for name in found.registered:
        _unless_gone(client.delete_registered_model, name)
    for model in found.models:
        _unless_gone(client.delete_logged_model, model)


def remaining(found: Inventory) -> list[str]:
    """Say what the server keeps, marked as deleted, and the command that ends it."""
    marked = f"{len(found.runs)} runs and {len(found.models)} models"
    ids = ",".join(one.experiment_id for one in found.experiments)
    if ids:
        marked += f", and experiment {ids}"
        command = f"mlflow gc --backend-store-uri <its database> --tracking-uri <its address> --experiment-ids {ids}"
    else:
        command = "mlflow gc --backend-store-uri <its database> --tracking-uri <its address>"
    return [
        f"{marked} are marked as deleted on the server. They end there with:",
        f"  {command}",
        "  which also erases whatever else is marked as deleted there",
    ]


def _unless_gone(ask: Callable[..., Any], *arguments: object) -> None:
    try:
        ask(*arguments)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
