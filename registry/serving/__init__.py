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
from registry.serving.shelf import InMemory, Shelf, read_told
from registry.tracking.names import Tag

__all__ = ["AdapterModel", "device"]

_META = "registered_model_meta"  # written by MLflow into what it downloads for a registered version


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
        If the base here is not the one the adapter was trained on.
    """
    config = model_config or {}
    name, tags = _registered(Path(path))
    told = read_told(Path(path)).evaluated(tags)
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
        adapter=read_adapter(Path(path)),
        name=name,
        shelf=Shelf(base, held),
    )


def device(config: dict[str, Any]) -> str:
    """Return where a base goes: where `model_config` says, else the first GPU, else the CPU."""
    import torch

    return config.get("device") or ("cuda:0" if torch.cuda.is_available() else "cpu")


def _registered(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the name of the version that a folder was downloaded for, and that version's tags.

    The folder itself says how the study that trained it asks; a later one may have evaluated it in another way.
    """
    if not (folder / _META).is_file():
        return "", {}
    meta = yaml.safe_load((folder / _META).read_text(encoding="utf-8"))
    name, number = str(meta["model_name"]), str(meta["model_version"])
    try:
        return f"{name}/{number}", dict(MlflowClient().get_model_version(name, number).tags)
    except MlflowException:  # a folder that was carried away from its registry
        return f"{name}/{number}", {}
