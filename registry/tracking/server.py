"""Whether a tracking server answers, asked briefly before any work.

MLflow itself repeats a request for four minutes before it fails. That is right while a study runs, and wrong for an
address that was mistyped or a server that was never started.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR,
    MLFLOW_HTTP_REQUEST_BACKOFF_JITTER,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException

from registry.errors import Refused

__all__ = ["require_server"]

_PATIENCE = 5  # seconds, for each of two attempts

_STATUS = re.compile(r"(?:failed with error code|too many) (\d{3})")


def require_server(client: MlflowClient, shown: str) -> None:
    """Ask a server for one experiment, by MLflow's own client: with its credentials, certificates and proxies.

    Parameters
    ----------
    shown
        The server's address for messages, without a password.

    Raises
    ------
    Refused
        If it does not answer as a tracking server within seconds, with what is wrong and what helps.
    """
    try:
        with _briefly():
            client.search_experiments(max_results=1)
    except (MlflowException, OSError, ValueError) as error:
        fault, remedy = _explained(error)
        raise Refused(
            f"{shown} {fault}\n  {remedy}; the store in the project's folder: unset MLFLOW_TRACKING_URI"
        ) from (error)


@contextmanager
def _briefly() -> Iterator[None]:
    """Have MLflow ask twice at most, as one lost request is no fault of the address, and for some seconds each."""
    settings = {
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.name: "1",
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.name: "0",
        MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.name: "0",
        MLFLOW_HTTP_REQUEST_TIMEOUT.name: str(_PATIENCE),
    }
    former = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _explained(error: Exception) -> tuple[str, str]:
    """Return what is wrong with a server, and what helps."""
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        reason = next(cause.verify_message for cause in causes if isinstance(cause, ssl.SSLCertVerificationError))
        return f"has a certificate that is not trusted here: {reason}", (
            "export MLFLOW_TRACKING_SERVER_CERT_PATH=<certificate of its authority>"
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "does not speak TLS as https wants it", "write http:// if the server has no certificate"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "does not answer: there is no host of that name", "correct the name in MLFLOW_TRACKING_URI"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "does not answer: nothing listens there", "start the server, or correct the port in MLFLOW_TRACKING_URI"
    if any(isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__ for cause in causes):
        return f"does not answer within {_PATIENCE} s", "see that the server runs and that no firewall is between"
    found = _STATUS.search(str(error))
    return _by_status(int(found[1])) if found else _by_text(error)


def _by_status(status: int) -> tuple[str, str]:
    if status == 401:
        return "wants a user (HTTP 401)", "export MLFLOW_TRACKING_USERNAME=<name> MLFLOW_TRACKING_PASSWORD=<password>"
    if status == 403:
        return "refuses this user or host (HTTP 403)", (
            "have its administrator give a permission, or add the host to --allowed-hosts"
        )
    if status in (404, 405, 501):
        return f"answers with HTTP {status}: that is no MLflow tracking server, or not its root", (
            "correct host, port and path in MLFLOW_TRACKING_URI"
        )
    return f"answers with HTTP {status}", "look into the log of the server, or of the proxy before it"


def _by_text(error: Exception) -> tuple[str, str]:
    if "JSON" in str(error):  # MLflow has no code of its own for it
        return "answers, but not as an MLflow tracking server does", (
            "correct host, port and path in MLFLOW_TRACKING_URI; a page of a login may stand before it"
        )
    return f"does not answer: {str(error).strip().partition(chr(10))[0][:200]}", "start the server"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
