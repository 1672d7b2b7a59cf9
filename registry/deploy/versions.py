"""Registered models and their versions, as a store has them; what is not there is refused with what is."""

from __future__ import annotations

import re

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from registry.deploy.queries import quoted
from registry.refusal import Refused, unknown
from registry.tracking.names import Tag
from registry.tracking.store import pages

__all__ = ["alias_target", "check_name", "described", "registered", "version_of", "versions_of"]

#: What a registered name must not hold: it names a folder, and MLflow's addresses are cut at "/", ":" and "@".
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\:@]")


def alias_target(client: MlflowClient, name: str, alias: str) -> ModelVersion:
    """Return the version that an alias stands for now.

    Raises
    ------
    Refused
        If the registered model has no such alias.
    """
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        aliases = registered(client, name).aliases
        if not aliases:
            raise Refused(f"{name} has no alias {alias!r}, nor any other; name a version by its number") from None
        raise unknown("alias", alias, aliases, where=name) from None


def check_name(name: str) -> None:
    """Refuse what MLflow would not register, and what would lead out of a folder."""
    if not name.strip() or name in (".", "..") or _FORBIDDEN.search(name):
        raise Refused(
            f"{name!r} is no registered name: it would hold '/', '\\', ':', '@' or control characters; "
            "hub ids are registered with '-' in place of '/'"
        )


def registered(client: MlflowClient, name: str) -> RegisteredModel:
    """Return a registered model, or refuse a name that none has."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise unknown("registered adapter", name, _names(client)) from None


def _names(client: MlflowClient) -> list[str]:
    models = pages(lambda token: client.search_registered_models(max_results=1000, page_token=token))
    return [model.name for model in models]


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return every version of a registered model, the newest first."""
    registered(client, name)
    wanted = f"name = {quoted(name)}"
    versions = pages(lambda token: client.search_model_versions(wanted, max_results=1000, page_token=token))
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def version_of(client: MlflowClient, name: str, number: str) -> ModelVersion:
    """Return a version by its number, or refuse it with those that there are."""
    try:
        return client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        there = versions_of(client, name)
        listed = "; ".join(map(described, there[:8])) or "none: all were deleted"
        raise Refused(f"{name} has no version {number} (any more); there are: {listed}") from None


def described(version: ModelVersion) -> str:
    """Write a version's number with what tells it from others."""
    return f"{version.version} (seed {version.tags.get(Tag.SEED)}, study {version.tags.get(Tag.STUDY)})"
