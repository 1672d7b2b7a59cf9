"""A client of a database that waits while the database is locked or away."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.files.disks import disk_problem
from registry.masking import mask
from registry.process import unbroken

__all__ = ["PatientClient", "first_line", "retry_unavailable"]

_Call = TypeVar("_Call", bound=Callable[..., Any])

_log = logging.getLogger(__name__)

_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds
_REPORTED_FROM = 4.0  # seconds; shorter pauses concern nobody
#: Every method that this project calls on a database, except downloads, which may take minutes.
_CALLS = (
    "create_experiment",
    "create_logged_model",
    "create_model_version",
    "create_registered_model",
    "create_run",
    "delete_experiment",
    "delete_logged_model",
    "delete_model_version",
    "delete_model_version_tag",
    "delete_registered_model",
    "delete_registered_model_alias",
    "delete_run",
    "finalize_logged_model",
    "get_experiment",
    "get_experiment_by_name",
    "get_logged_model",
    "get_model_version",
    "get_model_version_by_alias",
    "get_model_version_download_uri",
    "get_registered_model",
    "get_run",
    "list_artifacts",
    "list_logged_model_artifacts",
    "log_batch",
    "log_inputs",
    "log_outputs",
    "rename_experiment",
    "restore_experiment",
    "search_experiments",
    "search_logged_models",
    "search_model_versions",
    "search_registered_models",
    "search_runs",
    "set_experiment_tag",
    "set_logged_model_tags",
    "set_model_version_tag",
    "set_registered_model_alias",
    "set_tag",
    "set_terminated",
    "update_model_version",
)


def retry_unavailable(call: _Call) -> _Call:
    """Repeat a call while the database is away or locked by another writer, for about a minute.

    A signal takes effect after the call has returned, so no answer of the database is lost.
    """

    call = unbroken()(call)

    @wraps(call)
    def repeated(*arguments: Any, **named: Any) -> Any:
        for pause in _PAUSES:
            try:
                return call(*arguments, **named)
            except MlflowException as error:
                if error.error_code != "TEMPORARILY_UNAVAILABLE" or disk_problem(error):
                    raise
                if pause >= _REPORTED_FROM:
                    _log.warning("the store does not answer, retrying: %s", first_line(error))
                time.sleep(pause * random.uniform(0.5, 1.0))
        return call(*arguments, **named)

    return cast(_Call, repeated)


def first_line(error: Exception) -> str:
    """Return the first line of an error, without secrets."""
    return mask(str(getattr(error, "orig", None) or error).strip().partition("\n")[0])


class PatientClient(MlflowClient):
    """MLflow's client of a database, its calls under :func:`retry_unavailable`; a server's requests MLflow repeats."""


for _name in _CALLS:
    setattr(PatientClient, _name, retry_unavailable(getattr(MlflowClient, _name)))
