"""A client of a database that waits while the database is locked or away."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.files.disks import disk_problem
from registry.masking import mask
from registry.process import defer_signals

__all__ = ["PatientClient", "existing", "first_line", "retry_unavailable"]

_Call = TypeVar("_Call", bound=Callable[..., Any])
_Found = TypeVar("_Found")

_log = logging.getLogger(__name__)

_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds
_REPORTED_FROM = 4.0  # seconds; shorter pauses concern nobody
#: Methods that ask a database about runs, experiments and models; a download, which may take minutes, is none of them.
_CALLS = re.compile(
    r"(create|delete|finalize|get|list|rename|restore|search|set|update)"
    r"_(artifacts|experiment|logged_model|model_version|registered_model|run|tag|terminated)\w*"
    r"|log_(batch|inputs|outputs)"
)


def retry_unavailable(call: _Call) -> _Call:
    """Repeat a call while the database is away or locked by another writer, for about a minute.

    A signal takes effect after the call has returned, so no answer of the database is lost.
    """

    call = defer_signals()(call)

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


def existing(call: Callable[..., _Found], *arguments: object) -> _Found | None:
    """Return what a call of MLflow's client returns; None if what it names does not exist."""
    try:
        return call(*arguments)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def first_line(error: Exception) -> str:
    """Return the first line of an error, without secrets."""
    return mask(str(getattr(error, "orig", None) or error).strip().partition("\n")[0]) or type(error).__name__


class PatientClient(MlflowClient):
    """MLflow's client of a database, its calls under :func:`retry_unavailable`; a server's requests MLflow repeats."""


for _name in filter(_CALLS.fullmatch, dir(MlflowClient)):
    setattr(PatientClient, _name, retry_unavailable(getattr(MlflowClient, _name)))
