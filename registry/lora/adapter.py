"""LoRA adapters on a resident base: attached, merged in memory for scoring, saved, and taken off again.

The base model's own weights never change: merging puts new tensors in their place and keeps the old ones, so that
what is left after any number of adapters is the base bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from registry.study import LoraSpec

__all__ = ["attached", "load_adapter", "loaded", "merged", "save_adapter"]

_NAME = "default"


@contextmanager
def attached(base: PreTrainedModel, spec: LoraSpec, *, seed: int) -> Iterator[PeftModel]:
    """Attach a fresh adapter whose initial weights are decided by ``seed``; the base is restored on exit.

    Raises
    ------
    ValueError
        If the base has none of the projections the adapter names.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        lora_dropout=spec.dropout,
        target_modules=list(spec.targets),
    )
    with torch.random.fork_rng(), _old_name():
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
    try:
        yield model
    finally:
        model.unload()


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Attach the adapter saved in a PEFT folder, for good."""
    with _old_name():
        model: PeftModel = PeftModel.from_pretrained(base, str(folder), use_safetensors=True)
    return model


@contextmanager
def loaded(base: PreTrainedModel, folder: Path) -> Iterator[PeftModel]:
    """Attach the adapter saved in a PEFT folder; the base is restored on exit."""
    model = load_adapter(base, folder)
    try:
        yield model
    finally:
        model.unload()


@contextmanager
def merged(model: PeftModel) -> Iterator[PreTrainedModel]:
    """Put base + adapter in the place of the base's weights for a while; restored bit for bit, never subtracted."""
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    kept: list[Tensor] = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, kept, strict=True):
            layer.get_base_layer().weight.data = weight + layer.get_delta_weight(_NAME).to(weight.dtype)
            layer.enable_adapters(enabled=False)
        yield model.get_base_model()  # type: ignore[misc]
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.get_base_layer().weight.data = weight
            layer.enable_adapters(enabled=True)


def save_adapter(model: PeftModel, folder: Path, *, base_reference: str, base_revision: str | None) -> None:
    """Write a PEFT folder: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Parameters
    ----------
    base_reference
        What the configuration names as its base: a hub id, never a path of this machine.
    """
    config = model.peft_config[_NAME]
    config.base_model_name_or_path, config.revision = base_reference, base_revision
    # "auto" would ask the hub whether the base's vocabulary was resized; adapters here never touch embeddings.
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template card, all of it placeholders


@contextmanager
def _old_name() -> Iterator[None]:
    """Keep to itself that PEFT asks transformers for a property under its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
