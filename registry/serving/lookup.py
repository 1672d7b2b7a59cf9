"""Look up registered versions without letting requests wait for a registry that does not answer."""

from __future__ import annotations

import logging
import re
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from registry.errors import Refused, unknown
from registry.tracking.names import Tag

__all__ = ["FRESH_SECONDS", "RegistryLookup", "VersionAddress", "VersionMarks", "parse_address", "version_marks"]

_log = logging.getLogger(__name__)

#: After this time an adapter in memory is looked up again.
FRESH_SECONDS = 3.0

_PATIENCE_SECONDS = 2.0  # a request's wait for the registry if the adapter is in memory
_NAMED = re.compile(r"(?P<name>[^/:@]{1,250})(?:/(?P<version>[0-9]{1,9})|@(?P<alias>[A-Za-z0-9_-]{1,255}))")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter for an alias that no version has

#: What changes when a version is created again under the same number, or evaluated in another way.
VersionMarks = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class VersionAddress:
    """A registered model with a version's number, or with an alias."""

    model: str
    version: str
    alias: str | None

    @property
    def key(self) -> str:
        """The address as one text."""
        return f"{self.model}/{self.version}" if self.alias is None else f"{self.model}@{self.alias}"


def parse_address(named: str) -> VersionAddress:
    """Read ``<model>/<version>`` or ``<model>@<alias>``, with or without ``models:/``; anything else is refused."""
    parts = _NAMED.fullmatch(named.removeprefix("models:/"))
    if parts is None:
        raise Refused(
            f"adapter: {named[:100]!r} is no registered adapter; name it <model>/<version>, or <model>@<alias>"
        )
    return VersionAddress(parts["name"], str(int(parts["version"] or 0)), parts["alias"])


def version_marks(version: ModelVersion) -> VersionMarks:
    """Return what distinguishes a version from another of the same name and number."""
    tags = (Tag.DIGEST, Tag.FILES_DIGEST, Tag.BASE_REVISION, Tag.CHAT_TEMPLATE)
    return (
        version.source, version.run_id, version.creation_timestamp, *(version.tags.get(tag) for tag in tags),
    )  # fmt: skip


class RegistryLookup:
    """Looks up registered versions.

    Parameters
    ----------
    base : str
        Name of the base model that is served: for an unknown name, its adapters are suggested.
    """

    def __init__(self, base: str) -> None:
        self._base = base
        self._pending: Future[ModelVersion] | None = None
        self._silent_until = 0.0

    def version(self, named: str, address: VersionAddress, *, patient: bool) -> ModelVersion | None:
        """Return the version that an address has now; None if the registry does not answer.

        Parameters
        ----------
        patient
            Wait as long as MLflow does, and raise its error; if False, wait a moment, and log it.

        Raises
        ------
        Refused
            If the registry has no such version.
        """
        if patient:
            return self._found(named, address)
        if time.monotonic() < self._silent_until:
            return None
        if self._pending is not None and not self._pending.done():
            self._silence("has not answered yet")
            return None
        self._pending = Future()
        # A daemon, so that a server can end while MLflow is still trying.
        threading.Thread(target=self._answer, args=(self._pending, named, address), daemon=True).start()
        try:
            return self._pending.result(_PATIENCE_SECONDS)
        except Refused:
            raise
        except NoAnswer:
            self._silence(f"does not answer within {_PATIENCE_SECONDS:g} s")
        except (MlflowException, OSError, SQLAlchemyError) as error:
            self._silence(f"cannot be reached ({(str(error).splitlines() or [type(error).__name__])[0][:200]})")
        return None

    def _answer(self, pending: Future[ModelVersion], named: str, address: VersionAddress) -> None:
        try:
            pending.set_result(self._found(named, address))
        except Exception as error:
            pending.set_exception(error)

    def _silence(self, reason: str) -> None:
        self._silent_until = time.monotonic() + FRESH_SECONDS
        _log.warning("the registry %s; adapters in memory are served as they were when it last answered", reason)

    def _found(self, named: str, address: VersionAddress) -> ModelVersion:
        client = MlflowClient()
        try:
            if address.alias is not None:
                return client.get_model_version_by_alias(address.model, address.alias)
            return client.get_model_version(address.model, address.version)
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            raise self._absent(client, named, address.model) from None

    def _absent(self, client: MlflowClient, named: str, name: str) -> Refused:
        filtered = f"tags.{Tag.BASE_MODEL} = '{self._base}'"
        models = [model.name for model in client.search_registered_models(filtered, max_results=1000)]
        if name not in models:
            return unknown("adapter", name, models, where="adapter")
        versions = sorted(int(version.version) for version in client.search_model_versions(f"name = '{name}'"))
        return Refused(f"adapter: there is no {named!r}; {name!r} has the versions {', '.join(map(str, versions))}")
