"""A full fine-tune as an MLflow pyfunc; it needs no base, its folder holds the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from registry.config.study import BaseSpec
from registry.models.base import resolve_base
from registry.models.loading import load_base, load_tokenizer
from registry.serving import AdapterModel, device
from registry.serving.shelf import InMemory, read_told
from registry.tracking.verification import verify_as_found


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> AdapterModel:
    """Load a full fine-tune's folder; called by MLflow."""
    verify_as_found(Path(path), MlflowClient(), full=True)
    told = read_told(Path(path), full=True)
    base = resolve_base(BaseSpec(name=told.base, path=path))
    model = load_base(base, dtype=InMemory(told.precision).dtype, device=device(model_config or {}))
    return AdapterModel(model, load_tokenizer(base), told.prompt, base, chat=told.chat, day=told.day)
