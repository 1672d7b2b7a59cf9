"""Adapters as model versions: a LoggedModel whose root is the PEFT folder, registered per (base, source cell).

The folder serves three readers as it lies: PEFT and vLLM read ``adapter_config.json`` and
``adapter_model.safetensors``, MLflow reads the ``MLmodel`` beside them; ``README.md`` is its card. Nothing is pickled.

A full fine-tune is a LoggedModel too, whose root is a model's folder as ``from_pretrained`` reads it. It is a model of
its own, not an adapter of a base, and is not registered as a version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import add_to_model
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_RUN_NOTE

from registry.cells import Cell
from registry.errors import Refused
from registry.files.environment import conda_environment
from registry.tracking.client import existing
from registry.tracking.folders import FULL_LOADER, LOADER, check_places, digest_tags, weights_digest
from registry.tracking.names import Tag, registered_model
from registry.tracking.recording import Recording, local_folder, store_folder
from registry.tracking.signature import SIGNATURE
from registry.tracking.verification import AdapterRecord, model_record, verify, version_record

__all__ = [
    "RESTORE",
    "RecordedModel",
    "RegisteredAdapter",
    "download_adapter",
    "record_full_model",
    "register_adapter",
    "require_own_name",
    "weights_digest",
]

#: What helps where files are not where they were recorded: they may have been moved, or not be mounted.
RESTORE = "bring its folder back, or see what is missing: mlflow run . -e doctor --env-manager local -P study=<study>"

#: Tags that tell one registered model from another whose name is the same.
_SUBJECT = (Tag.BASE_MODEL, Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE)


@dataclass(frozen=True, slots=True)
class RegisteredAdapter:
    """Where an adapter is: ``models:/<name>/<version>``, and the LoggedModel behind it."""

    name: str
    version: str
    model_id: str

    @property
    def uri(self) -> str:
        """Address that MLflow's loaders take."""
        return f"models:/{self.name}/{self.version}"

    @property
    def tags(self) -> dict[str, str]:
        """What a run says of the adapter it made or scored."""
        return {Tag.MODEL_VERSION: f"{self.name}/{self.version}", Tag.MODEL_ID: self.model_id}

    @classmethod
    def of(cls, run: Run) -> RegisteredAdapter:
        """Read the adapter, or the full fine-tune, that a finished fine-tune or evaluation names in its tags."""
        if Tag.MODEL_VERSION not in run.data.tags:
            return RecordedModel.of(run)
        name, _, version = run.data.tags[Tag.MODEL_VERSION].rpartition("/")
        return cls(name, version, run.data.tags[Tag.MODEL_ID])


@dataclass(frozen=True, slots=True)
class RecordedModel(RegisteredAdapter):
    """Where a full fine-tune is: the LoggedModel ``models:/<model_id>``, its own ``version``, registered nowhere."""

    @property
    def uri(self) -> str:
        """Address that MLflow's loaders take."""
        return f"models:/{self.model_id}"

    @property
    def tags(self) -> dict[str, str]:
        """What a run says of the model it made or scored."""
        return {Tag.MODEL_ID: self.model_id}

    @classmethod
    def of(cls, run: Run) -> RecordedModel:
        """Read the full fine-tune that a finished run names in its tags."""
        tags = run.data.tags
        source = Cell(tags[Tag.SOURCE_TASK], tags[Tag.SOURCE_LANGUAGE])
        return cls(registered_model(tags[Tag.BASE_MODEL], source), tags[Tag.MODEL_ID], tags[Tag.MODEL_ID])


def register_adapter(
    recording: Recording,
    folder: Path,
    *,
    name: str,
    tags: Mapping[str, object],
    metadata: Mapping[str, Any],
    description: str,
) -> RegisteredAdapter:
    """Store a PEFT folder as a LoggedModel of the run and register it as the next version of ``name``.

    Parameters
    ----------
    metadata
        What serving needs to know, written into ``MLmodel``: base, its revision, prompt style.
    """
    client = recording.client
    texts = {key: str(value) for key, value in tags.items()}
    model_id, found = _log_model(
        recording, folder, name=name, tags=texts, metadata=metadata, kind="lora-adapter", loader=LOADER
    )
    texts |= found
    _ensure_registered_model(client, name, tags)
    version = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=recording.run_id,
        tags=texts,
        description=description,
        model_id=model_id,
    )
    if int(version.version) > 1:
        _drop_leftovers(client, version, texts)
    # As `mlflow.register_model` does: by this tag the UI tells which version a model is.
    versions = json.dumps([{"name": name, "version": version.version}])
    client.set_logged_model_tags(model_id, found | {MLFLOW_MODEL_VERSIONS: versions, MLFLOW_RUN_NOTE: description})
    return RegisteredAdapter(name, str(version.version), model_id)


def _drop_leftovers(client: MlflowClient, made: ModelVersion, tags: Mapping[str, str]) -> None:
    """Delete versions of the same training that no finished run stands for, unless an alias names them.

    A request whose answer was lost is made again, and has then made two versions; a process that was killed between
    registering and the end of its run has left one.
    """
    same = f"name = '{made.name}' AND tags.{Tag.FINGERPRINT} = '{tags[Tag.FINGERPRINT]}'"
    for version in client.search_model_versions(same):
        if str(version.version) == str(made.version):  # a number from a database, a text from a server
            continue
        if version.run_id != made.run_id and not _failed(client, version.run_id):
            continue
        if not client.get_model_version(made.name, version.version).aliases:
            client.delete_model_version(made.name, version.version)


def _failed(client: MlflowClient, run_id: str | None) -> bool:
    """Whether a run ended without a result; of one that was removed for good nothing is known."""
    run = existing(client.get_run, str(run_id))
    return run is not None and run.info.status in ("KILLED", "FAILED")


def record_full_model(
    recording: Recording,
    folder: Path,
    *,
    name: str,
    tags: Mapping[str, object],
    metadata: Mapping[str, Any],
    description: str,
) -> RecordedModel:
    """Store a whole model's folder as a LoggedModel of the run; parameters as in :func:`register_adapter`."""
    texts = {key: str(value) for key, value in tags.items()} | {MLFLOW_RUN_NOTE: description}
    model_id, found = _log_model(
        recording, folder, name=name, tags=texts, metadata=metadata, kind="full-fine-tune", loader=FULL_LOADER
    )
    recording.client.set_logged_model_tags(model_id, found)
    return RecordedModel(name, model_id, model_id)


def download_adapter(client: MlflowClient, adapter: RegisteredAdapter, folder: Path, *, run: Run | None = None) -> Path:
    """Download an adapter's or a full fine-tune's folder, and see that it is what its training run recorded.

    Parameters
    ----------
    run
        The training run that names it; by default the one that the version names.

    Raises
    ------
    Refused
        If it is not, with what differs; see `registry.tracking.verification`.
    """
    recorded, place = _record_of(client, adapter, run)
    local = local_folder(place)
    if local is not None:
        check_places(local, adapter.uri)
    path = Path(mlflow.artifacts.download_artifacts(adapter.uri, dst_path=str(folder)))
    verify(path, recorded)
    return path


def _record_of(client: MlflowClient, adapter: RegisteredAdapter, run: Run | None) -> tuple[AdapterRecord, str]:
    """Return what is recorded of an adapter, and the address of its files."""
    if not isinstance(adapter, RecordedModel):
        recorded = version_record(client, adapter.name, adapter.version, run=run)
        return recorded, client.get_model_version_download_uri(adapter.name, adapter.version)
    recorded = model_record(client, adapter.model_id, full=True, run=run)
    return recorded, client.get_logged_model(adapter.model_id).artifact_location


def _log_model(
    recording: Recording,
    folder: Path,
    *,
    name: str,
    tags: dict[str, str],
    metadata: Mapping[str, Any],
    kind: str,
    loader: str,
) -> tuple[str, dict[str, str]]:
    """Store a folder, with an ``MLmodel`` added, as a LoggedModel of the run; return its id and the folder's digests.

    The digests become tags of the run, and of whatever the caller makes of the model: the folder is later held against
    them.
    """
    client = recording.client
    logged = client.create_logged_model(
        recording.experiment_id, name=name, source_run_id=recording.run_id, tags=tags, model_type=kind
    )
    _write_mlmodel(folder, run_id=recording.run_id, model_id=logged.model_id, metadata=metadata, loader=loader)
    found = digest_tags(folder)
    recording.tags(found)
    store_folder(client, logged.artifact_location, folder)
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(recording.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id), found


def _write_mlmodel(folder: Path, *, run_id: str, model_id: str, metadata: Mapping[str, Any], loader: str) -> None:
    model = Model(run_id=run_id, model_id=model_id, signature=SIGNATURE, metadata=dict(metadata))
    add_to_model(model, loader_module=loader, conda_env="conda.yaml", model_config={"base_path": "", "device": ""})
    (folder / "conda.yaml").write_text(conda_environment(), encoding="utf-8")
    model.save(str(folder / "MLmodel"))


def _ensure_registered_model(client: MlflowClient, name: str, tags: Mapping[str, object]) -> None:
    shared = (*_SUBJECT, Tag.MODEL_FAMILY)
    description = (
        f"LoRA adapters of **{tags[Tag.BASE_MODEL]}** fine-tuned on "
        f"**{tags[Tag.SOURCE_TASK]}/{tags[Tag.SOURCE_LANGUAGE]}**: a version for each seed and recipe."
    )
    try:
        client.create_registered_model(name, {key: str(tags[key]) for key in shared}, description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        require_own_name(name, client.get_registered_model(name).tags, tags)


def require_own_name(name: str, recorded: Mapping[str, str], wanted: Mapping[str, object]) -> None:
    """Refuse a registered name that holds adapters of another base or source cell.

    Parameters
    ----------
    recorded
        Tags of the registered model; one that was made by hand may have none.
    wanted
        Tags of the adapter that is to be registered.

    Raises
    ------
    Refused
        With both bases and cells.
    """
    theirs, ours = ({tag: str(tags[tag]) for tag in _SUBJECT if tag in tags} for tags in (recorded, wanted))
    if any(value != ours.get(tag) for tag, value in theirs.items()):
        raise Refused(
            f"the registered name {name} holds adapters of {'/'.join(theirs.values())}, and those of "
            f"{'/'.join(ours.values())} would get the same; give the base another name in the study: "
            "models: [{name: <another>, path: <its folder or hub id>}]"
        )
