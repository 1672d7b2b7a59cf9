"""A registered adapter as an MLflow pyfunc: questions and options in, choices with their probabilities out.

``MLmodel`` names this package as its loader. What the table of a request holds is told in
``registry/tracking/signature.py``; other adapters of the same base are served beside the one that was loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.loading import load_base, load_tokenizer
from registry.lora.adapter import read_adapter
from registry.models import trained_base
from registry.serving.model import AdapterModel
from registry.serving.shelf import InMemory, Shelf, Told, read_told

__all__ = ["AdapterModel", "device"]

_META = "registered_model_meta"  # written by MLflow into what it downloads for a registered version


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> AdapterModel:
    """Load an adapter's folder on its base, held as it was trained; called by MLflow.

    Parameters
    ----------
    model_config
        ``base_path``: folder of the base model, for a base that is neither built in nor on the hub. ``device``: where
        it goes; the first GPU by default, else the CPU.

    Raises
    ------
    Refused
        If the base here is not the one the adapter was trained on.
    """
    config = model_config or {}
    told = read_told(Path(path))
    base = trained_base(
        told.base,
        told.revision,
        config.get("base_path") or "",
        remedy="a base in a folder is named by model_config={'base_path': folder}",
    )
    held = InMemory(told.precision, told.quantization)
    model = load_base(base, dtype=held.dtype, device=device(config), quantization=held.quantization)
    name, told = _as_registered(Path(path), told)
    return AdapterModel(
        model,
        load_tokenizer(base),
        told.prompt,
        base,
        chat=told.chat,
        day=told.day,
        adapter=read_adapter(Path(path)),
        name=name,
        shelf=Shelf(base, held),
    )


def device(config: dict[str, Any]) -> str:
    """Return where a base goes: where `model_config` says, else the first GPU, else the CPU."""
    import torch

    return config.get("device") or ("cuda:0" if torch.cuda.is_available() else "cpu")


def _as_registered(folder: Path, told: Told) -> tuple[str, Told]:
    """Return the name of the version a folder was downloaded for, and how it was last evaluated.

    The folder itself says how the study that trained it asks; a later one may have evaluated it in another way.
    """
    if not (folder / _META).is_file():
        return "", told
    meta = yaml.safe_load((folder / _META).read_text(encoding="utf-8"))
    name, number = str(meta["model_name"]), str(meta["model_version"])
    try:
        tags = MlflowClient().get_model_version(name, number).tags
    except MlflowException:  # a folder that was carried away from its registry
        return f"{name}/{number}", told
    return f"{name}/{number}", told.evaluated(tags)
