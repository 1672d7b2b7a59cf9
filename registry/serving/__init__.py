"""A registered adapter as an MLflow pyfunc: questions and options in, choices with their probabilities out.

``MLmodel`` names this package as its loader. What the table of a request holds is told in
``registry/tracking/signature.py``; other adapters of the same base are served beside the one that was loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from registry.config.yaml_text import read_yaml
from registry.errors import Refused
from registry.lora.adapter import read_adapter
from registry.models.base import trained_base
from registry.models.loading import load_base, load_tokenizer
from registry.serving.model import AdapterModel
from registry.serving.shelf import InMemory, Shelf, read_told
from registry.tracking.folders import META
from registry.tracking.names import Tag
from registry.tracking.verification import verify, verify_as_found, version_record

__all__ = ["AdapterModel", "device"]


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> AdapterModel:
    """Load an adapter's folder on its base, held as it was trained; called by MLflow.

    Parameters
    ----------
    model_config
        ``base_path``: folder of the base model, for a base that is neither built in nor on the hub. ``device``: where
        it goes; the first GPU by default, else the CPU. Without ``base_path``, a base in a folder is looked for where
        it was when the adapter was trained.

    Raises
    ------
    Refused
        If the base here is not the one the adapter was trained on, or the folder is not what was recorded.
    """
    config = model_config or {}
    folder = Path(path)
    name, version = _as_registered(folder)
    _check(folder, version)
    # The folder itself says how the study that trained it asks; a later one may have evaluated it in another way.
    tags = {} if version is None else dict(version.tags)
    told = read_told(folder).evaluated(tags)
    base = trained_base(
        told.base,
        told.revision,
        config.get("base_path") or "",
        hint=tags.get(Tag.BASE_PATH, ""),
        remedy="name its folder with model_config={'base_path': folder}",
    )
    held = InMemory(told.precision, told.quantization)
    model = load_base(base, dtype=held.dtype, device=device(config), quantization=held.quantization)
    return AdapterModel(
        model,
        load_tokenizer(base),
        told.prompt,
        base,
        chat=told.chat,
        day=told.day,
        adapter=read_adapter(folder),
        name=name,
        version=version,
        shelf=Shelf(base, held),
    )


def device(config: dict[str, Any]) -> str:
    """Return where a base goes: where `model_config` says, else the first GPU, else the CPU."""
    import torch

    return config.get("device") or ("cuda:0" if torch.cuda.is_available() else "cpu")


def _as_registered(folder: Path) -> tuple[str, ModelVersion | None]:
    """Return the name of the version that a folder was downloaded for, and that version; None where it is not known.

    A folder may have been carried away from its registry. It is then served as it lies, and never looked up.
    """
    if not (folder / META).is_file():
        return "", None
    _, meta = read_yaml(folder / META)
    if not isinstance(meta, dict) or not meta.get("model_name"):
        return "", None
    name, number = str(meta["model_name"]), str(meta.get("model_version"))
    try:
        return f"{name}/{number}", MlflowClient().get_model_version(name, number)
    except MlflowException:
        return f"{name}/{number}", None


def _check(folder: Path, version: ModelVersion | None) -> None:
    """Hold a folder against what is recorded of its version, or see at least that it is one of a study's."""
    if version is None:
        verify_as_found(folder, MlflowClient())
        return
    try:
        verify(folder, version_record(MlflowClient(), version.name, str(version.version)))
    except Refused as error:
        raise Refused(f"{error}; to serve the folder as it lies, remove {META} from it") from None
