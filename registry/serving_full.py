"""A full fine-tune as an MLflow pyfunc; it needs no base model, its folder holds the whole model.

MLflow calls ``_load_pyfunc`` of the module that a model's ``MLmodel`` names. Stores name ``registry.serving_full``, so
this module keeps its place and name; it is not part of ``registry.serving``, which is the loader of adapters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from registry.config.study import BaseSpec
from registry.models.base import resolve_base
from registry.models.loading import load_base, load_tokenizer
from registry.serving import AdapterModel, device
from registry.serving.metadata import read_metadata
from registry.tracking.verification import verify_as_found


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> AdapterModel:
    """Load a full fine-tune's folder; called by MLflow."""
    folder = Path(path)
    verify_as_found(folder, MlflowClient(), full=True)
    metadata = read_metadata(folder, full=True)
    base = resolve_base(BaseSpec(name=metadata.base, path=path))
    model = load_base(base, dtype=metadata.weight_format.dtype, device=device(model_config or {}))
    return AdapterModel(model, load_tokenizer(base), metadata.prompt, base, chat=metadata.chat, day=metadata.day)
