"""A registered adapter as an MLflow pyfunc: questions and options in, choices with their probabilities out.

``MLmodel`` names this package as its loader. The table of a request is described in
``registry/tracking/signature.py``; other adapters of the same base model are served beside the one that was loaded.
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
from registry.serving.adapter_cache import AdapterCache
from registry.serving.metadata import read_metadata
from registry.serving.model import AdapterModel
from registry.tracking.folders import META
from registry.tracking.names import Tag
from registry.tracking.verification import verify, verify_as_found, version_record

__all__ = ["AdapterModel", "device"]


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> AdapterModel:
    """Load an adapter's folder on its base model, in the weight format of its training; called by MLflow.

    Parameters
    ----------
    model_config
        ``base_path``: folder of the base model, for a base that is neither built in nor on the hub. ``device``: where
        it goes; the first GPU by default, else the CPU. Without ``base_path``, a base model in a folder is looked for
        where it was when the adapter was trained.

    Raises
    ------
    Refused
        If the base model here is not the one the adapter was trained on, or the folder is not what was recorded.
    """
    config = model_config or {}
    folder = Path(path)
    name, version = _as_registered(folder)
    _check(folder, version)
    # The folder records how the study that trained it puts questions; a later one may have evaluated it differently.
    tags = {} if version is None else dict(version.tags)
    metadata = read_metadata(folder).evaluated(tags)
    base = trained_base(
        metadata.base,
        metadata.revision,
        config.get("base_path") or "",
        hint=tags.get(Tag.BASE_PATH, ""),
        remedy="name its folder with model_config={'base_path': folder}",
    )
    weights = metadata.weight_format
    model = load_base(base, dtype=weights.dtype, device=device(config), quantization=weights.quantization)
    return AdapterModel(
        model,
        load_tokenizer(base),
        metadata.prompt,
        base,
        chat=metadata.chat,
        day=metadata.day,
        adapter=read_adapter(folder),
        name=name,
        version=version,
        cache=AdapterCache(base, weights),
    )


def device(config: dict[str, Any]) -> str:
    """Return the device of a base model: that of ``model_config``, else the first GPU, else the CPU."""
    import torch

    return config.get("device") or ("cuda:0" if torch.cuda.is_available() else "cpu")


def _as_registered(folder: Path) -> tuple[str, ModelVersion | None]:
    """Return the name of the version that a folder was downloaded for, and that version; None where it is not known.

    A folder may have been moved away from its registry. It is then served as it is, and never looked up.
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
    """Compare a folder with what is recorded of its version; without one, check that a study wrote it."""
    if version is None:
        verify_as_found(folder, MlflowClient())
        return
    try:
        verify(folder, version_record(MlflowClient(), version.name, str(version.version)))
    except Refused as error:
        raise Refused(f"{error}; to serve the folder as it is, remove {META} from it") from None
