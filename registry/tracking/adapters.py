"""Adapters as model versions: a LoggedModel whose root is the PEFT folder, registered per (base, source cell).

The folder serves three readers as it lies: PEFT and vLLM read ``adapter_config.json`` and
``adapter_model.safetensors``, MLflow reads the ``MLmodel`` beside them. Nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import add_to_model
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from registry.refusal import Refused
from registry.tracking.names import Tag
from registry.tracking.runs import Recording
from registry.tracking.store import PROJECT

__all__ = ["RegisteredAdapter", "download_adapter", "register_adapter", "weights_digest"]

#: Module whose ``_load_pyfunc`` MLflow calls to serve an adapter.
LOADER = "registry.serving"

_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "question"), ColSpec(Array(DataType.string), "options")]),
    outputs=Schema([ColSpec(DataType.string, "choice"), ColSpec(Array(DataType.double), "probabilities")]),
)


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
        """Read the adapter that a finished fine-tune or evaluation names in its tags."""
        name, _, version = run.data.tags[Tag.MODEL_VERSION].rpartition("/")
        return cls(name, version, run.data.tags[Tag.MODEL_ID])


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
    logged = client.create_logged_model(
        recording.experiment_id, name=name, source_run_id=recording.run_id, tags=texts, model_type="lora-adapter"
    )
    _write_mlmodel(folder, run_id=recording.run_id, model_id=logged.model_id, metadata=metadata)
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(recording.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    _ensure_registered_model(client, name, tags)
    version = client.create_model_version(
        name,
        source=f"models:/{logged.model_id}",
        run_id=recording.run_id,
        tags=texts,
        description=description,
        model_id=logged.model_id,
    )
    return RegisteredAdapter(name, str(version.version), logged.model_id)


def download_adapter(client: MlflowClient, adapter: RegisteredAdapter, folder: Path) -> Path:
    """Download an adapter's PEFT folder and check its weights against the digest recorded with the version."""
    path = Path(mlflow.artifacts.download_artifacts(adapter.uri, dst_path=str(folder)))
    wanted = client.get_model_version(adapter.name, adapter.version).tags.get(Tag.DIGEST)
    found = weights_digest(path)
    if found != wanted:
        raise Refused(f"{adapter.uri}: its weights have SHA-256 {found}, {wanted} was recorded; train it again")
    return path


def weights_digest(folder: Path) -> str:
    """SHA-256 of ``adapter_model.safetensors``."""
    with (folder / "adapter_model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_mlmodel(folder: Path, *, run_id: str, model_id: str, metadata: Mapping[str, Any]) -> None:
    model = Model(run_id=run_id, model_id=model_id, signature=_SIGNATURE, metadata=dict(metadata))
    add_to_model(model, loader_module=LOADER, conda_env="conda.yaml", model_config={"base_path": ""})
    shutil.copyfile(PROJECT / "conda.yaml", folder / "conda.yaml")
    model.save(str(folder / "MLmodel"))


def _ensure_registered_model(client: MlflowClient, name: str, tags: Mapping[str, object]) -> None:
    shared = (Tag.BASE_MODEL, Tag.MODEL_FAMILY, Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE)
    try:
        client.create_registered_model(name, tags={key: str(tags[key]) for key in shared})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
