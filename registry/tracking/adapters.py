"""Adapters as model versions: a LoggedModel whose root is the PEFT folder, registered per (base, source cell).

The folder serves three readers as it lies: PEFT and vLLM read ``adapter_config.json`` and
``adapter_model.safetensors``, MLflow reads the ``MLmodel`` beside them; ``README.md`` is its card. Nothing is pickled.

A full fine-tune is a LoggedModel too, whose root is a model's folder as ``from_pretrained`` reads it. It is a model of
its own, not an adapter of a base, and is not registered as a version.
"""

from __future__ import annotations

import hashlib
import json
import shutil
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
from registry.project import PROJECT
from registry.refusal import Refused
from registry.tracking.names import Tag, registered_model
from registry.tracking.recording import Recording, store_folder
from registry.tracking.signature import SIGNATURE

__all__ = [
    "RESTORE",
    "RecordedModel",
    "RegisteredAdapter",
    "download_adapter",
    "record_full_model",
    "register_adapter",
    "weights_digest",
]

#: What helps where files are not where they were recorded: they may have been moved, or not be mounted.
RESTORE = "bring its folder back, or see what is missing: mlflow run . -e doctor --env-manager local -P study=<study>"

#: Module whose ``_load_pyfunc`` MLflow calls to serve an adapter.
LOADER = "registry.serving"

#: The same for a full fine-tune.
FULL_LOADER = "registry.serving_full"


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
    texts = {key: str(value) for key, value in tags.items()} | {Tag.DIGEST: weights_digest(folder)}
    model_id = _log_model(
        recording, folder, name=name, tags=texts, metadata=metadata, kind="lora-adapter", loader=LOADER
    )
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
    client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: versions, MLFLOW_RUN_NOTE: description})
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
    try:
        return client.get_run(str(run_id)).info.status in ("KILLED", "FAILED")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


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
    texts = {key: str(value) for key, value in tags.items()} | {Tag.DIGEST: weights_digest(folder)}
    texts[MLFLOW_RUN_NOTE] = description
    model_id = _log_model(
        recording, folder, name=name, tags=texts, metadata=metadata, kind="full-fine-tune", loader=FULL_LOADER
    )
    return RecordedModel(name, model_id, model_id)


def download_adapter(client: MlflowClient, adapter: RegisteredAdapter, folder: Path) -> Path:
    """Download an adapter's or a full fine-tune's folder and check its weights against the digest recorded with it."""
    path = Path(mlflow.artifacts.download_artifacts(adapter.uri, dst_path=str(folder)))
    if isinstance(adapter, RecordedModel):
        recorded = client.get_logged_model(adapter.model_id).tags
    else:
        recorded = client.get_model_version(adapter.name, adapter.version).tags
    if not any(path.glob("*.safetensors")):
        raise Refused(f"{adapter.uri}: its weights are gone from the artifact store; {RESTORE}")
    wanted, found = recorded.get(Tag.DIGEST), weights_digest(path)
    if found != wanted:
        raise Refused(f"{adapter.uri}: its weights have SHA-256 {found}, {wanted} was recorded; train it again")
    return path


def weights_digest(folder: Path) -> str:
    """SHA-256 of the one safetensors file of a folder, or over those of its files in the order of their names."""
    digests = []
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _log_model(
    recording: Recording,
    folder: Path,
    *,
    name: str,
    tags: dict[str, str],
    metadata: Mapping[str, Any],
    kind: str,
    loader: str,
) -> str:
    """Store a folder, with an ``MLmodel`` added, as a LoggedModel of the run, and return its id."""
    client = recording.client
    logged = client.create_logged_model(
        recording.experiment_id, name=name, source_run_id=recording.run_id, tags=tags, model_type=kind
    )
    _write_mlmodel(folder, run_id=recording.run_id, model_id=logged.model_id, metadata=metadata, loader=loader)
    store_folder(client, logged.artifact_location, folder)
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(recording.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def _write_mlmodel(folder: Path, *, run_id: str, model_id: str, metadata: Mapping[str, Any], loader: str) -> None:
    model = Model(run_id=run_id, model_id=model_id, signature=SIGNATURE, metadata=dict(metadata))
    add_to_model(model, loader_module=loader, conda_env="conda.yaml", model_config={"base_path": "", "device": ""})
    shutil.copyfile(PROJECT / "conda.yaml", folder / "conda.yaml")
    model.save(str(folder / "MLmodel"))


def _ensure_registered_model(client: MlflowClient, name: str, tags: Mapping[str, object]) -> None:
    shared = (Tag.BASE_MODEL, Tag.MODEL_FAMILY, Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE)
    description = (
        f"LoRA adapters of **{tags[Tag.BASE_MODEL]}** fine-tuned on "
        f"**{tags[Tag.SOURCE_TASK]}/{tags[Tag.SOURCE_LANGUAGE]}**: a version for each seed and recipe."
    )
    try:
        client.create_registered_model(name, {key: str(tags[key]) for key in shared}, description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
