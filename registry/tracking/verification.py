"""Whether a version's folder is what the run that trained it recorded: decided here, for whoever loads one.

Three things are held against each other: the folder, the tags of the version, and tags and parameters of its training
run. Versions of before there was a digest over all files have one of their weights alone; of their other files, those
that decide a result are compared with what their run recorded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from registry.config.yaml_text import read_yaml
from registry.errors import Refused
from registry.files.adapter import CONFIG, AdapterConfig, check_weights, read_config
from registry.models.base import BUILT_IN, hub_revision
from registry.tracking.client import existing
from registry.tracking.folders import (
    BACKUP,
    DESCRIPTION,
    FilesMissing,
    check_names,
    digests_of,
    files_digest,
    files_of,
    read_description,
    weights_of,
)
from registry.tracking.names import Kind, Tag

__all__ = [
    "AdapterRecord",
    "WeightsChanged",
    "check_folder",
    "check_recipe",
    "model_record",
    "verify",
    "verify_as_found",
    "version_record",
]

_log = logging.getLogger(__name__)

_SHARED = (Tag.BASE_MODEL, Tag.BASE_REVISION, Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE, Tag.SEED)
_WAYS = ("precision", "quantization", "chat_template")  # of training and asking; of the MLmodel and of runs


class WeightsChanged(Refused):
    """An adapter's weights are not those that were recorded."""


@dataclass(frozen=True)
class AdapterRecord:
    """What is on record of a version, or of a full fine-tune.

    Attributes
    ----------
    uri
        What to call it in errors.
    tags
        Its own.
    run_tags, params
        Of the run that trained it; empty where that run was removed for good.
    full
        Whether it is a full fine-tune: a whole model's folder.
    """

    uri: str
    tags: Mapping[str, str]
    run_tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    full: bool = False

    def tag(self, name: str) -> str | None:
        """Return what the training run says, or where it does not, the version.

        Raises
        ------
        Refused
            If they say different things.
        """
        own, of_run = self.tags.get(name), self.run_tags.get(name)
        if own is not None and of_run is not None and own != of_run:
            raise Refused(
                f"{self.uri} has the tag {name}: {own[:80]}, and its training run {of_run[:80]}; one of them was "
                "changed, so nothing says what was trained"
            )
        return own if of_run is None else of_run

    @property
    def weights(self) -> str:
        """SHA-256 of its weights."""
        digest = self.tag(Tag.DIGEST)
        if digest is None:
            raise Refused(f"{self.uri} has no digest of its weights on record; no study of this project registered it")
        return digest


def version_record(client: MlflowClient, name: str, version: str, *, run: Run | None = None) -> AdapterRecord:
    """Look up what is recorded of a registered version.

    Parameters
    ----------
    run
        The training run that names the version; by default the one that the version names.

    Raises
    ------
    Refused
        If it names no training run, or another than the one given.
    """
    found, uri = client.get_model_version(name, version), f"models:/{name}/{version}"
    if not found.run_id:
        raise Refused(f"{uri} is not an adapter that was registered by a study: it names no training run")
    if run is not None and run.info.run_id != found.run_id:
        raise Refused(f"run {run.info.run_id} names {uri}, which run {found.run_id} registered; its tags were changed")
    trained = run or existing(client.get_run, found.run_id)
    if trained is None:
        return AdapterRecord(uri, found.tags)
    if trained.data.tags.get(Tag.KIND) != Kind.FINETUNE:
        raise Refused(f"{uri} was not registered by a study: run {found.run_id}, which it names, trained nothing")
    return AdapterRecord(uri, found.tags, trained.data.tags, trained.data.params)


def model_record(client: MlflowClient, model_id: str, *, full: bool, run: Run | None = None) -> AdapterRecord:
    """Look up what is recorded of a LoggedModel: a full fine-tune, or an adapter that is loaded by its model's address.

    Parameters
    ----------
    run
        The training run that names it; by default the one that the model names.
    """
    model = client.get_logged_model(model_id)
    trained = run or (existing(client.get_run, model.source_run_id) if model.source_run_id else None)
    if trained is None:
        return AdapterRecord(f"models:/{model_id}", model.tags, full=full)
    return AdapterRecord(f"models:/{model_id}", model.tags, trained.data.tags, trained.data.params, full)


def verify_as_found(folder: Path, client: MlflowClient, *, full: bool = False) -> None:
    """Hold a folder against the LoggedModel that its ``MLmodel`` names; where none is known, see what it tells itself.

    Raises
    ------
    Refused
        If it is not what was recorded, or nothing that a study wrote.
    """
    check_folder(folder, full=full)
    _, content = read_yaml(folder / DESCRIPTION)
    try:
        recorded = model_record(client, str(content.get("model_id")), full=full)
    except MlflowException:  # a folder that was carried away from its store
        return
    verify(folder, recorded)


def verify(folder: Path, recorded: AdapterRecord) -> None:
    """See that a folder is what was recorded; where the training run was removed, that is logged.

    Raises
    ------
    Refused
        If not, with what differs.
    """
    if not recorded.run_tags:
        _log.warning("%s: the run that trained it was removed; only its own tags say what it is", recorded.uri)
    try:
        found, wanted = digests_of(folder), recorded.tag(Tag.FILES_DIGEST)
        check_names(folder, found, full=recorded.full, known=wanted is not None)
        if weights_of(found) != recorded.weights:
            raise WeightsChanged(f"its weights have SHA-256 {weights_of(found)}, {recorded.weights} was recorded")
        _check_description(read_description(folder, full=recorded.full), recorded)
        if not recorded.full:
            check_recipe(read_config(folder), recorded)
        if wanted is not None and files_digest(found) != wanted:
            raise Refused(f"its files have SHA-256 {files_digest(found)} in all, {wanted} was recorded")
        if not recorded.full:
            check_weights(folder, read_config(folder).spec)
    except FilesMissing as error:
        raise FilesMissing(_named(recorded, error), weights=error.weights) from None
    except Refused as error:
        kind = WeightsChanged if isinstance(error, WeightsChanged) else Refused
        raise kind(f"{_named(recorded, error)}; {BACKUP}") from None


def _named(recorded: AdapterRecord, error: Refused) -> str:
    """Return a message that says of which adapter it is."""
    reason = str(error).removeprefix(f"{recorded.uri}: ")
    return reason if reason.startswith(recorded.uri) else f"{recorded.uri}: {reason}"


def check_folder(folder: Path, *, full: bool = False) -> None:
    """See that a folder is one that a study wrote, as far as the folder alone can tell.

    Raises
    ------
    Refused
        If it holds something else, or would have foreign code loaded.
    """
    try:
        check_names(folder, files_of(folder), full=full, known=full)
        read_description(folder, full=full)
        if not full:
            check_weights(folder, read_config(folder).spec)
    except Refused as error:
        raise Refused(f"{folder}: {error}") from None


def _check_description(metadata: Mapping[str, Any], recorded: AdapterRecord) -> None:
    """Hold what the ``MLmodel`` says of the adapter against what is recorded of it."""
    base = metadata.get("base")
    if not isinstance(base, dict):
        raise Refused(f"{DESCRIPTION} names no base")
    task, language = recorded.tag(Tag.SOURCE_TASK), recorded.tag(Tag.SOURCE_LANGUAGE)
    pairs = [
        ("base", base.get("name"), recorded.tag(Tag.BASE_MODEL)),
        ("base revision", base.get("revision"), recorded.tag(Tag.BASE_REVISION)),
        ("source", metadata.get("source"), None if task is None else f"{task}/{language}"),
        # Adapters registered before there was one of these choices do not say it.
        *((name, metadata[name], recorded.params.get(name)) for name in _WAYS if name in metadata),
    ]
    for name, found, wanted in pairs:
        if wanted is not None and str(found) != wanted:
            raise Refused(f"{DESCRIPTION} says {name} {str(found)[:80]!r}, {wanted!r} was recorded")


def check_recipe(config: AdapterConfig, recorded: AdapterRecord) -> None:
    """Hold an adapter's configuration against the recipe and the base that its run recorded; refuse if they differ."""
    spec, params = config.spec, recorded.params
    numbers = (("r", spec.rank, "lora.rank"), ("lora_alpha", spec.alpha, "lora.alpha"),
               ("lora_dropout", spec.dropout, "lora.dropout"))  # fmt: skip
    for key, found, parameter in numbers:
        if (wanted := params.get(parameter)) is not None and not _equal(found, wanted):
            raise Refused(f"its {CONFIG} says {key} {found:g}, {wanted} was recorded")
    targets = params.get("lora.targets")
    if targets is not None and set(spec.targets) != set(targets.split(",")):
        raise Refused(f"its {CONFIG} says target_modules {','.join(spec.targets)[:200]}, {targets} was recorded")
    for tag in _SHARED:
        recorded.tag(tag)
    name, revision = recorded.tag(Tag.BASE_MODEL), recorded.tag(Tag.BASE_REVISION)
    if name is not None and config.base not in (name, BUILT_IN.get(name)):
        raise Refused(f"its {CONFIG} says base {config.base[:80]!r}, {name!r} was recorded")
    if revision is not None and config.revision != hub_revision(revision):
        raise Refused(f"its {CONFIG} says revision {config.revision}, {revision} was recorded")


def _equal(found: float, wanted: str) -> bool:
    try:
        return math.isclose(found, float(wanted), rel_tol=1e-12)
    except ValueError:
        return False
