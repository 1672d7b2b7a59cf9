"""Registered models and their versions, as a store has them; what is not there is refused with what is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from registry.errors import Refused, unknown
from registry.tracking.client import existing
from registry.tracking.names import Tag
from registry.tracking.store import pages, quoted

__all__ = [
    "alias_target",
    "check_name",
    "counting_versions",
    "described",
    "is_adapter",
    "registered",
    "version_of",
    "versions_of",
]

#: Tags without which a version is none that this project registered.
_NEEDED = (Tag.BASE_MODEL, Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE)

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
    model = existing(client.get_registered_model, name)
    if model is None:
        raise unknown("registered adapter", name, _names(client))
    return model


def _names(client: MlflowClient) -> list[str]:
    models = pages(lambda token: client.search_registered_models(max_results=1000, page_token=token))
    return [model.name for model in models]


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return every version of a registered model, the newest first."""
    registered(client, name)
    wanted = f"name = {quoted(name)}"
    versions = pages(lambda token: client.search_model_versions(wanted, max_results=1000, page_token=token))
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def is_adapter(version: ModelVersion) -> bool:
    """Whether a version says what it is an adapter of, as every version that this project registers does."""
    return all(version.tags.get(tag) for tag in _NEEDED)


def counting_versions(client: MlflowClient, versions: Sequence[ModelVersion]) -> tuple[list[ModelVersion], list[str]]:
    """Return the versions that count, in the order given, and words on those that repeat another.

    Of versions of one fingerprint the first counts whose training stands as finished.

    Raises
    ------
    Refused
        If versions of one fingerprint have different weights.
    """
    groups: dict[str, list[ModelVersion]] = {}
    for version in sorted(versions, key=lambda version: int(version.version)):
        groups.setdefault(version.tags.get(Tag.FINGERPRINT) or f"version {version.version}", []).append(version)
    counting, notes = set[str](), list[str]()
    for group in groups.values():
        standing = [version for version in group if len(group) == 1 or _is_finished(client, version)]
        first, *others = standing or group
        for other in others:
            if other.tags.get(Tag.DIGEST) != first.tags.get(Tag.DIGEST):
                raise Refused(
                    f"{first.name}: versions {first.version} and {other.version} share a fingerprint and have "
                    f"different weights (runs {first.run_id} and {other.run_id});\nfind out which is genuine, and "
                    f"name it: -P name={first.name} -P version=<number>"
                )
            notes.append(f"version {other.version} repeats version {first.version}, which counts")
        counting.add(str(first.version))
    return [version for version in versions if str(version.version) in counting], notes


def _is_finished(client: MlflowClient, version: ModelVersion) -> bool:
    """Whether the run that trained a version is finished and was not deleted."""
    try:
        info = client.get_run(str(version.run_id)).info
    except MlflowException:  # of a foreign version the id may be anything
        return False
    return bool(info.status == "FINISHED" and info.lifecycle_stage == "active")


def version_of(client: MlflowClient, name: str, number: str) -> ModelVersion:
    """Return a version by its number, or refuse it with those that there are."""
    version = existing(client.get_model_version, name, number)
    if version is None:
        there = versions_of(client, name)
        listed = "; ".join(map(described, there[:8])) or "none: all were deleted"
        raise Refused(f"{name} has no version {number} (any more); there are: {listed}")
    return version


def described(version: ModelVersion) -> str:
    """Write a version's number with what tells it from others."""
    return f"{version.version} (seed {version.tags.get(Tag.SEED)}, study {version.tags.get(Tag.STUDY)})"
